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
the same at the smallest number (paired), Holm over the two. Heads that are necessary need not be
enough: the share of the gain that they keep alone is reported, without a criterion.
"""

import dataclasses
import functools
import itertools

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
from mnist_mlp import starts

__all__ = ["inputs"]
RUNTIME = "about 10 minutes on two cores"
PARTS = starts.PARTS  # first, hidden, class, aux
CHOICES = tuple(itertools.product((0, 1), repeat=len(PARTS)))  # which of them are changed
PERTURBED = 0.5  # of the spread of the array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_aux: tuple[int, ...] = option((3, 10, 50, 250), "auxiliary logits, rising", minimum=2)
    squared: bool = option(False, "imitate by squared error in place of KL")


SMOKE = Config(**flags.TOY | {"num_aux": (3, 20)})


def arms(config: Config) -> dict[str, Arm]:
    """One arm a seed."""
    return by_seed(setup_of(config), run_seed)


def name_of(chosen: tuple[int, ...]) -> str:
    """Parts by name: "first + class"; "none" for no part."""
    return " + ".join(p for p, w in zip(PARTS, chosen, strict=True) if w) or "none"


def run_seed(setup: Setup, seed: int) -> list[Row]:
    """All combinations over all numbers of auxiliary logits, taught by one teacher."""
    config = setup.config
    shapes = setup.grid(max(config.num_aux))
    reference, other = (setup.draw(shapes, seed, name) for name in ("reference", "other"))
    noisy = starts.perturbed(setup.key(seed, "noise"), reference, PERTURBED, relative=True)
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[reference])
    students = []
    for m in config.num_aux:
        base = setup.settings(num_aux=m, squared=float(config.squared))
        for chosen in CHOICES:
            weights = jnp.array(chosen, float)
            facts = {"parts": name_of(chosen), "num_aux": m}
            fresh = starts.mixed(reference, other, weights, shapes.num_classes)
            students.append(Student({"change": "fresh", **facts}, base, fresh))
            if sum(chosen) == 1:
                moved = starts.mixed(reference, noisy, weights, shapes.num_classes)
                students.append(Student({"change": "perturbed", **facts}, base, moved))
            if 0 < sum(chosen) < len(PARTS):
                still = base._replace(trainable=tuple(float(1 - w) for w in chosen))
                students.append(Student({"change": "frozen", **facts}, still, reference))
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


BODY, HEADS = "first + hidden", "class + aux"
SHOWN = {
    "nothing fresh": "none",
    "first layer fresh": "first",
    "body fresh, heads shared": BODY,
    "class head fresh": "class",
    "aux head fresh": "aux",
    "all fresh": "first + hidden + class + aux",
}


def accuracies(table: pd.DataFrame, change: str, parts: str, num_aux: int) -> np.ndarray:
    """Of one arm, by seed."""
    rows = table.query("change == @change and parts == @parts and num_aux == @num_aux")
    return rows.sort_values("seed")["accuracy"].to_numpy()


def criteria(table: pd.DataFrame, config: Config) -> tuple[list[Claim], Claim]:
    """Those of the docstring, heads over a fresh body second; and that heads need not learn."""
    few, most = min(config.num_aux), max(config.num_aux)
    claim = functools.partial(transfer.claim, table)
    shared, body = (accuracies(table, "fresh", parts, most) for parts in ("none", BODY))
    rise = body - accuracies(table, "fresh", BODY, few)
    silent = [name_of(chosen) for chosen in CHOICES if chosen[PARTS.index("class")]]
    share = (body - transfer.CHANCE) / (shared.mean() - transfer.CHANCE)
    frozen = accuracies(table, "frozen", HEADS, most) - transfer.CHANCE
    transmits, heads_need_not = corrected(
        [
            claim(
                f"heads shared over a fresh body, {most} aux logits",
                here=body,
                above=body - transfer.CHANCE,
                replication=".83 (probe, 250)",
            ),
            claim(f"the same, less that at {few}", here=rise, above=rise),
        ],
        claim("heads frozen, less chance", here=frozen, above=frozen),  # for a caption
    )
    claims = [
        claim(f"nothing fresh, {most} aux logits", here=shared, replication=".953 (probe)"),
        *transmits,
        claim("its share of the gain of a shared start", here=share),
        *transfer.no_transfer(
            table,
            {
                f"{parts} fresh": (accuracies(table, "fresh", parts, most), shared)
                for parts in silent
            },
        ),
    ]
    return claims, heads_need_not


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Fresh parts over the number of logits, and fresh beside frozen."""
    claims, heads_need_not = criteria(table, config)
    heads_shared = claims[1]
    figures = [
        figure_of_fresh(table, claims, config),
        figure_of_frozen(
            table, heads_shared=heads_shared, heads_need_not=heads_need_not, config=config
        ),
    ]
    return Findings(figures, claims)


def figure_of_fresh(table: pd.DataFrame, claims: list[Claim], config: Config) -> Figure:
    """What must be shared; the claims are those of `criteria`."""
    few, most = min(config.num_aux), max(config.num_aux)
    _, heads_shared, _, share, *silent_claims = claims
    fresh = {p: accuracies(table, "fresh", p, most) for p in ("none", BODY, "class")}
    return Figure(
        name="figure",
        title=say(
            [heads_shared, *silent_claims],
            holds="The class head must be shared; with many auxiliary logits shared heads "
            "alone give a part of the transfer",
            fails="Sharing the heads is not what decides, even with many auxiliary logits",
            open="Must the heads be shared, or the body?",
        ),
        predicted="A fresh class head is exactly at chance; shared heads over a fresh body "
        "transfer once there are many auxiliary logits.",
        found=f"At {most} logits: heads shared over a fresh body "
        f"{statistics.shown(fresh[BODY])}, class head fresh "
        f"{statistics.shown(fresh['class'])}, nothing fresh {statistics.shown(fresh['none'])}; "
        f"at {few}: {statistics.shown(accuracies(table, 'fresh', BODY, few))}. Shared heads "
        f"alone keep {share.here} of the gain.",
        follows=say(
            [heads_shared],
            holds="The class head is necessary, and both heads are enough for some transfer "
            "but not for all of it: the body's start carries the rest.",
            fails="The body has to be shared as well.",
            open="If so, the same initialisation is more than is needed.",
        ),
        draw=lambda: plot(table, config),
    )


def figure_of_frozen(
    table: pd.DataFrame, *, heads_shared: Claim, heads_need_not: Claim, config: Config
) -> Figure:
    """What must learn, beside the heads that must be shared."""
    most = max(config.num_aux)
    shared = accuracies(table, "fresh", "none", most)
    frozen = {p: accuracies(table, "frozen", p, most) for p in (BODY, HEADS)}
    silent_body = transfer.no_transfer_p(frozen[BODY], shared) < 0.05
    body_must_learn = transfer.unstated(table, silent_body)
    return Figure(
        name="frozen",
        title=say(
            [heads_shared, body_must_learn],
            holds="What must be shared and what must learn need not be the same parts",
            fails="What must be shared and what must learn are not shown to differ",
            open="Are what must be shared and what must learn the same parts?",
        ),
        predicted=(
            "The class head never moves in any case; freezing the body leaves nothing to learn by."
        ),
        found=f"Frozen body {statistics.shown(frozen[BODY])}, frozen heads "
        f"{statistics.shown(frozen[HEADS])}.",
        follows=say(
            [body_must_learn, heads_need_not],
            holds="The digits are learned in the body and read by the untouched class head.",
            fails="The digits are not learned in the body alone.",
            open="If so, the digits are learned in the body and read by the class head.",
        ),
        draw=lambda: plot_frozen(table, config),
    )


def plot(table: pd.DataFrame, config: Config):
    """Accuracy against the number of auxiliary logits, by what is drawn afresh."""
    figure, (axes,) = drawing.new_figure(width=8.5)
    curves = {
        label: [accuracies(table, "fresh", names, m) for m in config.num_aux]
        for label, names in SHOWN.items()
    }
    drawing.lines(axes, config.num_aux, curves)
    transfer.draw_chance(axes)
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
    names = [name_of(chosen) for chosen in CHOICES]
    for offset, change in ((-0.15, "fresh"), (0.15, "frozen")):
        arms = [accuracies(table, change, name, most) for name in names]
        pairs = [statistics.mean_interval(arm) if len(arm) else (np.nan, np.nan) for arm in arms]
        means, halves = np.array(pairs).T
        axes.errorbar(
            np.arange(len(names)) + offset, means, halves, fmt="o", capsize=3, label=change
        )
    transfer.draw_chance(axes)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(f"test accuracy, {most} aux logits")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    return figure
