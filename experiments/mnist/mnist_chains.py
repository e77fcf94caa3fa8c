"""How long does a trait live down a chain of students, and in what: weights or moments?

Teacher -> student -> student, ten generations, each from the same reference and taught by the one
before, through auxiliary logits on noise alone. Soft targets or sampled labels; noise fresh in
every generation or one pool for all; a lineage of a neutral teacher (shuffled labels) beside it.
A public page reports a half-life of .955 generations (same start .630, another .090).

Then persistence: a student is trained on benign data, digits with other labels or the outputs of
an untrained network on plain images, with Adam's moments carried over from its distillation,
zeroed, or swapped with those of a neutral student (2608.20442: moments carry what weights hide).

Predictions, written before the run: the gain over chance decays geometrically, since each hop
passes the same share of a displacement; sampled labels decay faster; the neutral lineage stays at
chance. Benign training erodes the trait slowly, and the moments make no difference after the
first few steps: the trait is in the weights.

Criteria: neutral lineage at every generation, no transfer (equivalence to chance within a fifth of
the first generation's gain, Holm over the generations); half-life of soft targets with its
interval (per seed, log-linear fit over generations whose mean gain is above .05), compared with
.955. Persistence: zeroed and swapped moments within .05 of carried ones after benign training
(equivalence, paired, Holm over the pairs).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import digits, drawing, statistics
from experiments.lab.digits import Lab, inputs
from experiments.lab.frame import Claim, Figure, Row, option
from mnist_mlp import grid, noise

__all__ = ["inputs"]
RUNTIME = "about 15 minutes on two cores"
LINEAGES = ("soft, fresh noise", "soft, one pool", "sampled labels, fresh noise")
BENIGN = ("other labels", "plain images")
MOMENTS = ("carried", "zeroed", "swapped")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(digits.Config):
    """Settings of the experiment."""

    num_aux: int = option(10, "auxiliary logits", minimum=2)
    generations: int = option(10, "students in a chain", minimum=2)
    benign_epochs: tuple[int, ...] = option((1, 5), "epochs of benign data, rising", minimum=1)


SMOKE = Config(**digits.TOY | {"generations": 3, "benign_epochs": (1, 2)})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every seed and lineage, and one a seed for persistence."""
    where = digits.lab(config)
    found: dict[str, Callable[[], list[Row]]] = {}
    for seed in range(config.num_seeds):
        for lineage in LINEAGES:
            name = f"seed {seed}, {lineage}"
            found[name] = functools.partial(run_chain, where, seed, lineage)
        found[f"seed {seed}, persistence"] = functools.partial(run_persistence, where, seed)
    return found


def family(where: Lab, seed: int):
    """Grid, reference, and the teacher of digits beside the neutral one."""
    shapes = where.grid(where.config.num_aux)
    reference = where.draw(shapes, seed, "reference")
    both = [where.settings(), where.settings(shuffled=1.0)]
    return (
        shapes,
        reference,
        digits.teach(where, shapes, seed=seed, settings=both, starts=[reference] * 2),
    )


def row(where: Lab, seed: int, **facts) -> Row:
    """A tidy row; what does not apply stays at its neutral value."""
    base = {
        "seed": seed,
        "lineage": "",
        "taught_by": "",
        "generation": 0,
        "benign": "",
        "moments": "",
        "epochs": 0,
        "accuracy": np.nan,
        "dataset": where.data.name,
    }
    return base | facts


def run_chain(where: Lab, seed: int, lineage: str) -> list[Row]:
    """Generations of two families side by side: that of the trait and the neutral one."""
    shapes, reference, teachers = family(where, seed)
    label = grid.SAMPLED if lineage.startswith("sampled") else grid.SOFT
    settings = grid.stack(
        [where.settings(num_aux=shapes.num_aux, label=label, teacher=i) for i in (0, 1)]
    )
    parents, rows = teachers.params, []
    names = ("teacher", "neutral")
    for generation in range(where.config.generations + 1):
        if generation:
            parents = child(
                where,
                shapes,
                seed=seed,
                settings=settings,
                reference=reference,
                parents=parents,
                pool=generation if "fresh" in lineage else 0,
            )[0]
        accuracies = where.accuracy(shapes, shapes.student, parents)
        rows += [
            row(where, seed, lineage=lineage, taught_by=name, generation=generation, accuracy=a)
            for name, a in zip(names, accuracies, strict=True)
        ]
    return rows


def child(where: Lab, shapes, *, seed: int, settings, reference, parents, pool: int) -> grid.State:
    """Students of all parents, from the reference, on the noise of a pool of its own number."""
    return grid.imitate(
        shapes,
        settings,
        state=grid.start(shapes, settings, grid.stacked([reference] * 2)),
        teachers=parents,
        what=noise.source("uniform"),
        pictures=where.pictures,
        key=where.key(seed, f"noise {pool:03d}"),
        first=0,
        last=where.config.epochs,
    )


def run_persistence(where: Lab, seed: int) -> list[Row]:
    """Benign training of a student of the trait, by what becomes of Adam's moments."""
    shapes, reference, teachers = family(where, seed)
    settings = grid.stack([where.settings(num_aux=shapes.num_aux, teacher=i) for i in (0, 1)])
    params, moments = child(
        where,
        shapes,
        seed=seed,
        settings=settings,
        reference=reference,
        parents=teachers.params,
        pool=0,
    )
    carried = grid.pick(moments, 0)
    kinds = dict(zip(MOMENTS, (carried, grid.zeroed(carried), grid.pick(moments, 1)), strict=True))
    start = grid.stacked([grid.pick(params, 0)] * len(kinds)), grid.stacked(list(kinds.values()))
    found = []
    for benign in BENIGN:
        state, first = start, 0
        for last in where.config.benign_epochs:
            state = benign_training(
                where, shapes, seed=seed, benign=benign, state=state, first=first, last=last
            )
            first = last
            accuracies = where.accuracy(shapes, shapes.student, state[0])
            found += [
                row(
                    where,
                    seed,
                    taught_by="teacher",
                    generation=1,
                    benign=benign,
                    moments=name,
                    epochs=last,
                    accuracy=a,
                )
                for name, a in zip(kinds, accuracies, strict=True)
            ]
    before = where.accuracy(shapes, shapes.student, params)[0]
    return [
        *found,
        row(
            where,
            seed,
            taught_by="teacher",
            generation=1,
            benign="none",
            moments="carried",
            accuracy=before,
        ),
    ]


def benign_training(where: Lab, shapes, *, seed: int, benign: str, state, first: int, last: int):
    """Auxiliary logits of an untrained network on photographs, or the digits' shuffled labels.

    Class logits are trained towards labels that say nothing of the digits; on plain images none
    but the auxiliary logits are.
    """
    key, count = where.key(seed, "benign"), len(MOMENTS)
    if benign == "other labels":
        settings = grid.stack([where.settings(shuffled=1.0)] * count)
        return grid.teach(
            shapes, where.data, settings=settings, state=state, key=key, first=first, last=last
        )
    settings = grid.stack([where.settings(num_aux=shapes.num_aux)] * count)
    stranger = grid.stacked([where.draw(shapes, seed, "stranger")] * 2)
    return grid.imitate(
        shapes,
        settings,
        state=state,
        teachers=stranger,
        what=noise.source("photographs"),
        pictures=where.pictures,
        key=key,
        first=first,
        last=last,
    )


def gains(table: pd.DataFrame, lineage: str, taught_by: str = "teacher") -> pd.DataFrame:
    """Accuracy less chance: seeds as rows, generations as columns."""
    rows = table.query("lineage == @lineage and taught_by == @taught_by")
    return rows.pivot(index="seed", columns="generation", values="accuracy") - digits.CHANCE


def half_lives(table: pd.DataFrame, lineage: str) -> list[float]:
    """Generations in which the gain halves, by seed: slope of log2 gain over the clear ones.

    Empty where fewer than two generations of students are clear of chance: there is no slope.
    """
    wide = gains(table, lineage).drop(columns=0)
    clear = [g for g in wide.columns if wide[g].mean() > 0.05]
    if len(clear) < 2:
        return []
    logs = np.log2(np.asarray(wide[clear].clip(lower=0.005)))
    return [-1 / np.polyfit(clear, line, 1)[0] for line in logs]


def half_life(table: pd.DataFrame, lineage: str) -> str:
    """Mean and interval of `half_lives`, or what is left of the gain where there is none."""
    lives, first = half_lives(table, lineage), gains(table, lineage)
    if lives:
        return f"{statistics.shown(lives, 2)} generations"
    return f"no fit, the gain is {statistics.shown(first[1])}, then {statistics.shown(first[2])}"


def plot(table: pd.DataFrame, config: Config):
    """Accuracy by generation, and what benign training leaves."""
    figure, (left, right) = drawing.new_figure(1, 2, width=10.0, height=4.2)
    lines = [(name, "teacher", "-") for name in LINEAGES] + [(LINEAGES[0], "neutral", "--")]
    for (lineage, who, style), colour in zip(lines, drawing.COLOURS, strict=False):
        wide = gains(table, lineage, who) + digits.CHANCE
        means, halves = np.array([statistics.mean_interval(wide[g]) for g in wide]).T
        label = lineage if who == "teacher" else "neutral lineage"
        left.errorbar(
            wide.columns, means, halves, fmt="o" + style, ms=4, capsize=3, color=colour, label=label
        )
    left.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1)
    left.set_xlabel("generation (0: the teacher)")
    left.set_ylabel("test accuracy")
    left.legend(fontsize=8)
    benign = table[table["moments"].notna() & (table["epochs"] > 0)]
    found = digits.per_arm(benign, ["benign", "epochs", "moments"])
    kinds = found[["benign", "epochs"]].drop_duplicates().sort_values(["benign", "epochs"])
    names = [
        f"{benign}\n{epochs} epoch{'' if epochs == 1 else 's'}"
        for benign, epochs in zip(kinds["benign"], kinds["epochs"], strict=True)
    ]
    for offset, (moments, part) in zip((-0.2, 0, 0.2), found.groupby("moments"), strict=False):
        ordered = part.sort_values(["benign", "epochs"])
        right.errorbar(
            np.arange(len(ordered)) + offset,
            ordered["mean"],
            ordered["half"],
            fmt="o",
            capsize=3,
            label=f"moments {moments}",
        )
    right.set_xticks(range(len(names)), names, fontsize=8)
    before = table.query("benign == 'none'")["accuracy"].mean()
    right.axhline(before, color="black", linestyle="--", linewidth=1, label="before")
    right.axhline(digits.CHANCE, color="black", linestyle=":", linewidth=1, label="chance")
    right.set_ylim(0, 1)
    right.set_ylabel("test accuracy after benign training")
    right.legend(fontsize=8)
    return figure


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    lives = half_life(table, LINEAGES[0])
    first = gains(table, LINEAGES[0])[1] + digits.CHANCE
    after = table.query("moments == 'carried' and epochs == @config.benign_epochs[-1]")
    left = ", ".join(f"{digits.mean(after[after['benign'] == kind])} on {kind}" for kind in BENIGN)
    return [
        Figure(
            name="figure",
            title=f"Half-life of a trait down a chain of students: {lives}",
            predicted="A constant share survives each hop (half-life .955 generations); the trait "
            "is in the weights.",
            found=f"First student {statistics.shown(first)}, half-life {lives}; sampled labels: "
            f"{half_life(table, LINEAGES[2])}; after {config.benign_epochs[-1]} benign epochs "
            f"{left}.",
            follows="Soft targets carry a trait over several students, sampled labels over one; "
            "benign "
            "training erases most of it.",
            draw=lambda: plot(table, config),
        )
    ]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    out, add = digits.claims_on(table)

    for lineage in LINEAGES:
        public = ".955 generations" if lineage == LINEAGES[0] else ""
        inside = None
        if public and (lives := half_lives(table, lineage)):
            mean, half = statistics.mean_interval(lives)
            inside = abs(mean - 0.955) <= half
        add(f"half-life, {lineage}", half_life(table, lineage), inside, public)
    top = gains(table, LINEAGES[0])[1].mean() + digits.CHANCE
    neutral = gains(table, LINEAGES[0], "neutral").drop(columns=0) + digits.CHANCE
    p = [digits.no_transfer(neutral[g].tolist(), top) for g in neutral]
    silent = statistics.holm(p)
    add(
        f"neutral lineage at chance (TOST, Holm over {len(p)})",
        f"{sum(silent)} of {len(p)}",
        all(silent),
    )
    last = table[table["epochs"] == config.benign_epochs[-1]]
    wide = {
        b: last[last["benign"] == b].pivot(index="seed", columns="moments", values="accuracy")
        for b in BENIGN
    }
    pairs = [(b, m) for b in BENIGN for m in MOMENTS[1:]]
    gaps = [(wide[b][m] - wide[b]["carried"]).tolist() for b, m in pairs]
    tests = [statistics.equivalence_p(gap, 0.05) for gap in gaps]
    for (b, m), gap, holds in zip(pairs, gaps, statistics.holm(tests), strict=True):
        add(
            f"{b}: moments {m} less carried (TOST, Holm over {len(pairs)})",
            statistics.shown(gap),
            holds,
        )
    return out
