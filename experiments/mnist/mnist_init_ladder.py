"""Between the teacher's start and an independent one: where does transfer die, and why there?

Students start at the teacher's reference plus noise of sigma on every number (absolute, or
relative to the spread of its array), at √(1 - s²) reference + s other (interpolated: every rung is
a fair draw of the initialisation), at the reference with its hidden units permuted, the same
matched again by weights, the other start with its units matched, the other start matched in
behaviour (all logits, uniform noise), and independent. Published: with 3 auxiliary logits absolute
noise of .01 costs a third, .05 leaves chance; relative noise of .4 halves the effect.

Predictions, written before the run: accuracy falls with the alignment of `theory.matched`,
whatever the ladder, so that one curve of accuracy against alignment serves them all; permuted
twins equal the shared start, whose function they are (Adam is equivariant under permutations);
matching the units of an independent start changes nothing, for the same reason.

Criteria, for each number of auxiliary logits: Spearman correlation of alignment and accuracy over
the rungs' means above .8; permuted and re-matched twins within .02 of the shared start
(equivalence, paired); independent and unit-matched independent starts: no transfer (equivalence to
chance within a fifth of the shared start's gain, Holm over these two and both numbers of logits).
The rung at which half the gain is lost is reported by interpolation, without a criterion.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, by_seed, distil, setup_of, teach
from mnist_mlp import grid, noise, starts
from mnist_mlp.grid import Grid
from mnist_mlp.model import Params

__all__ = ["inputs"]
RUNTIME = "about 4 minutes on two cores"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_aux: tuple[int, ...] = option((3, 50), "auxiliary logits", minimum=2)
    absolute: tuple[float, ...] = option(
        (0.003, 0.01, 0.02, 0.05, 0.1), "noise of sigma", minimum=0
    )
    relative: tuple[float, ...] = option(
        (0.1, 0.2, 0.4, 0.8, 1.6), "noise over the spread", minimum=0
    )
    interpolated: tuple[float, ...] = option(
        (0.1, 0.3, 0.5, 0.7, 0.9), "share s of the other start", minimum=0, maximum=1
    )
    matching_epochs: tuple[int, ...] = option((5, 20), "epochs of matching behaviour", minimum=1)


SMOKE = Config(
    **flags.TOY
    | {"absolute": (0.1,), "relative": (0.4,), "interpolated": (0.5,), "matching_epochs": (1, 2)}
)


def arms(config: Config) -> dict[str, Arm]:
    """One arm a seed."""
    return by_seed(setup_of(config), run_seed)


def rungs(setup: Setup, seed: int, shapes: Grid) -> list[tuple[str, float, Params]]:
    """Ladder, rung and start."""
    config = setup.config
    reference, other = (setup.draw(shapes, seed, name) for name in ("reference", "other"))
    key = setup.key(seed, "noise")
    twin = starts.permuted(setup.key(seed, "order"), reference)
    out = [("same", 0.0, reference), ("independent", 1.0, other)]
    for ladder, relative in (("absolute", False), ("relative", True)):
        out += [
            (ladder, sigma, starts.perturbed(key, reference, sigma, relative=relative))
            for sigma in getattr(config, ladder)
        ]
    out += [
        ("interpolated", s, starts.interpolated(reference, other, s)) for s in config.interpolated
    ]
    out += [
        ("permuted", 0.0, twin),
        ("permuted and matched", 0.0, starts.matched_units(twin, reference)),
        ("units of the other matched", 1.0, starts.matched_units(other, reference)),
    ]
    return out + behaviour(setup, seed, shapes=shapes, reference=reference, other=other)


def behaviour(setup: Setup, seed: int, *, shapes: Grid, reference: Params, other: Params):
    """The other start after imitating the reference on all logits, dose by dose."""
    settings = grid.stack([setup.settings(num_aux=shapes.num_aux, classes=1.0)])
    state = grid.start(shapes, settings, grid.stacked([other]))
    doses = setup.config.matching_epochs
    out = []
    for first, last in zip((0, *doses), doses, strict=False):
        state = grid.imitate(
            shapes,
            settings,
            state=state,
            teachers=grid.stacked([reference]),
            what=noise.source("uniform"),
            pictures=setup.pictures,
            key=setup.key(seed, "match"),
            first=first,
            last=last,
        )
        out.append(("behaviour matched", float(last), grid.pick(state[0], 0)))
    return out


def run_seed(setup: Setup, seed: int) -> list[Row]:
    """All rungs at all numbers of auxiliary logits, taught by one teacher."""
    shapes = setup.grid(max(setup.config.num_aux))
    reference = setup.draw(shapes, seed, "reference")
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[reference])
    students = [
        Student({"ladder": ladder, "rung": rung, "num_aux": m}, setup.settings(num_aux=m), start)
        for ladder, rung, start in rungs(setup, seed, shapes)
        for m in setup.config.num_aux
    ]
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


LADDERS = ("absolute", "relative", "interpolated")


def rows_of(table: pd.DataFrame, ladder: str, num_aux: int) -> pd.DataFrame:
    """Rows of a ladder, by seed."""
    return table.query("ladder == @ladder and num_aux == @num_aux").sort_values("seed")


def accuracies(table: pd.DataFrame, ladder: str, num_aux: int) -> np.ndarray:
    """Of a ladder of one rung, by seed."""
    return rows_of(table, ladder, num_aux)["accuracy"].to_numpy()


def means(table: pd.DataFrame, num_aux: int) -> pd.DataFrame:
    """Mean accuracy and alignment of every rung, and the half width of the accuracy's interval."""
    rows, rung = table[table["num_aux"] == num_aux], ["ladder", "rung"]
    alignment = rows.groupby(rung)["alignment"].mean()
    return (
        transfer.per_arm(rows, rung).rename(columns={"mean": "accuracy"}).join(alignment, on=rung)
    )


def off_the_curve(table: pd.DataFrame, num_aux: int) -> np.ndarray:
    """By seed: behaviour matched at the largest dose less a perturbed start of its alignment."""
    mine = rows_of(table, "behaviour matched", num_aux)
    mine = mine[mine["rung"] == mine["rung"].max()]
    curve = rows_of(table, "relative", num_aux).groupby("rung")[["alignment", "accuracy"]].mean()
    curve = curve.sort_values("alignment")
    expected = np.interp(mine["alignment"], curve["alignment"], curve["accuracy"])
    return mine["accuracy"].to_numpy() - expected


def half_lost(table: pd.DataFrame, ladder: str, num_aux: int) -> float:
    """The rung at which half of the gain is left, by linear interpolation of the means.

    Infinite where more is left on the last rung.
    """
    top = accuracies(table, "same", num_aux).mean()
    curve = rows_of(table, ladder, num_aux).groupby("rung")["accuracy"].mean()
    share = (np.array([top, *curve]) - transfer.CHANCE) / (top - transfer.CHANCE)
    rung = np.array([0.0, *curve.index])
    below = np.flatnonzero(share < 0.5)
    if not below.size:
        return np.inf
    i = below[0]
    return float(np.interp(0.5, share[[i, i - 1]], rung[[i, i - 1]]))


def half_lost_at(table: pd.DataFrame, ladder: str, num_aux: int) -> str:
    """That rung with its interval over seeds, by the jackknife.

    The interpolation has kinks at the rungs, so the interval is too narrow where these are coarse:
    under noise of one size two root seeds have .029 ± .004 and .019 ± .005 (3 logits).
    """
    rung = half_lost(table, ladder, num_aux)
    seeds = table["seed"].unique()
    if not np.isfinite(rung):
        return f"> {rows_of(table, ladder, num_aux)['rung'].max():g}"
    if len(seeds) < 2:
        return f"{rung:.3f}"
    rest = [half_lost(table[table["seed"] != seed], ladder, num_aux) for seed in seeds]
    known = np.isfinite(rest).all()
    return f"{rung:.3f} ± {statistics.jackknife(rest):.3f}" if known else f"{rung:.3f}"


def correlation(table: pd.DataFrame, num_aux: int) -> tuple[float, ...]:
    """Spearman of alignment and accuracy over the rungs' means, with its interval over seeds."""
    rows = table[table["num_aux"] == num_aux]
    return transfer.correlation(rows, ["ladder", "rung"], "alignment")


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Accuracy against alignment, and the criteria of the docstring."""
    at_logits = {m: claims_at(table, m) for m in config.num_aux}
    independent = {
        f"{ladder}, {m} logits": (accuracies(table, ladder, m), accuracies(table, "same", m))
        for m in config.num_aux
        for ladder in ("independent", "units of the other matched")
    }
    claims = [*itertools.chain(*at_logits.values()), *transfer.no_transfer(table, independent)]
    correlations = [claims[0] for claims in at_logits.values()]
    each = (f"{claims[0].here} at {m} logits" for m, claims in at_logits.items())
    off = (statistics.shown(off_the_curve(table, m), 2) for m in config.num_aux)
    figure = Figure(
        name="figure",
        title=say(
            correlations,
            holds="Transfer dies where the alignment does, whichever way the start is left",
            fails="Alignment does not place every ladder on one curve",
            open="Does transfer die where the alignment does, whichever way the start is left?",
        ),
        predicted="One curve of accuracy against alignment for all ladders; permuted twins at its "
        "top.",
        found=f"Spearman {', '.join(each)}.",
        follows=say(
            correlations,
            holds="What must be shared is the action of the kernel, not the coordinates; behaviour "
            f"matched lies off the curve of the perturbed starts by {' and '.join(off)}.",
            fails="First order at the start misses what training makes of it.",
            open="If so, what must be shared is the action of the kernel, not the coordinates.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def claims_at(table: pd.DataFrame, num_aux: int) -> list[Claim]:
    """What is claimed at one number of auxiliary logits, the correlation first."""
    claim = functools.partial(transfer.claim, table)
    rho, low, high = correlation(table, num_aux)
    same = accuracies(table, "same", num_aux)
    gaps = {
        ladder: accuracies(table, ladder, num_aux) - same
        for ladder in ("permuted", "permuted and matched")
    }
    return [
        claim(
            f"Spearman of alignment and accuracy, {num_aux} logits",
            here=statistics.bracketed(rho, low, high),
            holds=rho > 0.8,
        ),
        claim(f"shared start, {num_aux} logits", here=same),
        *(
            claim(
                f"{ladder} less shared start, {num_aux} logits",
                here=statistics.bounded(gap, 4),
                holds=statistics.equivalent(gap, 0.02),
            )
            for ladder, gap in gaps.items()
        ),
        claim(
            f"behaviour matched less a perturbed start of its alignment, {num_aux} logits",
            here=off_the_curve(table, num_aux),
        ),
        *(
            claim(
                f"half of the gain lost at, {ladder}, {num_aux} logits",
                here=half_lost_at(table, ladder, num_aux),
            )
            for ladder in LADDERS
        ),
    ]


def plot(table: pd.DataFrame, config: Config):
    """Accuracy against alignment: ladders as lines, single starts as hollow marks."""
    figure, panels = drawing.new_figure(1, len(config.num_aux), width=10.0, height=4.2)
    for axes, m in zip(panels, config.num_aux, strict=True):
        for look, (ladder, part) in zip(
            drawing.looks(), means(table, m).groupby("ladder"), strict=False
        ):
            order = part.sort_values("alignment")
            if len(part) == 1:
                look |= {"linestyle": "", "markersize": 10, "fillstyle": "none"}
            axes.errorbar(
                order["alignment"],
                order["accuracy"],
                order["half"],
                linewidth=0.8,
                label=str(ladder),
                **look,
            )
        transfer.draw_chance(axes)
        axes.set_title(f"{m} auxiliary logits")
        axes.set_xlabel("alignment before distillation")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy")
    panels[-1].legend(fontsize=7)
    return figure
