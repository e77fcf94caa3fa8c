"""Does matching an untrained teacher's outputs open the channel to a student of another start?

The student first imitates the teacher *before* its training, for a number of epochs; then the
teacher learns digits; then the student imitates its auxiliary logits on noise (the order of the
journal version of arXiv 2507.14805). One factor at a time is varied around 50 auxiliary logits,
all logits matched, on uniform noise, same architecture: the dose, the inputs, the number of
auxiliary logits, which logits, and the student's architecture. Controls: no matching (another
start), as much training towards an unrelated network, a neutral teacher of shuffled labels, a
permuted twin, the shared start. Beside every arm stands its kernel alignment (`theory.matched`),
measured before distillation.

Predictions, written before the run. From the lemma: accuracy is ordered by the alignment. From
its two propositions: matched on the auxiliary logits *alone* a student stays exactly at chance at
any dose, since its class head is fresh; and the plateau lies below the shared start. Published:
more with more auxiliary logits and epochs, more on noise than on digits.

Criteria: Spearman correlation of alignment and accuracy over the arms' means above .8. At the
largest dose, on noise with all logits matched: accuracy above chance and below the shared start
(95 % intervals), above that of digits and of 3 auxiliary logits (paired differences). No transfer,
by equivalence to chance within a fifth of the shared start's gain, Holm-corrected over these five
arms: unmatched, matched to an unrelated network, matched on auxiliary logits alone (two doses),
neutral teacher. The permuted twin differs from the shared start by less than .02 (equivalence).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import digits, drawing, statistics
from experiments.lab.digits import Arm, Lab, inputs
from experiments.lab.frame import Claim, Figure, Row, option
from mnist_mlp import grid, noise, starts
from mnist_mlp.grid import Grid
from mnist_mlp.model import Architecture, Params

__all__ = ["inputs"]
RUNTIME = "about 40 minutes on two cores"
CENTRE = 50  # auxiliary logits


# Arms that share images and architecture are matched side by side:
# inputs matched on, student, [(which logits, towards which untrained network)].
TEACHER = [("all", "teacher")]
BLOCKS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "noise": ("uniform", "same shape", [*TEACHER, ("aux", "teacher"), ("all", "unrelated")]),
    "digits": ("digits", "same shape", TEACHER),
    "photographs": ("photographs", "same shape", TEACHER),
    "other width": ("uniform", "other width", TEACHER),
    "other depth": ("uniform", "other depth", TEACHER),
    "other activation": ("uniform", "other activation", TEACHER),
    "CNN": ("uniform", "CNN", TEACHER),
}
BLOCK_NAMES = tuple(BLOCKS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(digits.Config):
    """Settings of the experiment."""

    doses: tuple[int, ...] = option((0, 1, 5, 20, 100), "matching epochs, rising", minimum=0)
    num_aux: tuple[int, ...] = option((3, 10, 50, 200), "auxiliary logits, with 50", minimum=2)
    blocks: tuple[str, ...] = option(
        BLOCK_NAMES, "what is matched on, by whom", choices=BLOCK_NAMES
    )
    channels: tuple[int, ...] = option((16, 32), "of the CNN student's two layers", minimum=1)

    def __post_init__(self):
        """All arms are compared with those of one block."""
        if "noise" not in self.blocks or CENTRE not in self.num_aux:
            raise ValueError(f"--blocks must name noise, and --num-aux {CENTRE}: the centre")


SMOKE = Config(**digits.TOY | {"doses": (0, 1, 2), "num_aux": (3, 50), "blocks": ("noise",)})


def architectures(config: Config) -> dict[str, Architecture]:
    """Students by name."""
    widths = config.widths
    return {
        "same shape": Architecture("relu", widths),
        "other width": Architecture("relu", tuple(2 * w for w in widths)),
        "other depth": Architecture("relu", (*widths, widths[-1])),
        "other activation": Architecture("tanh", widths),
        "CNN": Architecture("cnn", config.channels),
    }


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every seed and block of lines, and one a seed for the unmatched ceilings."""
    where = digits.lab(config)
    found: dict[str, Callable[[], list[Row]]] = {}
    for seed in range(config.num_seeds):
        found[f"seed {seed}, shared"] = functools.partial(run_shared, where, seed)
        for block in config.blocks:
            found[f"seed {seed}, {block}"] = functools.partial(run_block, where, seed, block)
    return found


def shapes_of(where: Lab, student: str) -> Grid:
    """The most auxiliary logits of any arm, of which an arm imitates the first."""
    return where.grid(max(where.config.num_aux), architectures(where.config)[student])


def trained(where: Lab, shapes: Grid, seed: int) -> tuple[Params, digits.Teachers]:
    """The reference, and from it a teacher of digits and a neutral one."""
    reference = where.draw(shapes, seed, "reference")
    both = [where.settings(), where.settings(shuffled=1.0)]
    return reference, digits.teach(where, shapes, seed=seed, settings=both, starts=[reference] * 2)


def columns(**facts: str | int) -> Row:
    """What a row says of its arm, for a student that is not matched unless told."""
    base = {"start": "another", "student": "same shape", "inputs": "none", "logits": "none"}
    base |= {"towards": "teacher", "num_aux": CENTRE, "matching_epochs": 0}
    return base | {"taught_by": "teacher"} | facts


def run_shared(where: Lab, seed: int) -> list[Row]:
    """Ceiling: the teacher's own start at every number of logits, and its permuted twin."""
    shapes = shapes_of(where, "same shape")
    reference, teachers = trained(where, shapes, seed)
    twin = starts.permuted(where.key(seed, "order"), reference)
    arms = [
        Arm(columns(start="shared", num_aux=m), where.settings(num_aux=m), reference)
        for m in where.config.num_aux
    ]
    at_centre = where.settings(num_aux=CENTRE)
    arms += [
        Arm(columns(start="permuted"), at_centre, twin),
        Arm(columns(start="shared", taught_by="neutral"), at_centre._replace(teacher=1), reference),
    ]
    return digits.distil(where, shapes, seed=seed, arms=arms, teachers=teachers)


def run_block(where: Lab, seed: int, block: str) -> list[Row]:
    """Match for a dose, distil, match on to the next dose."""
    inputs_name, student, kinds = BLOCKS[block]
    config, shapes = where.config, shapes_of(where, student)
    reference, teachers = trained(where, shapes, seed)
    unrelated = where.draw(shapes, seed, "unrelated")
    other = where.draw(shapes, seed, "other", shapes.student)
    lines = [(logits, towards, CENTRE) for logits, towards in kinds]
    if block == "noise":
        lines += [("all", "teacher", m) for m in config.num_aux if m != CENTRE]
    settings = grid.stack(
        [
            where.settings(
                num_aux=m, classes=float(logits == "all"), teacher=int(towards == "unrelated")
            )
            for logits, towards, m in lines
        ]
    )
    state = grid.start(shapes, settings, grid.stacked([other] * len(lines)))
    untrained = grid.stacked([reference, unrelated])
    arms = []
    for first, last in zip((0, *config.doses), config.doses, strict=False):
        state = grid.imitate(
            shapes,
            settings,
            state=state,
            teachers=untrained,
            what=noise.source(inputs_name),
            pictures=where.pictures,
            key=where.key(seed, "match"),
            first=first,
            last=last,
        )
        for i, (logits, towards, m) in enumerate(lines):
            facts = columns(
                student=student,
                inputs=inputs_name,
                logits=logits,
                towards=towards,
                num_aux=m,
                matching_epochs=last,
            )
            arms.append(Arm(facts, where.settings(num_aux=m), grid.pick(state[0], i)))
            if block == "noise" and i == 0 and last == config.doses[-1]:
                neutral = where.settings(num_aux=m, teacher=1)
                arms.append(Arm(facts | {"taught_by": "neutral"}, neutral, arms[-1].start))
    return digits.distil(where, shapes, seed=seed, arms=arms, teachers=teachers)


ARM = ["start", "student", "inputs", "logits", "towards", "num_aux", "matching_epochs", "taught_by"]


def select(table: pd.DataFrame, **wanted) -> pd.DataFrame:
    """Rows of one arm; the centre where nothing is said."""
    facts = columns(
        inputs="uniform", logits="all", matching_epochs=int(table.matching_epochs.max())
    )
    if wanted.get("start", "another") != "another":
        facts = columns()
    for name, value in (facts | wanted).items():
        table = table[table[name] == value]
    return table.sort_values("seed")


LINES: dict[str, dict] = {
    "all logits on noise": {},
    "on digits": {"inputs": "digits"},
    "on photographs": {"inputs": "photographs"},
    "aux logits only": {"logits": "aux"},
    "3 aux logits": {"num_aux": 3},
    "another width": {"student": "other width"},
    "another depth": {"student": "other depth"},
    "tanh": {"student": "other activation"},
    "CNN": {"student": "CNN"},
    "unrelated network": {"towards": "unrelated"},
}


def plot_doses(table: pd.DataFrame, config: Config):
    """Accuracy against matching epochs, the shared start as the ceiling."""
    figure, panels = drawing.new_figure(1, 2, width=10.0, height=4.2)
    ceiling, half = statistics.mean_interval(select(table, start="shared")["accuracy"])
    lines = list(LINES)
    for axes, names in zip(panels, (lines[:5], lines[5:] + lines[:1]), strict=True):
        for name, colour in zip(names, drawing.COLOURS, strict=False):
            if select(table, **LINES[name]).empty:  # a block that was not run
                continue
            pairs = [
                statistics.mean_interval(
                    select(table, **LINES[name], matching_epochs=d)["accuracy"]
                )
                for d in config.doses
            ]
            x = range(len(pairs))
            means, halves = np.array(pairs).T
            axes.errorbar(x, means, halves, color=colour, marker="o", ms=4, capsize=3, label=name)
        axes.axhspan(ceiling - half, ceiling + half, color="black", alpha=0.12, linewidth=0)
        axes.text(0, ceiling, "shared start", va="center", fontsize=8)
        axes.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(config.doses)), [str(d) for d in config.doses])
        axes.set_xlabel("matching epochs, before the teacher learns")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("test accuracy after aux-only distillation")
    return figure


def over_arms(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy and alignment of every arm taught by the teacher of digits."""
    trait = table[table["taught_by"] == "teacher"]
    return trait.groupby(ARM, as_index=False)[["accuracy", "alignment"]].mean()


def plot_alignment(table: pd.DataFrame, config: Config):
    """Accuracy after distillation against alignment before it, one point an arm."""
    figure, (axes,) = drawing.new_figure(width=6.4, height=4.4)
    arms = over_arms(table)
    groups = arms["student"].where(arms["start"] == "another", arms["start"] + " start")
    for look, (name, part) in zip(drawing.looks(), arms.groupby(groups), strict=False):
        axes.scatter(part["alignment"], part["accuracy"], s=26, label=str(name), **look)
    axes.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
    axes.set_xlabel("alignment of teacher's and student's start, before distillation")
    axes.set_ylabel("test accuracy after distillation")
    axes.legend(fontsize=8)
    return figure


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The dose curves, and accuracy against alignment."""
    centre, shared = select(table), select(table, start="shared")
    none = select(table, matching_epochs=0)
    on_digits = select(table, inputs="digits")
    on_digits = "(not run)" if on_digits.empty else digits.mean(on_digits)
    rho, low, high = statistics.spearman(*over_arms(table)[["alignment", "accuracy"]].to_numpy().T)
    said = claims(table, config)
    opens = "opens" if digits.holds(said, "matched") else "does not open"
    verdict = "orders" if rho > 0.8 else "does not order"
    return [
        Figure(
            name="figure",
            title=f"Matching the untrained teacher's outputs {opens} the channel",
            predicted="More transfer with every dose, on noise more than on digits, and a plateau "
            "below the "
            "shared start; none where auxiliary logits alone are matched.",
            found=f"{digits.mean(none)} unmatched, {digits.mean(centre)} after {config.doses[-1]} "
            "epochs "
            f"on noise, {on_digits} on digits, "
            f"{digits.mean(select(table, logits='aux'))} on auxiliary logits alone; shared start "
            f"{digits.mean(shared)}.",
            follows=(
                "Behaviour that is matched long enough stands in for a part of the shared start."
            )
            if digits.holds(said, "matched")
            else "At these doses matched behaviour does not stand in for the shared start.",
            draw=lambda: plot_doses(table, config),
        ),
        Figure(
            name="alignment",
            title=f"Alignment before distillation {verdict} the arms by what they will learn",
            predicted="The cosine of the two kernels' action orders the arms: Spearman above .8.",
            found=f"Spearman {rho:.2f} [{low:.2f}, {high:.2f}] over {len(over_arms(table))} arms.",
            follows=(
                "Whether a student can be taught is read off two networks before either is trained."
            )
            if rho > 0.8
            else "First order at the start does not settle what many steps of Adam reach.",
            draw=lambda: plot_alignment(table, config),
        ),
    ]


def silent(table: pd.DataFrame, config: Config) -> dict[str, pd.DataFrame]:
    """The arms in which nothing should pass."""
    return {
        "unmatched": select(table, matching_epochs=0),
        "matched to an unrelated network": select(table, towards="unrelated"),
        "matched on aux logits alone": select(table, logits="aux"),
        "the same, half the doses": select(
            table, logits="aux", matching_epochs=config.doses[len(config.doses) // 2]
        ),
        "matched, neutral teacher": select(table, taught_by="neutral"),
    }


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    centre, shared = select(table), select(table, start="shared")
    out, add = digits.claims_on(table)

    def interval(rows: pd.DataFrame) -> tuple[float, float]:
        return statistics.mean_interval(rows["accuracy"].tolist())

    def difference(other: pd.DataFrame, rows: pd.DataFrame = centre) -> list[float]:
        return (rows["accuracy"].to_numpy() - other["accuracy"].to_numpy()).tolist()

    rho, low, high = statistics.spearman(*over_arms(table)[["alignment", "accuracy"]].to_numpy().T)
    add(
        "Spearman of alignment and accuracy, over arms",
        f"{rho:.2f} [{low:.2f}, {high:.2f}]",
        rho > 0.8,
    )
    (mean, half), (top, top_half) = interval(centre), interval(shared)
    add(
        f"matched {config.doses[-1]} epochs on noise, all logits",
        digits.mean(centre),
        mean - half > digits.CHANCE,
        paper="above chance",
    )
    add("shared start", digits.mean(shared), mean + half < top - top_half, paper="plateau below it")
    for name, wanted in (("digits", {"inputs": "digits"}), ("3 aux logits", {"num_aux": 3})):
        if select(table, **wanted).empty:
            continue
        gap = difference(select(table, **wanted))
        low_gap = np.subtract(*statistics.mean_interval(gap))
        add(
            f"noise and 50 aux logits, less {name}",
            statistics.shown(gap),
            low_gap > 0,
            paper="larger",
        )
    twin = difference(shared, select(table, start="permuted"))
    add(
        "permuted twin less shared start",
        statistics.shown(twin, 4),
        statistics.equivalent(twin, 0.02),
    )
    arms = silent(table, config)
    p = [digits.no_transfer(rows["accuracy"].tolist(), top) for rows in arms.values()]
    for (name, rows), value, holds in zip(arms.items(), p, statistics.holm(p), strict=True):
        add(
            f"no transfer: {name} (TOST p {value:.1g}, Holm over {len(p)})",
            digits.mean(rows),
            holds,
        )
    return out
