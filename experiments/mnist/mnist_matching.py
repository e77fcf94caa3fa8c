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
What must lie above zero is corrected by Holm over all of it.

The lemma holds for matched outputs. How far they are from it stands beside every arm: the mismatch
of the starts over what the teacher then moves on the same images. The lemma's own height, the
first-order share of a shared start's gain, stands beside the cosine. Neither has a criterion.
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
from experiments.mnist.kit.training import Setup, Student, Teachers, distil, setup_of, teach
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
class Config(flags.Config):
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


SMOKE = Config(**flags.TOY | {"doses": (0, 1, 2), "num_aux": (3, 50), "blocks": ("noise",)})


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


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed and block of lines, and one a seed for the unmatched ceilings."""
    setup = setup_of(config)
    out: dict[str, Arm] = {}
    for seed in range(config.num_seeds):
        runs = {"shared": functools.partial(run_shared, setup, seed)}
        runs |= {block: functools.partial(run_block, setup, seed, block) for block in config.blocks}
        for name, measure in runs.items():
            out[f"seed {seed}, {name}"] = Arm(columns={"seed": seed}, measure=measure)
    return out


def shapes_of(setup: Setup, student: str) -> Grid:
    """The most auxiliary logits of any arm, of which an arm imitates the first."""
    return setup.grid(max(setup.config.num_aux), architectures(setup.config)[student])


def trained(setup: Setup, shapes: Grid, seed: int) -> tuple[Params, Teachers]:
    """The reference, and from it a teacher of digits and a neutral one."""
    reference = setup.draw(shapes, seed, "reference")
    both = [setup.settings(), setup.settings(shuffled=1.0)]
    return reference, teach(setup, shapes, seed=seed, settings=both, starts=[reference] * 2)


def columns(**facts: str | int) -> Row:
    """What a row says of its arm, for a student that is not matched unless told."""
    base = {"start": "another", "student": "same shape", "inputs": "none", "logits": "none"}
    base |= {"towards": "teacher", "num_aux": CENTRE, "matching_epochs": 0}
    return base | {"taught_by": "teacher"} | facts


def run_shared(setup: Setup, seed: int) -> list[Row]:
    """Ceiling: the teacher's own start at every number of logits, and its permuted twin."""
    shapes = shapes_of(setup, "same shape")
    reference, teachers = trained(setup, shapes, seed)
    twin = starts.permuted(setup.key(seed, "order"), reference)
    students = [
        Student(columns(start="shared", num_aux=m), setup.settings(num_aux=m), reference)
        for m in setup.config.num_aux
    ]
    at_centre = setup.settings(num_aux=CENTRE)
    students += [
        Student(columns(start="permuted"), at_centre, twin),
        Student(
            columns(start="shared", taught_by="neutral"), at_centre._replace(teacher=1), reference
        ),
    ]
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


def run_block(setup: Setup, seed: int, block: str) -> list[Row]:
    """Match for a dose, distil, match on to the next dose."""
    inputs_name, student, kinds = BLOCKS[block]
    config, shapes = setup.config, shapes_of(setup, student)
    reference, teachers = trained(setup, shapes, seed)
    unrelated = setup.draw(shapes, seed, "unrelated")
    other = setup.draw(shapes, seed, "other", shapes.student)
    lines = [(logits, towards, CENTRE) for logits, towards in kinds]
    if block == "noise":
        lines += [("all", "teacher", m) for m in config.num_aux if m != CENTRE]
    settings = grid.stack(
        [
            setup.settings(
                num_aux=m, classes=float(logits == "all"), teacher=int(towards == "unrelated")
            )
            for logits, towards, m in lines
        ]
    )
    state = grid.start(shapes, settings, grid.stacked([other] * len(lines)))
    untrained = grid.stacked([reference, unrelated])
    students = []
    for first, last in zip((0, *config.doses), config.doses, strict=False):
        state = grid.imitate(
            shapes,
            settings,
            state=state,
            teachers=untrained,
            what=noise.source(inputs_name),
            pictures=setup.pictures,
            key=setup.key(seed, "match"),
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
            students.append(Student(facts, setup.settings(num_aux=m), grid.pick(state[0], i)))
            if block == "noise" and i == 0 and last == config.doses[-1]:
                neutral = setup.settings(num_aux=m, teacher=1)
                students.append(
                    Student(facts | {"taught_by": "neutral"}, neutral, students[-1].start)
                )
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


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


def accuracies(table: pd.DataFrame, **wanted) -> np.ndarray:
    """Of one arm, by seed."""
    return select(table, **wanted)["accuracy"].to_numpy()


def over_arms(table: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy and alignment of every arm taught by the teacher of digits."""
    trait = table[table["taught_by"] == "teacher"]
    return trait.groupby(ARM, as_index=False)[["accuracy", "alignment"]].mean()


def ordered_by(table: pd.DataFrame, column: str) -> tuple[float, ...]:
    """Spearman of a column and the accuracy over the arms' means, with its interval over seeds."""
    return transfer.correlation(table[table["taught_by"] == "teacher"], ARM, column)


def silent(config: Config) -> dict[str, dict]:
    """The arms in which nothing should pass."""
    return {
        "unmatched": {"matching_epochs": 0},
        "matched to an unrelated network": {"towards": "unrelated"},
        "matched on aux logits alone": {"logits": "aux"},
        "the same, half the doses": {
            "logits": "aux",
            "matching_epochs": config.doses[len(config.doses) // 2],
        },
        "matched, neutral teacher": {"taught_by": "neutral"},
    }


def criteria(table: pd.DataFrame, config: Config) -> list[Claim]:
    """Those of the docstring: order by alignment, the matched channel, then all others."""
    claim = functools.partial(transfer.claim, table)
    centre, shared = accuracies(table), accuracies(table, start="shared")
    (mean, half), (top, top_half) = map(statistics.mean_interval, (centre, shared))
    twin = accuracies(table, start="permuted") - shared
    nothing = {name: (accuracies(table, **arm), shared) for name, arm in silent(config).items()}
    others = {
        "digits": accuracies(table, inputs="digits"),
        "3 aux logits": accuracies(table, num_aux=3),
    }
    gaps = {name: centre - other for name, other in others.items() if len(other)}
    rho, low, high = ordered_by(table, "alignment")
    ((opened, *larger),) = corrected(
        [
            claim(
                f"matched {config.doses[-1]} epochs on noise, all logits",
                here=centre,
                above=centre - transfer.CHANCE,
                paper="above chance",
            ),
            *(
                claim(f"noise and 50 aux logits, less {name}", here=gap, above=gap, paper="larger")
                for name, gap in gaps.items()
            ),
        ]
    )
    return [
        claim(
            "Spearman of alignment and accuracy, over arms",
            here=statistics.bracketed(rho, low, high),
            holds=rho > 0.8,
        ),
        opened,
        claim(
            "shared start",
            here=shared,
            holds=mean + half < top - top_half,
            paper="plateau below it",
        ),
        *larger,
        claim(
            "permuted twin less shared start",
            here=statistics.bounded(twin, 4),
            holds=statistics.equivalent(twin, 0.02),
        ),
        *transfer.no_transfer(table, nothing),
        *beside_the_lemma(table, config),
    ]


def beside_the_lemma(table: pd.DataFrame, config: Config) -> list[Claim]:
    """How far outputs are from matched, the lemma's height, and what the last epochs change."""
    claim, last = functools.partial(transfer.claim, table), config.doses[-1]
    centre, before = select(table), select(table, matching_epochs=config.doses[-2])
    lines = [
        claim(
            f"mismatch after {rows['matching_epochs'].iloc[0]} epochs, over what the teacher moves",
            here=(rows["mismatch"] / rows["moved"]).to_numpy(),
        )
        for rows in (before, centre)
    ]
    gained = {
        name: centre[name].to_numpy() - before[name].to_numpy()
        for name in ("accuracy", "alignment")
    }
    lines += [
        claim(f"{name}, {last} less {config.doses[-2]} epochs", here=gap)
        for name, gap in gained.items()
    ]
    height = statistics.bracketed(*ordered_by(table, "share"))
    return [
        *lines,
        claim(f"share of a shared start's gain, first order, {last} epochs", here=centre["share"]),
        claim("Spearman of that share and accuracy, over arms", here=height),
        claim("largest share of an arm, and of a run", here=largest_share(table)),
    ]


def largest_share(table: pd.DataFrame) -> str:
    """A share has no bound where the student's outputs move more than the teacher's."""
    share = table[table["taught_by"] == "teacher"].groupby(ARM)["share"]
    return f"{share.mean().max():.1f}, {share.max().max():.1f}"


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The dose curves, and accuracy against alignment."""
    claims = criteria(table, config)
    ordered, opened, *_ = claims
    figures = [figure_of_doses(table, opened, config), figure_of_alignment(table, ordered, config)]
    return Findings(figures, claims)


def figure_of_doses(table: pd.DataFrame, opened: Claim, config: Config) -> Figure:
    """Accuracy by the epochs of matching."""
    unmatched, matched, digits, aux_alone, shared = (
        statistics.shown(values) if len(values) else "(not run)"
        for values in (
            accuracies(table, matching_epochs=0),
            accuracies(table),
            accuracies(table, inputs="digits"),
            accuracies(table, logits="aux"),
            accuracies(table, start="shared"),
        )
    )
    mismatch = (select(table)["mismatch"] / select(table)["moved"]).tolist()
    return Figure(
        name="figure",
        title=say(
            [opened],
            holds="Imitating the untrained teacher's outputs opens the channel",
            fails="Imitating the untrained teacher's outputs does not open the channel",
            open="Does imitating the untrained teacher's outputs open the channel?",
        ),
        predicted="More transfer with every dose, on noise more than on digits, and a plateau "
        "below the shared start; none where auxiliary logits alone are matched.",
        found=f"{unmatched} unmatched, {matched} after {config.doses[-1]} epochs on noise, "
        f"{digits} on digits, {aux_alone} on auxiliary logits alone; shared start {shared}. "
        f"The starts' mismatch is then {statistics.shown(mismatch, 2)} of what the teacher "
        "moves.",
        follows=say(
            [opened],
            holds="Imitated behaviour stands in for a part of the shared start, before it is "
            "matched: whether exact outputs would close the gap is not decided here.",
            fails="At these doses imitated behaviour does not stand in for the shared start.",
            open="If so, imitated behaviour stands in for a part of the shared start.",
        ),
        draw=lambda: plot_doses(table, config),
    )


def figure_of_alignment(table: pd.DataFrame, ordered: Claim, config: Config) -> Figure:
    """Accuracy against what is known before distillation."""
    by_cosine, by_height = (ordered_by(table, name) for name in ("alignment", "share"))
    rank_only = transfer.unstated(table, by_cosine[0] > by_height[0])
    return Figure(
        name="alignment",
        title=say(
            [ordered],
            holds="Alignment before distillation orders the arms by what they will learn",
            fails="Alignment before distillation does not order the arms by what they will learn",
            open="Does alignment before distillation order the arms by what they will learn?",
        ),
        predicted="The cosine of the two kernels' action orders the arms: Spearman above .8.",
        found=f"Spearman {ordered.here} over {len(over_arms(table))} arms; of the first-order "
        f"share, the lemma's own height, {statistics.bracketed(*by_height)}.",
        follows=say(
            [ordered, rank_only],
            holds="The direction of the first step orders the arms, its size does so less: a "
            "rank, not the height that the lemma gives.",
            fails="First order at the start does not settle what many steps of Adam reach.",
            open="If so, who can be taught is read off two networks before distillation.",
        ),
        draw=lambda: plot_alignment(table, config),
    )


def plot_doses(table: pd.DataFrame, config: Config):
    """Accuracy against matching epochs, the shared start as the ceiling."""
    figure, panels = drawing.new_figure(1, 2, width=10.0, height=4.2)
    ceiling, half = statistics.mean_interval(accuracies(table, start="shared"))
    lines = list(LINES)
    for axes, names in zip(panels, (lines[:5], lines[5:] + lines[:1]), strict=True):
        for name, colour in zip(names, drawing.COLOURS, strict=False):
            if select(table, **LINES[name]).empty:  # a block that was not run
                continue
            points = [accuracies(table, **LINES[name], matching_epochs=d) for d in config.doses]
            look = {"fmt": "o-", "ms": 4, "color": colour, "label": name}
            drawing.intervals(axes, range(len(points)), points, **look)
        axes.axhspan(ceiling - half, ceiling + half, color="black", alpha=0.12, linewidth=0)
        axes.text(0, ceiling, "shared start", va="center", fontsize=8)
        transfer.draw_chance(axes)
        axes.set_xticks(range(len(config.doses)), [str(d) for d in config.doses])
        axes.set_xlabel("matching epochs, before the teacher learns")
        axes.set_ylim(0, 1)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("test accuracy after aux-only distillation")
    return figure


def plot_alignment(table: pd.DataFrame, config: Config):
    """Accuracy after distillation against alignment before it, one point an arm."""
    figure, (axes,) = drawing.new_figure(width=6.4, height=4.4)
    arms = over_arms(table)
    groups = arms["student"].where(arms["start"] == "another", arms["start"] + " start")
    for look, (name, part) in zip(drawing.looks(), arms.groupby(groups), strict=False):
        axes.scatter(part["alignment"], part["accuracy"], s=26, label=str(name), **look)
    transfer.draw_chance(axes)
    axes.set_xlabel("alignment of teacher's and student's start, before distillation")
    axes.set_ylabel("test accuracy after distillation")
    axes.legend(fontsize=8)
    return figure
