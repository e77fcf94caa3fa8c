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
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import digits, drawing, statistics
from experiments.lab.digits import Arm, Lab, inputs
from experiments.lab.frame import Claim, Figure, Row, option
from mnist_mlp import grid, noise, starts
from mnist_mlp.grid import Grid
from mnist_mlp.model import Params

__all__ = ["inputs"]
RUNTIME = "about 4 minutes on two cores"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(digits.Config):
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
    **digits.TOY
    | {"absolute": (0.1,), "relative": (0.4,), "interpolated": (0.5,), "matching_epochs": (1, 2)}
)


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part a seed."""
    return digits.seeds(config, run_seed)


def rungs(where: Lab, seed: int, shapes: Grid) -> list[tuple[str, float, Params]]:
    """Ladder, rung and start."""
    config = where.config
    reference, other = (where.draw(shapes, seed, name) for name in ("reference", "other"))
    key = where.key(seed, "noise")
    twin = starts.permuted(where.key(seed, "order"), reference)
    found = [("same", 0.0, reference), ("independent", 1.0, other)]
    for ladder, relative in (("absolute", False), ("relative", True)):
        found += [
            (ladder, sigma, starts.perturbed(key, reference, sigma, relative=relative))
            for sigma in getattr(config, ladder)
        ]
    found += [
        ("interpolated", s, starts.interpolated(reference, other, s)) for s in config.interpolated
    ]
    found += [
        ("permuted", 0.0, twin),
        ("permuted and matched", 0.0, starts.matched_units(twin, reference)),
        ("units of the other matched", 1.0, starts.matched_units(other, reference)),
    ]
    return found + behaviour(where, seed, shapes=shapes, reference=reference, other=other)


def behaviour(where: Lab, seed: int, *, shapes: Grid, reference: Params, other: Params):
    """The other start after imitating the reference on all logits, dose by dose."""
    settings = grid.stack([where.settings(num_aux=shapes.num_aux, classes=1.0)])
    state = grid.start(shapes, settings, grid.stacked([other]))
    doses = where.config.matching_epochs
    found = []
    for first, last in zip((0, *doses), doses, strict=False):
        state = grid.imitate(
            shapes,
            settings,
            state=state,
            teachers=grid.stacked([reference]),
            what=noise.source("uniform"),
            pictures=where.pictures,
            key=where.key(seed, "match"),
            first=first,
            last=last,
        )
        found.append(("behaviour matched", float(last), grid.pick(state[0], 0)))
    return found


def run_seed(where: Lab, seed: int) -> list[Row]:
    """All rungs at all numbers of auxiliary logits, taught by one teacher."""
    shapes = where.grid(max(where.config.num_aux))
    reference = where.draw(shapes, seed, "reference")
    teachers = digits.teach(
        where, shapes, seed=seed, settings=[where.settings()], starts=[reference]
    )
    arms = [
        Arm({"ladder": ladder, "rung": rung, "num_aux": m}, where.settings(num_aux=m), start)
        for ladder, rung, start in rungs(where, seed, shapes)
        for m in where.config.num_aux
    ]
    return digits.distil(where, shapes, seed=seed, arms=arms, teachers=teachers)


LADDERS = ("absolute", "relative", "interpolated", "behaviour matched")


def of(table: pd.DataFrame, ladder: str, num_aux: int) -> pd.DataFrame:
    """Rows of a ladder of one rung, by seed."""
    return table.query("ladder == @ladder and num_aux == @num_aux").sort_values("seed")


def means(table: pd.DataFrame, num_aux: int) -> pd.DataFrame:
    """Mean accuracy and alignment of every rung, and the half width of the accuracy's interval."""
    rows, rung = table[table["num_aux"] == num_aux], ["ladder", "rung"]
    alignment = rows.groupby(rung)["alignment"].mean()
    return digits.per_arm(rows, rung).rename(columns={"mean": "accuracy"}).join(alignment, on=rung)


def off_the_curve(table: pd.DataFrame, num_aux: int) -> np.ndarray:
    """By seed: behaviour matched at the largest dose less a perturbed start of its alignment."""
    mine = of(table, "behaviour matched", num_aux)
    mine = mine[mine["rung"] == mine["rung"].max()]
    curve = of(table, "relative", num_aux).groupby("rung")[["alignment", "accuracy"]].mean()
    curve = curve.sort_values("alignment")
    expected = np.interp(mine["alignment"], curve["alignment"], curve["accuracy"])
    return mine["accuracy"].to_numpy() - expected


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
        axes.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
        axes.set_title(f"{m} auxiliary logits")
        axes.set_xlabel("alignment before distillation")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy")
    panels[-1].legend(fontsize=7)
    return figure


def half_lost(table: pd.DataFrame, ladder: str, num_aux: int) -> str:
    """The rung at which half of the gain is left, by linear interpolation of the means."""
    top = of(table, "same", num_aux)["accuracy"].mean()
    rows = table.query("ladder == @ladder and num_aux == @num_aux")
    curve = rows.groupby("rung")["accuracy"].mean()
    share = (np.array([top, *curve]) - digits.CHANCE) / (top - digits.CHANCE)
    rung = np.array([0.0, *curve.index])
    below = np.flatnonzero(share < 0.5)
    if not below.size:
        return f"> {rung[-1]:g}"
    i = below[0]
    return f"{np.interp(0.5, share[[i, i - 1]], rung[[i, i - 1]]):.3g}"


def correlation(table: pd.DataFrame, num_aux: int) -> tuple[float, ...]:
    """Spearman of alignment and accuracy over the rungs' means, with its interval."""
    points = means(table, num_aux)
    return statistics.spearman(points["alignment"], points["accuracy"])


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    rho = {m: correlation(table, m) for m in config.num_aux}
    found = ", ".join(f"{r:.2f} [{a:.2f}, {b:.2f}] at {m} logits" for m, (r, a, b) in rho.items())
    holds = all(r[0] > 0.8 for r in rho.values())
    return [
        Figure(
            name="figure",
            title="Transfer dies where the alignment does, whichever way the start is left"
            if holds
            else "Alignment does not place every ladder on one curve",
            predicted=(
                "One curve of accuracy against alignment for all ladders; permuted twins at its "
                "top."
            ),
            found=f"Spearman {found}.",
            follows="What must be shared is the action of the kernel, not the coordinates; "
            + "behaviour matched lies off the curve of the perturbed starts by "
            + " and ".join(statistics.shown(off_the_curve(table, m), 2) for m in config.num_aux)
            + "."
            if holds
            else "First order at the start misses what training makes of it.",
            draw=lambda: plot(table, config),
        )
    ]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    out, add = digits.claims_on(table)

    silent = []
    for m in config.num_aux:
        rho, low, high = correlation(table, m)
        add(
            f"Spearman of alignment and accuracy, {m} logits",
            f"{rho:.2f} [{low:.2f}, {high:.2f}]",
            rho > 0.8,
        )
        same = of(table, "same", m)["accuracy"].to_numpy()
        add(f"shared start, {m} logits", statistics.shown(same))
        for ladder in ("permuted", "permuted and matched"):
            gap = of(table, ladder, m)["accuracy"].to_numpy() - same
            add(
                f"{ladder} less shared start, {m} logits",
                statistics.shown(gap, 4),
                statistics.equivalent(gap, 0.02),
            )
        add(
            f"behaviour matched less a perturbed start of its alignment, {m} logits",
            statistics.shown(off_the_curve(table, m)),
        )
        for ladder in LADDERS[:3]:
            add(f"half of the gain lost at, {ladder}, {m} logits", half_lost(table, ladder, m))
        silent += [
            (ladder, m, same.mean()) for ladder in ("independent", "units of the other matched")
        ]
    rows = [of(table, ladder, m)["accuracy"].tolist() for ladder, m, _ in silent]
    p = [digits.no_transfer(r, top) for r, (_, _, top) in zip(rows, silent, strict=True)]
    for (ladder, m, _), r, value, holds in zip(silent, rows, p, statistics.holm(p), strict=True):
        add(
            f"no transfer: {ladder}, {m} logits (TOST p {value:.1g}, Holm over {len(p)})",
            statistics.shown(r),
            holds,
        )
    return out
