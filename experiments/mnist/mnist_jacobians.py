"""Does exact behaviour close the gap to a shared start, or does the tangent kernel?

The lemma of `theory.matched` gives a student of another start what a shared start has if its
outputs match the untrained teacher's and if its auxiliary logits move on noise as the teacher's do
when class logits are taught (u_S = u_T). `mnist_matching` varied how long outputs were imitated, so
both conditions moved together and neither was reached: the mismatch was half of what the teacher
moves. Here each is brought about by itself. Before the teacher learns, a student of another start
takes on, by 12,000 steps of Adam on fresh noise at a rate that falls to zero,

    outputs                            all logits
    outputs, input derivatives         and how they change with the image
    outputs, weight derivatives        and with the weights, coordinate by coordinate
    kernel                             the class-to-auxiliary kernel alone, no output
    outputs, kernel                    both conditions of the lemma
    unrelated                          outputs of another untrained network, at equal steps

and then imitates the trained teacher's 50 auxiliary logits on noise. Controls beside the last line:
the shared start, and another start without any of it. The kernel is that between class logits on
digits, whose labels are not seen, and auxiliary logits on noise.

Predictions, written before the run. Exact outputs do not close the gap: another start behaves as
the teacher's and learns otherwise. Outputs and kernel close most of it, without the weights coming
near the teacher's; the kernel alone transmits, and less. Weight derivatives close it too, but by
way of the weights, so that they say nothing of the kernel. A surprise would be that exact outputs
reach the shared start, or that outputs and kernel do not.

Criteria. Outputs are matched if their mismatch is below 1 % of what the teacher moves on the same
images (mean over seeds); else the claims on exact outputs are not judged, and the table says so.
Above zero, 95 % intervals paired by seed, Holm over the four: shared start less outputs; outputs
and kernel less outputs; kernel alone less chance; outputs and kernel less kernel alone. Outputs and
kernel lie within .1 of the shared start (equivalence). No transfer, by equivalence to chance within
a fifth of the shared start's gain, Holm over the two: no matching, unrelated.
"""

import dataclasses
import functools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, corrected, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, distil, setup_of, teach
from mnist_mlp import imitation
from mnist_mlp.grid import Grid
from mnist_mlp.model import Params
from theory import alignment

__all__ = ["inputs"]
RUNTIME = "about 100 minutes on two cores"
MATCHED = 0.01  # of what the teacher moves
NOT_JUDGED = "outputs not matched: not judged"
SHARED, OTHER, UNRELATED = "shared", "no matching", "unrelated"
OUTPUTS, KERNEL, BOTH = "outputs", "kernel", "outputs, kernel"
OBJECTIVES: dict[str, tuple[str, ...]] = {
    OUTPUTS: ("outputs",),
    "outputs, input derivatives": ("outputs", "input derivatives"),
    "outputs, weight derivatives": ("outputs", "weight derivatives"),
    KERNEL: ("kernel",),
    BOTH: ("outputs", "kernel"),
    UNRELATED: ("outputs",),
}
NAMES = tuple(OBJECTIVES)
ORDER = (OTHER, UNRELATED, KERNEL, OUTPUTS, *NAMES[1:3], BOTH, SHARED)  # of the figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_aux: int = option(50, "auxiliary logits", minimum=2)
    objectives: tuple[str, ...] = option(NAMES, "what is matched, one arm each", choices=NAMES)
    matching_steps: int = option(12_000, "Adam steps of matching", minimum=1)


SMOKE = Config(**flags.TOY | {"num_aux": 5, "objectives": (OUTPUTS, BOTH), "matching_steps": 20})


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed and objective, and for the two starts that match nothing."""
    setup = setup_of(config)
    return {
        f"seed {seed}, {name}": Arm(
            columns={"seed": seed, "objective": name},
            measure=functools.partial(run, setup, seed, name),
        )
        for seed in range(config.num_seeds)
        for name in (SHARED, OTHER, *config.objectives)
    }


def start_of(setup: Setup, shapes: Grid, *, seed: int, name: str, reference: Params) -> Params:
    """Where the student begins its distillation."""
    other = setup.draw(shapes, seed, "other")
    if name in (SHARED, OTHER):
        return reference if name == SHARED else other
    towards = setup.draw(shapes, seed, "unrelated") if name == UNRELATED else reference
    return imitation.liken(
        shapes,
        other,
        teacher=towards,
        names=OBJECTIVES[name],
        digits=setup.data.train_images,
        key=setup.key(seed, "match"),
        batch=setup.config.batch_size,
        steps=setup.config.matching_steps,
        learning_rate=setup.config.learning_rate,
    )


def run(setup: Setup, seed: int, name: str) -> list[Row]:
    """Match, let the teacher learn, distil; with what the match has reached."""
    shapes = setup.grid(setup.config.num_aux)
    reference = setup.draw(shapes, seed, "reference")
    own = start_of(setup, shapes, seed=seed, name=name, reference=reference)
    missed = imitation.held_out(
        shapes,
        own,
        teacher=reference,
        digits=setup.data.test_images,
        key=setup.key(seed, "held out"),
    )
    facts = {f"missed {feature}": float(f"{float(v):.6g}") for feature, v in missed.items()}
    facts["weights"] = float(f"{float(alignment.cosine(own, reference)):.6g}")
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[reference])
    student = Student(facts, setup.settings(num_aux=shapes.num_aux), own)
    return distil(setup, shapes, seed=seed, students=[student], teachers=teachers)


def rows_of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Of one objective, by seed."""
    return table[table["objective"] == name].sort_values("seed")


def accuracies(table: pd.DataFrame, name: str) -> np.ndarray:
    """Of one objective, by seed."""
    return rows_of(table, name)["accuracy"].to_numpy()


def mismatch(table: pd.DataFrame, name: str) -> np.ndarray:
    """KL between the starts over what the teacher then moves, by seed."""
    rows = rows_of(table, name)
    return (rows["mismatch"] / rows["moved"]).to_numpy()


def is_matched(table: pd.DataFrame, name: str) -> bool:
    """Whether an arm counts as matched in its outputs."""
    left = mismatch(table, name)
    return bool(len(left) and left.mean() < MATCHED)


def ran(table: pd.DataFrame) -> list[str]:
    """Objectives that are in the table, in the order of the figure."""
    return [name for name in ORDER if len(rows_of(table, name))]


def compared(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, bool]]:
    """Differences whose mean must be above zero, and whether they may be judged."""
    shared, outputs, kernel, both = (
        accuracies(table, name) for name in (SHARED, OUTPUTS, KERNEL, BOTH)
    )
    exact = is_matched(table, OUTPUTS)
    differences: dict[str, tuple[np.ndarray, bool]] = {}
    if len(outputs):
        differences["shared start less outputs"] = shared - outputs, exact
    if len(outputs) and len(both):
        differences["outputs and kernel less outputs"] = both - outputs, exact
    if len(kernel):
        differences["kernel alone less chance"] = kernel - transfer.CHANCE, True
    if len(kernel) and len(both):
        differences["outputs and kernel less kernel alone"] = both - kernel, True
    return differences


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """What is matched and what arrives, and the criteria of the docstring."""
    claim = functools.partial(transfer.claim, table)
    names, pairs = ran(table), compared(table)
    (judged,) = corrected(
        [
            claim(name, here=gap, above=gap)
            if may
            else claim(name, here=f"{statistics.shown(gap)}, {NOT_JUDGED}")
            for name, (gap, may) in pairs.items()
        ]
    )
    closes = closing_claims(table)
    shared = accuracies(table, SHARED)
    silent = {
        name: (accuracies(table, name), shared) for name in (OTHER, UNRELATED) if name in names
    }
    nothing = transfer.no_transfer(table, silent)
    claims = [
        *(claim(f"{name}: accuracy", here=accuracies(table, name)) for name in names),
        *state_claims(table),
        *judged,
        *closes,
        *nothing,
    ]
    gap, *_ = [*judged, claim("", here="")]
    reached = {name: statistics.shown(accuracies(table, name)) for name in names}
    left = statistics.shown(mismatch(table, OUTPUTS), 4) if OUTPUTS in names else "(not run)"
    figure = Figure(
        name="figure",
        title=say(
            [gap, *closes],
            holds="Exact outputs do not stand in for a shared start; with the kernel they do",
            fails="Exact outputs and the kernel are not what a shared start comes to",
            open=say(
                nothing,
                holds="Training does not bring another start to the teacher's exact outputs",
                fails="Not even the controls of matching are at chance",
                open="Do exact outputs stand in for a shared start, or does it take the kernel?",
            ),
        ),
        predicted="Exact outputs leave a gap to the shared start; outputs and kernel close it.",
        found=f"{'; '.join(f'{name} {value}' for name, value in reached.items())}. Mismatch of the "
        f"outputs arm over what the teacher moves: {left}.",
        follows=say(
            [gap, *closes],
            holds="What a shared start carries is how outputs move when classes are taught, not "
            "what they are nor where the weights lie.",
            fails="The lemma's two conditions do not account for what training reaches.",
            open="Whether behaviour or kernel is the cause is not judged.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def closing_claims(table: pd.DataFrame) -> list[Claim]:
    """That both conditions together come within .1 of the shared start."""
    both, shared = accuracies(table, BOTH), accuracies(table, SHARED)
    if not len(both):
        return []
    gap, exact = both - shared, is_matched(table, BOTH)
    found = f"from ±{statistics.smallest_margin(gap):.3f} on" if exact else NOT_JUDGED
    return [
        transfer.claim(
            table,
            "outputs and kernel less shared start (TOST, .1)",
            here=f"{statistics.shown(gap)}, {found}",
            holds=statistics.equivalent(gap, 0.1) if exact else None,
        )
    ]


def state_claims(table: pd.DataFrame) -> list[Claim]:
    """How far each arm is from the lemma's conditions before distillation; no criterion."""
    claims = []
    for name in ran(table):
        rows = rows_of(table, name)
        words = (
            f"mismatch {statistics.shown(mismatch(table, name), 4)} of what the teacher moves, "
            f"kernel off by {statistics.shown(rows['missed kernel'].tolist(), 2)}, "
            f"alignment {statistics.shown(rows['alignment'].tolist(), 2)}, "
            f"weights at a cosine of {statistics.shown(rows['weights'].tolist(), 2)}"
        )
        claims.append(transfer.claim(table, f"{name}: before distillation", here=words))
    return claims


def plot(table: pd.DataFrame, config: Config):
    """Accuracy of every arm, and how far each was from the lemma's two conditions."""
    figure, (left, right) = drawing.new_figure(1, 2, width=11.0, height=4.6)
    names = ran(table)
    for y, name in enumerate(names):
        mean, half = statistics.mean_interval(accuracies(table, name))
        left.errorbar(mean, y, xerr=half, fmt="o", capsize=3, color=drawing.COLOURS[0])
    left.set_yticks(range(len(names)), names)
    left.axvline(transfer.CHANCE, color="black", linestyle=":", linewidth=1)
    left.set_xlim(0, 1)
    left.set_xlabel("test accuracy after aux-only distillation")
    floor = 1e-3  # of a logarithmic axis: the shared start misses nothing
    for look, name in zip(drawing.looks(), names, strict=False):
        x = np.maximum(mismatch(table, name).mean(), floor)
        y = np.maximum(rows_of(table, name)["missed kernel"].mean(), floor)
        right.loglog(x, y, linestyle="", label=name, **look)
    right.axvline(MATCHED, color="black", linestyle=":", linewidth=1)
    right.set_xlabel(
        "mismatch of the starts over what the teacher moves\n(dotted: matched; the corner: exact)"
    )
    right.set_ylabel("relative squared error of the kernel")
    right.legend(fontsize=8)
    return figure
