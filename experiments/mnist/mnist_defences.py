"""What does it cost to stop the transfer? Transfer left against distillation loss paid.

Each defence over its strengths, on students of 10 auxiliary logits. The publisher's: Gaussian
noise on the outputs, on the teacher's weights (relative to each array's spread), outputs rounded
to a step, the top k auxiliary logits alone, a share of images answered by the untrained reference.
The student's: AdamW and L2, another start (√(1 - s²) own + s other), and the trait-parallel part
of every gradient removed, both ways, with the same for shuffled labels as its control. Paid is
the KL that is left between teacher and student on noise, over that of the undefended student.

Predictions, written before the run: disturbing outputs costs loss before it costs transfer;
projection removes the trait and costs next to nothing, its control keeps both; another start ends
transfer and costs loss. 2608.05734 reports that noise on weights *amplifies* the effect.

Criteria: projection leaves no transfer (equivalence to chance within a fifth of the undefended
gain) at no more than twice its loss; its control keeps the undefended accuracy less .1 (lower end
of the paired 95 % interval). Weight noise amplifies if the paired difference at any strength is
above 0, Holm over the strengths; it is refuted if all means are below. No other defence is
expected below a fifth of the gain at less than twice the loss; those that are, are named.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats

from experiments.lab import digits, drawing, statistics
from experiments.lab.digits import Arm, Lab, Teachers, inputs
from experiments.lab.frame import Claim, Figure, Row, option
from experiments.theorem.alignment_along_training import without_parallel_part
from mnist_mlp import grid, noise, predictors, starts
from mnist_mlp.grid import LOW, Grid, Settings

__all__ = ["inputs"]
RUNTIME = "about 5 minutes on two cores"
TRAIT_BATCH = 256
CLEAN, TRAIT = 0, 1  # numbers of the untrained reference and of the teacher; noisy ones behind

# Noise on outputs, share of clean answers, top k, rounding step: what `disguise` does.
DISGUISES: dict[str, dict[float, tuple[float, float, float, float]]] = {
    "noise on outputs": {s: (s, 0.0, 0.0, 0.0) for s in (0.1, 0.3, 1.0, 3.0)},
    "clean answers": {s: (0.0, s, 0.0, 0.0) for s in (0.5, 0.9)},
    "top k": {k: (0.0, 0.0, k, 0.0) for k in (5.0, 2.0, 1.0)},
    "rounding": {s: (0.0, 0.0, 0.0, s) for s in (0.3, 1.0, 3.0)},
}
NONE = (0.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(digits.Config):
    """Settings of the experiment."""

    num_aux: int = option(10, "auxiliary logits", minimum=2)
    weight_noise: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.4), "over the spread of an array", minimum=0
    )


SMOKE = Config(**digits.TOY | {"weight_noise": (0.1,), "stack": 12})


def disguise(settings: Settings, outputs: jax.Array, key: jax.Array) -> jax.Array:
    """The outputs of the student's teacher after its defence; KL leaves absent logits out."""
    sigma, share, top, step = settings.defence
    noise_key, share_key = jax.random.split(key)
    shown = outputs[jnp.int32(settings.teacher)]
    shown = jnp.where(step > 0, jnp.round(shown / jnp.maximum(step, 1e-6)) * step, shown)
    shown = shown + sigma * jax.random.normal(noise_key, shown.shape)
    aux = jnp.arange(shown.shape[-1]) >= 10
    ranked = jnp.sort(jnp.where(aux, shown, LOW), axis=-1)[:, ::-1]
    least = jnp.take(ranked, jnp.maximum(jnp.int32(top) - 1, 0), axis=-1)[:, None]
    shown = jnp.where((top > 0) & aux & (shown < least), LOW, shown)
    clean = jax.random.uniform(share_key, (len(shown), 1)) < share
    return jnp.where(clean, outputs[CLEAN], shown)


def projection(where: Lab, shapes: Grid, shuffled: bool) -> grid.Wrap:
    """An optimiser that first removes the part of a gradient along the trait's, both ways.

    The trait's gradient is that of fresh digits in every step, or of the same with permuted labels.
    """
    _, apply = grid.network(shapes, shapes.student, where.data.train_images.shape[1])
    images, labels = where.data.train_images, where.data.train_labels
    labels = jax.random.permutation(jax.random.key(1), labels) if shuffled else labels

    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params):
            return optimizer.init(params), jnp.int32(0)

        def update(grads, state, params=None):
            inner, count = state
            key = jax.random.fold_in(jax.random.key(2), count)
            rows = jax.random.randint(key, (TRAIT_BATCH,), 0, len(labels))
            pixels = noise.to_pixels(images[rows])
            trait = predictors.trait_loss(shapes, apply, pixels, labels[rows])
            grads = without_parallel_part(grads, jax.grad(trait)(params), 1.0, 1.0)
            steps, inner = optimizer.update(grads, inner, params)
            return steps, (inner, count + 1)

        return optax.GradientTransformation(init, update)

    return wrap


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every seed, and two for its projections."""
    where = digits.lab(config)
    shapes = where.grid(config.num_aux)
    wraps = {
        "projection": projection(where, shapes, shuffled=False),
        "projection, shuffled": projection(where, shapes, shuffled=True),
    }
    found: dict[str, Callable[[], list[Row]]] = {}
    for seed in range(config.num_seeds):
        found[f"seed {seed}"] = functools.partial(run_seed, where, shapes, seed)
        for name, wrap in wraps.items():
            found[f"seed {seed}, {name}"] = functools.partial(
                run_projected, where, shapes, seed=seed, name=name, wrap=wrap
            )
    return found


def family(where: Lab, shapes: Grid, seed: int) -> Teachers:
    """The untrained reference, the teacher, and the teacher with noise on its weights."""
    reference = where.draw(shapes, seed, "reference")
    found = digits.teach(where, shapes, seed=seed, settings=[where.settings()], starts=[reference])
    teacher = grid.pick(found.params, 0)
    noisy = [
        starts.perturbed(where.key(seed, "noise"), teacher, s, relative=True)
        for s in where.config.weight_noise
    ]
    stack = grid.stacked([reference, teacher, *noisy])
    begin = grid.stacked([reference] * (2 + len(noisy)))
    return Teachers(begin, stack, where.accuracy(shapes, shapes.teacher, stack))


def run_seed(where: Lab, shapes: Grid, seed: int) -> list[Row]:
    """All defences but the projections, side by side."""
    teachers = family(where, shapes, seed)
    own, other = grid.pick(teachers.starts, 0), where.draw(shapes, seed, "other")
    base = where.settings(num_aux=shapes.num_aux, teacher=TRAIT, defence=NONE)

    def arm(name: str, strength: float, settings: Settings = base, start=own) -> Arm:
        return Arm({"defence": name, "strength": strength}, settings, start)

    def tuned(**rates: float) -> Settings:
        return base._replace(optimizer=base.optimizer._replace(**rates))

    arms = [arm("none", 0.0)]
    arms += [
        arm(name, strength, base._replace(defence=what))
        for name, strengths in DISGUISES.items()
        for strength, what in strengths.items()
    ]
    arms += [
        arm("noise on weights", s, base._replace(teacher=TRAIT + 1 + i))
        for i, s in enumerate(where.config.weight_noise)
    ]
    arms += [arm("AdamW", d, tuned(decay=d)) for d in (0.1, 1.0, 10.0)]
    arms += [arm("L2 in Adam", d, tuned(l2=d)) for d in (1e-5, 1e-4, 1e-3)]
    arms += [
        arm("another start", s, start=starts.interpolated(own, other, s)) for s in (0.2, 0.5, 1.0)
    ]
    rows = digits.distil(where, shapes, seed=seed, arms=arms, teachers=teachers, publish=disguise)
    return [clean_loss(row) for row in rows]


def run_projected(where: Lab, shapes: Grid, *, seed: int, name: str, wrap: grid.Wrap) -> list[Row]:
    """One student whose gradients are projected."""
    teachers = family(where, shapes, seed)
    settings = where.settings(num_aux=shapes.num_aux, teacher=TRAIT, defence=NONE)
    arms = [Arm({"defence": name, "strength": 1.0}, settings, grid.pick(teachers.starts, 0))]
    rows = digits.distil(
        where, shapes, seed=seed, arms=arms, teachers=teachers, publish=disguise, wrap=wrap
    )
    return [clean_loss(row) for row in rows]


def clean_loss(row: Row) -> Row:
    """The columns of this experiment."""
    names = ("seed", "defence", "strength", "accuracy", "left", "moved", "dataset")
    return {name: row[name] for name in names}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the undefended gain left, half its interval, and loss paid, of every strength."""
    none = table.query("defence == 'none'").set_index("seed")
    gain = none["accuracy"].mean() - digits.CHANCE
    rows = table.assign(
        paid=table["left"] / table["seed"].map(none["left"]),
        transfer=(table["accuracy"] - digits.CHANCE) / gain,
    )
    grouped = rows.groupby(["defence", "strength"], sort=False)
    shares = grouped["transfer"].agg(lambda column: statistics.mean_interval(column)[1])
    return grouped[["transfer", "paid"]].mean().assign(half=shares).reset_index()


def plot(table: pd.DataFrame, config: Config):
    """Transfer left against loss paid, one line a defence."""
    figure, (axes,) = drawing.new_figure(width=8.0, height=4.8)
    groups = summary(table).groupby("defence", sort=False)
    for (name, rows), look in zip(groups, drawing.looks(), strict=False):
        axes.errorbar(
            rows["paid"],
            rows["transfer"],
            rows["half"],
            ms=6,
            lw=0.8,
            capsize=2,
            label=str(name),
            **look,
        )
    axes.axhline(0, color="black", linestyle=":", linewidth=1)
    axes.axhspan(-0.2, 0.2, color="black", alpha=0.08, linewidth=0)
    axes.axvline(2, color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("KL left to the teacher, over that of the undefended student")
    axes.set_ylabel("share of the undefended gain")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cheap(table: pd.DataFrame) -> list[str]:
    """Defences that leave less than a fifth of the gain at less than twice the loss."""
    rows = summary(table).query("transfer < 0.2 and paid < 2 and defence != 'none'")
    return [f"{r.defence} {r.strength:g}" for r in rows.itertuples()]


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The Pareto figure."""
    found = summary(table).set_index("defence")
    stops = "stops" if digits.holds(claims(table, config), "projection") else "does not stop"
    return [
        Figure(
            name="figure",
            title=f"Removing the trait's gradient {stops} the transfer, at "
            f"{found.loc['projection', 'paid']:.1f} times the loss",
            predicted="Projection is nearly free, its control changes nothing; disturbing outputs "
            "costs loss "
            "before transfer.",
            found=f"Projection leaves {found.loc['projection', 'transfer']:.2f} of the gain at "
            f"{found.loc['projection', 'paid']:.2f} times the loss, its control "
            f"{found.loc['projection, shuffled', 'transfer']:.2f}; below a fifth at less than "
            f"twice the loss: {', '.join(cheap(table)) or 'none'}.",
            follows="What a defence is worth is read off two numbers, not off the transfer alone.",
            draw=lambda: plot(table, config),
        )
    ]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    out, add = digits.claims_on(table)

    def of(defence: str, strength: float | None = None) -> np.ndarray:
        rows = table[table["defence"] == defence].sort_values(["strength", "seed"])
        return rows[rows["strength"] == (strength or rows["strength"].iloc[0])][
            "accuracy"
        ].to_numpy()

    none = of("none")
    add("undefended", statistics.shown(none))
    paid = float(summary(table).set_index("defence").loc["projection", "paid"])
    p = digits.no_transfer(of("projection").tolist(), float(none.mean()))
    add(
        f"projection (TOST p {p:.1g}, {paid:.2f} times the loss)",
        statistics.shown(of("projection")),
        p < 0.05 and paid <= 2,
    )
    gap = of("projection, shuffled") - none
    mean, half = statistics.mean_interval(gap)
    add("its shuffled control, less undefended", statistics.shown(gap), mean - half > -0.1)
    gaps = {s: of("noise on weights", s) - none for s in config.weight_noise}
    tests = [float(stats.ttest_1samp(g, 0, alternative="greater")[1]) for g in gaps.values()]
    for (s, gap), amplifies in zip(gaps.items(), statistics.holm(tests), strict=True):
        add(
            f"noise on weights {s:g}, less undefended (Holm over {len(gaps)})",
            statistics.shown(gap),
            amplifies,
            "amplifies",
        )
    add("below a fifth of the gain at less than twice the loss", ", ".join(cheap(table)) or "none")
    return out
