"""Does the channel need the lemma's two conditions? Each is broken by itself, exactly.

The lemma of `theory.matched` gives a student of another start what a shared start has, at the first
step, if its outputs match the untrained teacher's and if its auxiliary logits move on noise as the
teacher's do when class logits are taught: exact outputs and an equal tangent kernel are enough. Are
they needed? `mnist_jacobians` could not tell: training another start towards the teacher's outputs
left them off by a sixth of what the teacher moves. Here nothing is trained, the weights are made:

    rescaled   what enters a hidden ReLU unit times c, what leaves it over c, log c normal with the
               spread named: the same outputs on every input, another kernel
    offset     normal numbers on the auxiliary biases, as large as two starts differ: the same
               kernel, other outputs
    both       the second on top of the first
    stranger   another start, and the same rescaled

Students imitate 50 auxiliary logits on noise, by Adam as in the official recipe, and by gradient
descent with momentum, of which the lemma speaks, at a larger rate for more epochs.

Predictions, written before the run and after a look at two seeds of another root seed (900): none
of the conditions is needed. What a start must share is its units, up to order and scale.

Criteria, for both optimisers, at the largest spread of the rescaled starts. The conditions are
broken: the alignment of the rescaled start lies below .5 (95 % interval), and the offset start
differs from the teacher's by more than half of what a stranger does (mismatch, paired, above zero).
Above zero, paired by seed, Holm over these and the following: rescaled, offset and both keep more
than half of the shared start's gain over chance. No transfer, by equivalence to chance within a
fifth of the shared start's gain, Holm over the four: both strangers.
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
from experiments.mnist.kit.training import Setup, Student, by_seed, distil, setup_of, teach
from mnist_mlp import starts
from mnist_mlp.grid import Grid
from mnist_mlp.model import Params

__all__ = ["inputs"]
RUNTIME = "10 minutes on two cores"
SHARED, OFFSET, BOTH = "shared", "offset", "rescaled and offset"
STRANGER, MOVED = "stranger", "stranger, rescaled"
OPTIMISERS = ("Adam", "momentum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_seeds: int = option(16, "independent teachers, each with all arms", minimum=2)
    num_aux: int = option(50, "auxiliary logits", minimum=2)
    spreads: tuple[float, ...] = option((0.25, 0.5, 1.0), "of log c, rising", above=0)
    # √(2/12): pixels in [-1, 1] give logits of a variance of 1/12.
    offset: float = option(0.41, "spread of what is added to auxiliary biases", above=0)
    momentum_rate: float = option(0.3, "step size of gradient descent, momentum .9", above=0)
    momentum_epochs: int = option(20, "epochs of students that descend with momentum", minimum=1)
    seed: int = option(3, "root of every random key", minimum=0)


SMOKE = Config(**flags.TOY | {"num_aux": 5, "spreads": (1.0,), "momentum_epochs": 2})


def arms(config: Config) -> dict[str, Arm]:
    """One arm a seed."""
    return by_seed(setup_of(config), run_seed)


def rescaled(spread: float) -> str:
    """The name of a start."""
    return f"rescaled by {spread:g}"


def starts_of(setup: Setup, shapes: Grid, seed: int) -> dict[str, Params]:
    """Where students begin, by name."""
    config = setup.config
    own, other = (setup.draw(shapes, seed, name) for name in ("reference", "other"))
    scale, shift = setup.key(seed, "rescaled"), setup.key(seed, "offset")
    widest = starts.rescaled(scale, own, config.spreads[-1])
    return (
        {SHARED: own}
        | {rescaled(spread): starts.rescaled(scale, own, spread) for spread in config.spreads}
        | {
            OFFSET: starts.offset(shift, own, config.offset, shapes.num_classes),
            BOTH: starts.offset(shift, widest, config.offset, shapes.num_classes),
            STRANGER: other,
            MOVED: starts.rescaled(scale, other, config.spreads[-1]),
        }
    )


def run_seed(setup: Setup, seed: int) -> list[Row]:
    """All starts side by side, taught by one teacher, by either optimiser."""
    config = setup.config
    shapes = setup.grid(config.num_aux)
    begun = starts_of(setup, shapes, seed)
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[begun[SHARED]])
    learning = functools.partial(setup.settings, num_aux=config.num_aux)
    descent = learning(adaptive=0.0, learning_rate=config.momentum_rate)
    ways = {"Adam": (learning(), config.epochs), "momentum": (descent, config.momentum_epochs)}
    rows = []
    for optimiser, (settings, epochs) in ways.items():
        students = [
            Student({"optimiser": optimiser, "start": name}, settings, params)
            for name, params in begun.items()
        ]
        rows += distil(
            setup, shapes, seed=seed, students=students, teachers=teachers, doses=(epochs,)
        )
    return rows


def of(table: pd.DataFrame, optimiser: str, start: str, column: str = "accuracy") -> np.ndarray:
    """A column of one arm, by seed."""
    rows = table[(table["optimiser"] == optimiser) & (table["start"] == start)]
    return rows.sort_values("seed")[column].to_numpy()


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """What broken conditions leave, and the criteria of the docstring."""
    names = list(dict.fromkeys(table["start"]))
    claim = functools.partial(transfer.claim, table)
    described = [
        claim(f"{optimiser}, {name}: accuracy", here=of(table, optimiser, name))
        for optimiser in OPTIMISERS
        for name in names
    ]
    judged = corrected(criteria(table, config))[0]
    silent = transfer.no_transfer(
        table,
        {
            f"{name}, {optimiser}": (of(table, optimiser, name), of(table, optimiser, SHARED))
            for optimiser in OPTIMISERS
            for name in (STRANGER, MOVED)
        },
    )
    reached = {
        optimiser: ", ".join(
            f"{name} {statistics.shown(of(table, optimiser, name), 2)}" for name in names
        )
        for optimiser in OPTIMISERS
    }
    figure = Figure(
        name="figure",
        title=say(
            [*judged, *silent],
            holds="Neither exact outputs nor an equal kernel is needed: shared units carry the "
            "trait",
            fails="It is not shown that the channel needs neither exact outputs nor an equal "
            "kernel",
            open="Does the channel need exact outputs, or an equal kernel?",
        ),
        predicted="Each start that shares units keeps more than half of the gain; strangers none.",
        found="; ".join(f"{optimiser}: {words}" for optimiser, words in reached.items()) + ".",
        follows=say(
            [*judged, *silent],
            holds="The lemma's conditions are enough for a first step, but they are not what a "
            "shared start comes to.",
            fails="Part of what the lemma asks for may be needed.",
            open="What the channel needs is not judged.",
        ),
        draw=lambda: plot(table, names),
    )
    return Findings([figure], [*described, *state_claims(table, names), *judged, *silent])


def criteria(table: pd.DataFrame, config: Config) -> list[Claim]:
    """That conditions are broken, and that more than half of the gain is left."""
    claim, widest = functools.partial(transfer.claim, table), rescaled(config.spreads[-1])

    def first(start: str, column: str) -> np.ndarray:
        return of(table, OPTIMISERS[0], start, column)  # the starts of both are the same

    broken = {
        "kernel is broken: .5 less the alignment of the rescaled start": 0.5
        - first(widest, "alignment"),
        "outputs are broken: offset less half of the stranger's mismatch": first(OFFSET, "mismatch")
        - first(STRANGER, "mismatch") / 2,
    }
    kept = {
        f"{optimiser}, {start}: accuracy less half of the gain": of(table, optimiser, start)
        - (transfer.CHANCE + of(table, optimiser, SHARED)) / 2
        for optimiser in OPTIMISERS
        for start in (widest, OFFSET, BOTH)
    }
    return [claim(name, here=values, above=values) for name, values in (broken | kept).items()]


def state_claims(table: pd.DataFrame, names: list[str]) -> list[Claim]:
    """How far each start is from the lemma's conditions; no criterion."""
    claims = []
    for name in names:
        left = of(table, OPTIMISERS[0], name, "mismatch") / of(table, OPTIMISERS[0], name, "moved")
        words = (
            f"mismatch {statistics.shown(left, 4)} of what the teacher moves, alignment "
            f"{statistics.shown(of(table, OPTIMISERS[0], name, 'alignment'), 2)}"
        )
        claims.append(transfer.claim(table, f"{name}: before distillation", here=words))
    return claims


def plot(table: pd.DataFrame, names: list[str]):
    """Accuracy of every start, by optimiser, over its alignment."""
    figure, panels = drawing.new_figure(1, len(OPTIMISERS), width=10.0, height=4.2)
    for panel, optimiser in zip(panels, OPTIMISERS, strict=True):
        panel.axhline(transfer.CHANCE, color="black", linestyle=":", linewidth=1)
        for look, name in zip(drawing.looks(), names, strict=False):
            x, across = statistics.mean_interval(of(table, optimiser, name, "alignment"))
            y, half = statistics.mean_interval(of(table, optimiser, name))
            panel.errorbar(x, y, half, across, linestyle="", capsize=3, label=name, **look)
        panel.set_title(optimiser)
        panel.set_ylim(0, 1)
        panel.set_xlabel("alignment with the teacher's start")
    panels[0].set_ylabel("test accuracy after aux-only distillation")
    panels[0].legend(fontsize=8)
    return figure
