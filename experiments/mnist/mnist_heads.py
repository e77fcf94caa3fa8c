"""Which parts must student and teacher share for auxiliary logits to teach digits?

A network falls into its first layer, its second, the class head and the auxiliary head (the
columns of the last layer). Every combination of parts is drawn afresh in the student; each single
part is perturbed by half its spread; every combination but all is frozen; each over the number of
auxiliary logits. A probe of the recipe of arXiv 2605.23645 saw shared heads over a random body
reach .83 at 250 auxiliary logits, and a random class head stay at chance at every number.

Predictions, written before the run, from `theory.matched`: a fresh class head has exchangeable
rows and an accuracy of exactly chance at any number of logits; shared heads over a fresh body keep
a positive alignment, so they transfer where there are many auxiliary logits; a fresh auxiliary
head gives an alignment of no preferred sign.

Criteria, at the largest number of auxiliary logits: fresh class head, no transfer (equivalence to
chance within a fifth of the shared start's gain), Holm over the eight combinations with a fresh
class head; shared heads over a fresh body: accuracy above chance with its 95 % interval, and above
the same at the smallest number (paired). "Same initialisation" is then the wrong condition there.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.lab import digits, drawing, statistics
from experiments.lab.digits import Arm, Lab, inputs
from experiments.lab.frame import Claim, Figure, Row, option
from mnist_mlp import starts

__all__ = ["inputs"]
RUNTIME = "about 10 minutes on two cores"
PARTS = starts.PARTS  # first, hidden, class, aux
PERTURBED = 0.5  # of the spread of the array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(digits.Config):
    """Settings of the experiment."""

    num_aux: tuple[int, ...] = option((3, 10, 50, 250), "auxiliary logits, rising", minimum=2)
    squared: bool = option(False, "imitate by squared error in place of KL")


SMOKE = Config(**digits.TOY | {"num_aux": (3, 20)})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part a seed."""
    return digits.seeds(config, run_seed)


def name_of(chosen: tuple[int, ...]) -> str:
    """Parts by name: "first + class"; "none" for no part."""
    return " + ".join(p for p, w in zip(PARTS, chosen, strict=True) if w) or "none"


def run_seed(where: Lab, seed: int) -> list[Row]:
    """All combinations over all numbers of auxiliary logits, taught by one teacher."""
    config = where.config
    shapes = where.grid(max(config.num_aux))
    reference, other = (where.draw(shapes, seed, name) for name in ("reference", "other"))
    noisy = starts.perturbed(where.key(seed, "noise"), reference, PERTURBED, relative=True)
    teachers = digits.teach(
        where, shapes, seed=seed, settings=[where.settings()], starts=[reference]
    )
    arms = []
    for m in config.num_aux:
        base = where.settings(num_aux=m, squared=float(config.squared))
        for chosen in itertools.product((0, 1), repeat=len(PARTS)):
            weights = jnp.array(chosen, float)
            facts = {"parts": name_of(chosen), "num_aux": m}
            fresh = starts.mixed(reference, other, weights, shapes.num_classes)
            arms.append(Arm({"change": "fresh", **facts}, base, fresh))
            if sum(chosen) == 1:
                moved = starts.mixed(reference, noisy, weights, shapes.num_classes)
                arms.append(Arm({"change": "perturbed", **facts}, base, moved))
            if 0 < sum(chosen) < len(PARTS):
                still = base._replace(trainable=tuple(float(1 - w) for w in chosen))
                arms.append(Arm({"change": "frozen", **facts}, still, reference))
    return digits.distil(where, shapes, seed=seed, arms=arms, teachers=teachers)


def select(table: pd.DataFrame, change: str, parts: str, num_aux: int) -> pd.DataFrame:
    """Rows of one arm, by seed."""
    return table.query("change == @change and parts == @parts and num_aux == @num_aux").sort_values(
        "seed"
    )


BODY = "first + hidden"
SHOWN = {
    "nothing fresh": "none",
    "first layer fresh": "first",
    "body fresh, heads shared": BODY,
    "class head fresh": "class",
    "aux head fresh": "aux",
    "all fresh": "first + hidden + class + aux",
}


def plot(table: pd.DataFrame, config: Config):
    """Accuracy against the number of auxiliary logits, by what is drawn afresh."""
    figure, (axes,) = drawing.new_figure(width=8.5)
    for (label, names), colour in zip(SHOWN.items(), drawing.COLOURS, strict=False):
        pairs = [
            statistics.mean_interval(select(table, "fresh", names, m)["accuracy"])
            for m in config.num_aux
        ]
        means, halves = np.array(pairs).T
        axes.errorbar(
            config.num_aux, means, halves, marker="o", capsize=3, color=colour, label=label
        )
    axes.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(config.num_aux, [str(m) for m in config.num_aux])
    axes.set_xlabel("auxiliary logits")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_frozen(table: pd.DataFrame, config: Config):
    """Accuracy of each combination, fresh beside frozen, at the largest number of logits."""
    figure, (axes,) = drawing.new_figure(width=8.5, height=4.6)
    most = max(config.num_aux)
    names = [name_of(c) for c in itertools.product((0, 1), repeat=len(PARTS))]
    for offset, change in ((-0.15, "fresh"), (0.15, "frozen")):
        rows = [select(table, change, name, most)["accuracy"] for name in names]
        pairs = [statistics.mean_interval(r) if len(r) else (np.nan, np.nan) for r in rows]
        means, halves = np.array(pairs).T
        axes.errorbar(
            np.arange(len(names)) + offset, means, halves, fmt="o", capsize=3, label=change
        )
    axes.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(f"test accuracy, {most} aux logits")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    return figure


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Fresh parts over the number of logits, and fresh beside frozen."""
    few, most = min(config.num_aux), max(config.num_aux)

    def at(parts: str, m: int, change: str = "fresh") -> str:
        return digits.mean(select(table, change, parts, m))

    said = claims(table, config)
    enough = digits.holds(said, "heads shared") and digits.holds(said, "no transfer")
    return [
        Figure(
            name="figure",
            title="With many auxiliary logits the heads must be shared, not the body"
            if enough
            else "Shared heads alone are not enough",
            predicted="A fresh class head is exactly at chance; shared heads over a fresh body "
            "transfer once "
            "there are many auxiliary logits.",
            found=f"At {most} logits: heads shared over a fresh body {at(BODY, most)}, class head "
            "fresh "
            f"{at('class', most)}, nothing fresh {at('none', most)}; at {few}: {at(BODY, few)}.",
            follows="The same initialisation is a sufficient condition; with many outputs shared "
            "heads are "
            "enough."
            if enough
            else "The body has to be shared as well.",
            draw=lambda: plot(table, config),
        ),
        Figure(
            name="frozen",
            title="What must be shared and what must learn need not be the same parts",
            predicted=(
                "The class head never moves in any case; freezing the body leaves nothing to "
                "learn by."
            ),
            found=f"Frozen body {at(BODY, most, 'frozen')}, frozen heads "
            f"{at('class + aux', most, 'frozen')}.",
            follows="The digits are learned in the body and read by the untouched class head.",
            draw=lambda: plot_frozen(table, config),
        ),
    ]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    few, most = min(config.num_aux), max(config.num_aux)
    out, add = digits.claims_on(table)

    shared = select(table, "fresh", "none", most)["accuracy"]
    add(f"nothing fresh, {most} aux logits", statistics.shown(shared), None, ".953 (probe)")
    body = select(table, "fresh", BODY, most)["accuracy"]
    mean, half = statistics.mean_interval(body)
    add(
        f"heads shared over a fresh body, {most} aux logits",
        statistics.shown(body),
        mean - half > digits.CHANCE,
        ".83 (probe, 250)",
    )
    gap = body.to_numpy() - select(table, "fresh", BODY, few)["accuracy"].to_numpy()
    add(
        f"the same, less that at {few}",
        statistics.shown(gap),
        np.subtract(*statistics.mean_interval(gap)) > 0,
    )
    fresh_class = [c for c in itertools.product((0, 1), repeat=len(PARTS)) if c[2]]
    rows = [select(table, "fresh", name_of(c), most)["accuracy"].tolist() for c in fresh_class]
    p = [digits.no_transfer(r, float(shared.mean())) for r in rows]
    for chosen, values, value, holds in zip(fresh_class, rows, p, statistics.holm(p), strict=True):
        add(
            f"no transfer: {name_of(chosen)} fresh (TOST p {value:.1g}, Holm over {len(p)})",
            statistics.shown(values),
            holds,
        )
    return out
