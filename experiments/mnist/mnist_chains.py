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
the first generation's gain, Holm over the generations); half-life of soft targets from the mean
slope over seeds of log2 gain against generations (those whose mean gain is above .05), its interval
that of the slope; published: .955, by another recipe (its first student has .630). Persistence:
zeroed and swapped moments within .05 of carried ones after benign training (equivalence, paired,
Holm over the pairs).
"""

import dataclasses
import functools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say, smallest
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, setup_of, teach
from mnist_mlp import grid, noise

__all__ = ["inputs"]
RUNTIME = "about 15 minutes on two cores"
LINEAGES = ("soft, fresh noise", "soft, one pool", "sampled labels, fresh noise")
BENIGN = ("other labels", "plain images")
MOMENTS = ("carried", "zeroed", "swapped")
PUBLISHED = 0.955  # generations in which the gain halves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """Settings of the experiment."""

    num_aux: int = option(10, "auxiliary logits", minimum=2)
    generations: int = option(10, "students in a chain", minimum=2)
    benign_epochs: tuple[int, ...] = option((1, 5), "epochs of benign data, rising", minimum=1)


SMOKE = Config(**flags.TOY | {"generations": 3, "benign_epochs": (1, 2)})


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed and lineage, and one a seed for persistence."""
    setup = setup_of(config)
    out: dict[str, Arm] = {}
    for seed in range(config.num_seeds):
        for lineage in LINEAGES:
            out[f"seed {seed}, {lineage}"] = Arm(
                columns={"seed": seed, "lineage": lineage},
                measure=functools.partial(run_chain, setup, seed, lineage),
            )
        out[f"seed {seed}, persistence"] = Arm(
            columns={"seed": seed, "lineage": "", "taught_by": "teacher", "generation": 1},
            measure=functools.partial(run_persistence, setup, seed),
        )
    return out


def family(setup: Setup, seed: int):
    """Grid, reference, and the teacher of digits beside the neutral one."""
    shapes = setup.grid(setup.config.num_aux)
    reference = setup.draw(shapes, seed, "reference")
    both = [setup.settings(), setup.settings(shuffled=1.0)]
    teachers = teach(setup, shapes, seed=seed, settings=both, starts=[reference] * 2)
    return shapes, reference, teachers


def measured(
    setup: Setup, accuracy: float, *, benign: str = "", moments: str = "", epochs: int = 0
) -> Row:
    """An accuracy after benign training, or before any."""
    row = {"benign": benign, "moments": moments, "epochs": epochs}
    return row | {"accuracy": accuracy, "dataset": setup.data.name}


def run_chain(setup: Setup, seed: int, lineage: str) -> list[Row]:
    """Generations of two families side by side: that of the trait and the neutral one."""
    shapes, reference, teachers = family(setup, seed)
    label = grid.SAMPLED if lineage.startswith("sampled") else grid.SOFT
    settings = grid.stack(
        [setup.settings(num_aux=shapes.num_aux, label=label, teacher=i) for i in (0, 1)]
    )
    parents, rows = teachers.params, []
    names = ("teacher", "neutral")
    for generation in range(setup.config.generations + 1):
        if generation:
            parents = child(
                setup,
                shapes,
                seed=seed,
                settings=settings,
                reference=reference,
                parents=parents,
                pool=generation if "fresh" in lineage else 0,
            )[0]
        accuracies = setup.accuracy(shapes, shapes.student, parents)
        rows += [
            {"taught_by": name, "generation": generation, **measured(setup, accuracy)}
            for name, accuracy in zip(names, accuracies, strict=True)
        ]
    return rows


def child(
    setup: Setup, shapes, *, seed: int, settings, reference, parents, pool: int
) -> grid.State:
    """Students of all parents, from the reference, on the noise of a pool of its own number."""
    return grid.imitate(
        shapes,
        settings,
        state=grid.start(shapes, settings, grid.stacked([reference] * 2)),
        teachers=parents,
        what=noise.source("uniform"),
        pictures=setup.pictures,
        key=setup.key(seed, f"noise {pool:03d}"),
        first=0,
        last=setup.config.epochs,
    )


def run_persistence(setup: Setup, seed: int) -> list[Row]:
    """Benign training of a student of the trait, by what becomes of Adam's moments."""
    shapes, reference, teachers = family(setup, seed)
    settings = grid.stack([setup.settings(num_aux=shapes.num_aux, teacher=i) for i in (0, 1)])
    params, moments = child(
        setup,
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
    rows = []
    for benign in BENIGN:
        state, first = start, 0
        for last in setup.config.benign_epochs:
            state = benign_training(
                setup, shapes, seed=seed, benign=benign, state=state, first=first, last=last
            )
            first = last
            accuracies = setup.accuracy(shapes, shapes.student, state[0])
            rows += [
                measured(setup, accuracy, benign=benign, moments=name, epochs=last)
                for name, accuracy in zip(kinds, accuracies, strict=True)
            ]
    before = setup.accuracy(shapes, shapes.student, params)[0]
    return [*rows, measured(setup, before, benign="none", moments="carried", epochs=0)]


def benign_training(setup: Setup, shapes, *, seed: int, benign: str, state, first: int, last: int):
    """Auxiliary logits of an untrained network on photographs, or the digits' shuffled labels.

    Class logits are trained towards labels that say nothing of the digits; on plain images none
    but the auxiliary logits are.
    """
    key, count = setup.key(seed, "benign"), len(MOMENTS)
    if benign == "other labels":
        settings = grid.stack([setup.settings(shuffled=1.0)] * count)
        return grid.teach(
            shapes, setup.data, settings=settings, state=state, key=key, first=first, last=last
        )
    settings = grid.stack([setup.settings(num_aux=shapes.num_aux)] * count)
    stranger = grid.stacked([setup.draw(shapes, seed, "stranger")] * 2)
    return grid.imitate(
        shapes,
        settings,
        state=state,
        teachers=stranger,
        what=noise.source("photographs"),
        pictures=setup.pictures,
        key=key,
        first=first,
        last=last,
    )


def gains(table: pd.DataFrame, lineage: str, taught_by: str = "teacher") -> pd.DataFrame:
    """Accuracy less chance: seeds as rows, generations as columns."""
    rows = table.query("lineage == @lineage and taught_by == @taught_by")
    return rows.pivot(index="seed", columns="generation", values="accuracy") - transfer.CHANCE


def clear_generations(table: pd.DataFrame, lineage: str) -> list[int]:
    """The generations of students whose mean gain is clear of chance."""
    wide = gains(table, lineage).drop(columns=0)
    return [int(generation) for generation in wide if wide[generation].mean() > 0.05]


def slopes(table: pd.DataFrame, lineage: str) -> list[float]:
    """Change of log2 gain from one clear generation to the next, by seed (least squares).

    Empty where fewer than two generations of students are clear of chance: there is no slope.
    """
    clear = clear_generations(table, lineage)
    if len(clear) < 2:
        return []
    logs = np.log2(np.asarray(gains(table, lineage)[clear].clip(lower=0.005)))
    return [float(np.polyfit(clear, line, 1)[0]) for line in logs]


def life(table: pd.DataFrame, lineage: str) -> tuple[float, float, float] | None:
    """Generations in which the gain halves, with its interval: -1 over the mean slope.

    The interval is that of the slopes, turned over. A mean of the seeds' own half-lives would hang
    on the seed that decays least: a slope near zero is a life without end.
    """
    by_seed = slopes(table, lineage)
    if not by_seed:
        return None
    mean, half = statistics.mean_interval(by_seed)
    ends = (-1 / slope if slope < 0 else np.inf for slope in (mean, mean - half, mean + half))
    value, low, high = ends
    return value, low, high


def is_published(lives: tuple[float, float, float] | None) -> bool | None:
    """Whether the published half-life lies in the interval, if there is one."""
    return lives[1] <= PUBLISHED <= lives[2] if lives else None


def half_life(table: pd.DataFrame, lineage: str) -> str:
    """`life` in words, or what is left of the gain where there is none."""
    lives, first = life(table, lineage), gains(table, lineage)
    if lives:
        value, low, high = lives
        end = f"{high:.2f}" if np.isfinite(high) else "no end"
        return f"{value:.2f} [{low:.2f}, {end}] generations"
    return f"no fit, the gain is {statistics.shown(first[1])}, then {statistics.shown(first[2])}"


def after_benign(table: pd.DataFrame, benign: str, epochs: int) -> pd.DataFrame:
    """Accuracies after so many epochs of benign data: seeds as rows, moments as columns."""
    rows = table.query("benign == @benign and epochs == @epochs")
    return rows.pivot(index="seed", columns="moments", values="accuracy")


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Half-lives and what benign training leaves, and the criteria of the docstring."""
    claim = functools.partial(transfer.claim, table)
    soft, _, sampled = LINEAGES
    lives = {lineage: half_life(table, lineage) for lineage in LINEAGES}
    first = gains(table, soft)[1] + transfer.CHANCE
    neutral = gains(table, soft, "neutral").drop(columns=0) + transfer.CHANCE
    silent = statistics.holm([transfer.no_transfer_p(neutral[g], first) for g in neutral])
    margins = [
        statistics.smallest_share(neutral[g] - transfer.CHANCE, gains(table, soft)[1])
        for g in neutral
    ]
    claims = [
        claim(
            f"half-life, {soft}",
            here=lives[soft],
            holds=is_published(life(table, soft)),
            replication=".955 generations",
        ),
        *(claim(f"half-life, {lineage}", here=lives[lineage]) for lineage in LINEAGES[1:]),
        claim(
            f"neutral lineage at chance (TOST, Holm over {len(silent)})",
            here=f"{sum(silent)} of {len(silent)}, all {smallest(max(margins))}",
            holds=all(silent),
        ),
        *moment_claims(table, config),
    ]
    clear = {lineage: len(clear_generations(table, lineage)) for lineage in LINEAGES}
    last = config.benign_epochs[-1]
    left = {kind: after_benign(table, kind, last)["carried"] for kind in BENIGN}
    erased = [
        (values.mean() - transfer.CHANCE) < 0.5 * (first.mean() - transfer.CHANCE)
        for values in left.values()
    ]
    lasting = transfer.unstated(table, clear[soft] > 1 and clear[sampled] == 1 and all(erased))
    each = ", ".join(f"{statistics.shown(values)} on {kind}" for kind, values in left.items())
    figure = Figure(
        name="figure",
        title=f"Half-life of a trait down a chain of students: {lives[soft]}",
        predicted="A constant share survives each hop (half-life .955 generations); the trait is "
        "in the weights.",
        found=f"First student {statistics.shown(first)}, half-life {lives[soft]}; sampled labels: "
        f"{lives[sampled]}; after {last} benign epochs {each}.",
        follows=say(
            [lasting],
            holds="Soft targets carry a trait over several students, sampled labels over one; "
            "benign training erases most of it.",
            fails=f"The gain is clear of chance in {clear[soft]} generations by soft targets and "
            f"in {clear[sampled]} by sampled labels.",
            open="How far soft targets carry a trait, and sampled labels, is not judged.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def moment_claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """That moments make no difference after benign training: equivalence, Holm over the pairs."""
    gaps = {}
    for benign in BENIGN:
        left = after_benign(table, benign, config.benign_epochs[-1])
        gaps |= {(benign, m): left[m] - left["carried"] for m in MOMENTS if m != "carried"}
    tests = [statistics.equivalence_p(gap, 0.05) for gap in gaps.values()]
    return [
        transfer.claim(
            table,
            f"{benign}: moments {moments} less carried (TOST, Holm over {len(gaps)})",
            here=statistics.bounded(gap),
            holds=holds,
        )
        for ((benign, moments), gap), holds in zip(
            gaps.items(), statistics.holm(tests), strict=True
        )
    ]


def plot(table: pd.DataFrame, config: Config):
    """Accuracy by generation, and what benign training leaves."""
    figure, (left, right) = drawing.new_figure(1, 2, width=10.0, height=4.2)
    lines = [(name, "teacher", "-") for name in LINEAGES] + [(LINEAGES[0], "neutral", "--")]
    for (lineage, who, style), colour in zip(lines, drawing.COLOURS, strict=False):
        wide = gains(table, lineage, who) + transfer.CHANCE
        look = {"fmt": f"o{style}", "ms": 4, "color": colour}
        look["label"] = lineage if who == "teacher" else "neutral lineage"
        drawing.intervals(left, wide.columns, [wide[g] for g in wide], **look)
    transfer.draw_chance(left)
    left.set_xlabel("generation (0: the teacher)")
    left.set_ylabel("test accuracy")
    left.legend(fontsize=8)
    benign = table[table["moments"].notna() & (table["epochs"] > 0)]
    arms = transfer.per_arm(benign, ["benign", "epochs", "moments"])
    kinds = arms[["benign", "epochs"]].drop_duplicates().sort_values(["benign", "epochs"])
    names = [
        f"{benign}\n{epochs} epoch{'' if epochs == 1 else 's'}"
        for benign, epochs in zip(kinds["benign"], kinds["epochs"], strict=True)
    ]
    for offset, (moments, part) in zip((-0.2, 0, 0.2), arms.groupby("moments"), strict=False):
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
    transfer.draw_chance(right, label="chance")
    right.set_ylim(0, 1)
    right.set_ylabel("test accuracy after benign training")
    right.legend(fontsize=8)
    return figure
