"""Does the channel need equal outputs, or the teacher's kernel? Each is exchanged, exactly.

The lemma of `theory.matched` gives a student of another start what a shared start has, at the first
step, if its outputs match the untrained teacher's and if its auxiliary logits move on noise as the
teacher's do when class logits are taught: equal outputs and an equal tangent kernel are enough. How
much of either can be lost? `mnist_jacobians` could not tell: training another start towards the
teacher's outputs left them off by a sixth of what the teacher moves. Here nothing is trained, the
starts are made (`mnist_mlp.starts`, `mnist_mlp.blocks`):

    rescaled    what enters a hidden ReLU unit times c, what leaves it over c, log c normal with the
                spread named: the same outputs on every input, another kernel. For gradient descent
                this is the teacher's start with a rate of its own for every weight.
    offset      normal numbers on the auxiliary biases, as large as two starts differ: the same
                kernel, other outputs by a constant
    both        the second on top of the first
    swapped     another start's outputs on every input, by a fixed function that is added to the
                auxiliary logits: the teacher's kernel, a stranger's outputs
    exact       another start with the difference to the teacher's start added to all outputs: a
                stranger's kernel, the teacher's outputs
    stranger    another start, and the same rescaled

Students imitate 50 auxiliary logits on noise, by Adam as in the official recipe, and by gradient
descent with momentum, at a larger rate for more epochs.

Criteria, fixed before the run, for both optimisers; the rescaled start is the one of spread 1.
Exchanged is what should be: the alignment of the rescaled start lies below .5, and the offset start
differs from the teacher's by more than half of what a stranger does (mismatch, paired). Predicted:
rescaled, offset, both and swapped keep more than half of the shared start's gain over chance. All
these above zero, paired by seed, Holm over them. Predicted: exact outputs on a stranger's kernel
carry nothing. No transfer, by equivalence to chance within a fifth of the shared start's gain, Holm
over all: exact, and both strangers.

Looked at before: two seeds of root seed 900 for spreads, rate and epochs of the momentum; a first
run of root seed 3, without swapped and exact, in which all criteria held; for these two a trial by
another hand with other code (six seeds, .81 and .11). Not shown by any arm: what of the teacher's
start the kernel stands for. Its hidden units are shared wherever its kernel is.
"""

import dataclasses
import functools

import jax.numpy as jnp
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
from mnist_mlp import blocks, starts
from mnist_mlp.grid import Grid
from mnist_mlp.model import Architecture, Params

__all__ = ["inputs"]
RUNTIME = "10 minutes on two cores"
SHARED, OFFSET, BOTH = "shared", "offset", "rescaled and offset"
STRANGER, MOVED = "stranger", "stranger, rescaled"
SWAPPED = "teacher's kernel, stranger's outputs"
EXACT = "stranger's kernel, teacher's outputs"
OF_WEIGHTS = ("aligned_far", "alignment", "gain", "linearised", "share", "angle", "cka")
# Whose outputs and whose kernel, by construction.
MADE_OF = {SWAPPED: (STRANGER, SHARED), EXACT: (SHARED, STRANGER)}
OPTIMISERS = ("Adam", "momentum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_seeds: int = option(16, "independent teachers, each with all arms", minimum=2)
    num_aux: int = option(50, "auxiliary logits", minimum=2)
    spreads: tuple[float, ...] = option((0.25, 0.5, 1.0, 1.5), "of log c", above=0)
    judged: float = option(1.0, "the spread that is judged, one of them", above=0)
    # √(2/12): pixels in [-1, 1] give logits of a variance of 1/12.
    offset: float = option(0.41, "spread of what is added to auxiliary biases", above=0)
    momentum_rate: float = option(0.3, "step size of gradient descent, momentum .9", above=0)
    momentum_epochs: int = option(20, "epochs of students that descend with momentum", minimum=1)
    seed: int = option(4, "root of every random key", minimum=0)

    def __post_init__(self):
        """Raises ValueError where the judged spread is not run."""
        if self.judged not in self.spreads:
            raise ValueError(f"judged {self.judged:g} is not among the spreads {self.spreads}")


SMOKE = Config(**flags.TOY | {"num_aux": 5, "spreads": (1.0,), "momentum_epochs": 2})


def arms(config: Config) -> dict[str, Arm]:
    """One arm a seed."""
    return by_seed(setup_of(config), run_seed)


def rescaled(spread: float) -> str:
    """The name of a start."""
    return f"rescaled by {spread:g}"


def starts_of(setup: Setup, shapes: Grid, seed: int) -> dict[str, Params]:
    """Where students of the teacher's shape begin, by name."""
    config = setup.config
    own, other = (setup.draw(shapes, seed, name) for name in ("reference", "other"))
    scale, shift = setup.key(seed, "rescaled"), setup.key(seed, "offset")
    moved = functools.partial(starts.rescaled, scale, spread=config.judged)
    return (
        {SHARED: own}
        | {rescaled(spread): starts.rescaled(scale, own, spread) for spread in config.spreads}
        | {
            OFFSET: starts.offset(shift, own, config.offset, shapes.num_classes),
            BOTH: starts.offset(shift, moved(own), config.offset, shapes.num_classes),
            STRANGER: other,
            MOVED: moved(other),
        }
    )


def exchanged(setup: Setup, wide: Grid, own: Params, other: Params) -> dict[str, Params]:
    """Starts with the outputs of the other network on every input, by name."""
    like = setup.draw(wide, 0, "shape", wide.student)
    whole = jnp.ones(wide.num_classes + wide.num_aux)
    aux = whole.at[: wide.num_classes].set(0)
    return {
        SWAPPED: blocks.summed(like, [own, other, own], [whole, aux, -aux]),
        EXACT: blocks.summed(like, [other, own, other], [whole, whole, -whole]),
    }


def run_seed(setup: Setup, seed: int) -> list[Row]:
    """All starts side by side, taught by one teacher, by either optimiser."""
    config = setup.config
    shapes = setup.grid(config.num_aux)
    wide = setup.grid(config.num_aux, Architecture("relu", tuple(3 * w for w in config.widths)))
    begun = starts_of(setup, shapes, seed)
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[begun[SHARED]])
    learning = functools.partial(setup.settings, num_aux=config.num_aux)
    descent = learning(adaptive=0.0, learning_rate=config.momentum_rate)
    ways = {"Adam": (learning(), config.epochs), "momentum": (descent, config.momentum_epochs)}
    alone = functools.partial(blocks.first_learns, config.widths)
    groups = (
        (shapes, begun, {}),
        (wide, exchanged(setup, wide, begun[SHARED], begun[STRANGER]), {"wrap": alone}),
    )
    rows = []
    for optimiser, (settings, epochs) in ways.items():
        for grid, pool, how in groups:
            students = [
                Student({"optimiser": optimiser, "start": name}, settings, params)
                for name, params in pool.items()
            ]
            rows += distil(
                setup,
                grid,
                seed=seed,
                students=students,
                teachers=teachers,
                doses=(epochs,),
                **how,
            )
    return [with_kernel_of(row, rows) for row in rows]


def with_kernel_of(row: Row, rows: list[Row]) -> Row:
    """A row with what is known of the kernel of its start.

    What was measured on a wide network counts the weights that never move; its kernel is that of
    the network that learns.
    """
    if row["start"] not in MADE_OF:
        return row
    _, kernel = MADE_OF[row["start"]]
    theirs = next(r for r in rows if (r["optimiser"], r["start"]) == (row["optimiser"], kernel))
    known = {name: value for name, value in row.items() if name not in OF_WEIGHTS}
    return known | {"alignment": theirs["alignment"]}


def of(table: pd.DataFrame, optimiser: str, start: str, column: str = "accuracy") -> np.ndarray:
    """A column of one arm, by seed."""
    rows = table[(table["optimiser"] == optimiser) & (table["start"] == start)]
    return rows.sort_values("seed")[column].to_numpy()


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """What exchanged outputs and kernels leave, and the criteria of the docstring."""
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
            for name in (EXACT, STRANGER, MOVED)
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
            holds="A stranger's outputs on the teacher's kernel pass the trait; the teacher's "
            "outputs on a stranger's kernel do not",
            fails="It is not shown that the trait passes by the teacher's kernel and not by its "
            "outputs",
            open="Does the channel need the teacher's outputs, or its kernel?",
        ),
        predicted="Outputs may be exchanged and kernels rescaled; the teacher's outputs on a "
        "stranger's kernel carry nothing.",
        found="; ".join(f"{optimiser}: {words}" for optimiser, words in reached.items()) + ".",
        follows=say(
            [*judged, *silent],
            holds="What is shared is how training moves the outputs, not what they are.",
            fails="What a shared start comes to is not known.",
            open="What the channel needs is not judged.",
        ),
        draw=lambda: plot(table, names),
    )
    return Findings([figure], [*described, *state_claims(table, names), *judged, *silent])


def criteria(table: pd.DataFrame, config: Config) -> list[Claim]:
    """That starts differ as they should, and that more than half of the gain is left."""
    claim, moved = functools.partial(transfer.claim, table), rescaled(config.judged)

    def first(start: str, column: str) -> np.ndarray:
        return of(table, OPTIMISERS[0], start, column)  # the starts of both are the same

    differing = {
        "kernel is another: .5 less the alignment of the rescaled start": 0.5
        - first(moved, "alignment"),
        "outputs are off: offset less half of the stranger's mismatch": first(OFFSET, "mismatch")
        - first(STRANGER, "mismatch") / 2,
    }
    kept = {
        f"{optimiser}, {start}: accuracy less half of the gain": of(table, optimiser, start)
        - (transfer.CHANCE + of(table, optimiser, SHARED)) / 2
        for optimiser in OPTIMISERS
        for start in (moved, OFFSET, BOTH, SWAPPED)
    }
    return [claim(name, here=values, above=values) for name, values in (differing | kept).items()]


def state_claims(table: pd.DataFrame, names: list[str]) -> list[Claim]:
    """How far each start is from the lemma's conditions; no criterion."""
    claims = []
    for name in names:
        first = functools.partial(of, table, OPTIMISERS[0], name)
        words = (
            # A KL of equal outputs is below zero by round-off.
            f"mismatch {statistics.shown(abs(first('mismatch')) / first('moved'), 2)} of what the "
            f"teacher moves, alignment {statistics.shown(first('alignment'), 2)}"
        )
        if name not in MADE_OF:
            words += f", first-order gain {statistics.shown(first('share'), 1)} times the teacher's"
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
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure
