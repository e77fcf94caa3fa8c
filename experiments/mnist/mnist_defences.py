"""What does it cost to stop the transfer? Transfer left against distillation loss paid.

Each defence over its strengths, on students of 10 auxiliary logits. The publisher's: Gaussian
noise on the outputs, on the teacher's weights (relative to each array's spread), outputs rounded
to a step, the top k auxiliary logits alone, a share of images answered by the untrained reference.
The student's: AdamW and L2, another start (√(1 - s²) own + s other), and the trait-parallel part
of every gradient removed, both ways, beside two others. The same for shuffled labels is no neutral
control: it raised the accuracy in two experiments. Neutral is a part as large, along a direction
without any content: the trait's gradient with the entries of each array in random order, another
order in every step. Paid is the KL that is left between teacher and student on noise, over that of
the undefended student.

Predictions, written before the run: disturbing outputs costs loss before it costs transfer;
projection removes the trait and costs next to nothing, its neutral control changes neither; another
start ends transfer and costs loss. 2608.05734 reports that noise on weights *amplifies* the effect.

Criteria: projection leaves no transfer (equivalence to chance within a fifth of the undefended
gain) at no more than twice its loss; the neutral control keeps the undefended accuracy to .1
(equivalence, paired); that of shuffled labels keeps it less .1 (lower end of the paired 95 %
interval). Weight noise amplifies if the paired difference at any strength is above 0, Holm over the
strengths; it is refuted if all means are below. No other defence is expected below a fifth of the
gain at less than twice the loss; those that are, are named, as are those that need to know nothing
of the trait and cost no loss, by what they leave.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, Teachers, distil, setup_of, teach
from mnist_mlp import grid, noise, predictors, starts
from mnist_mlp.grid import LOW, Grid, Settings
from mnist_mlp.model import Params
from theory.alignment import without_parallel_part

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
class Config(flags.Config):
    """Settings of the experiment."""

    num_aux: int = option(10, "auxiliary logits", minimum=2)
    weight_noise: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.4), "over the spread of an array", minimum=0
    )


SMOKE = Config(**flags.TOY | {"weight_noise": (0.1,), "stack": 12})


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


PROJECTIONS = ("projection", "projection, shuffled", "projection, random")


def projection(setup: Setup, shapes: Grid, kind: str) -> grid.Wrap:
    """An optimiser that first removes the part of a gradient along the trait's, both ways.

    The trait's gradient is that of fresh digits in every step, or of the same with permuted labels.
    At random the part keeps its size and gets a direction of no content (`elsewhere`).
    """
    _, apply = grid.network(shapes, shapes.student, setup.data.train_images.shape[1])
    images, labels = setup.data.train_images, setup.data.train_labels
    labels = jax.random.permutation(jax.random.key(1), labels) if kind == PROJECTIONS[1] else labels

    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params):
            return optimizer.init(params), jnp.int32(0)

        def update(grads, state, params=None):
            inner, count = state
            key = jax.random.fold_in(jax.random.key(2), count)
            rows = jax.random.randint(key, (TRAIT_BATCH,), 0, len(labels))
            pixels = noise.to_pixels(images[rows])
            trait = predictors.trait_loss(shapes, apply, pixels, labels[rows])
            kept = without_parallel_part(grads, jax.grad(trait)(params), 1.0, 1.0)
            if kind == PROJECTIONS[2]:
                kept = elsewhere(jax.random.fold_in(key, 1), grads, kept)
            grads = kept
            steps, inner = optimizer.update(grads, inner, params)
            return steps, (inner, count + 1)

        return optax.GradientTransformation(init, update)

    return wrap


def elsewhere(key: jax.Array, grads: Params, kept: Params) -> Params:
    """The gradient less a part as large as `grads` - `kept`, its entries in random places.

    They stay within their array, and only where the gradient is not zero: Adam would turn the
    faintest entry of an idle class head into steps of full size.
    """
    leaves, shape = jax.tree.flatten(grads)
    rest = jax.tree.leaves(kept)
    keys = jax.random.split(key, len(leaves))
    parts = [
        jnp.where(g == 0, 0, jax.random.permutation(k, (g - r).ravel()).reshape(g.shape))
        for k, g, r in zip(keys, leaves, rest, strict=True)
    ]
    size = optax.tree.norm([g - r for g, r in zip(leaves, rest, strict=True)])
    factor = size / jnp.maximum(optax.tree.norm(parts), 1e-30)
    moved = [g - factor * part for g, part in zip(leaves, parts, strict=True)]
    return jax.tree.unflatten(shape, moved)


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed, and one for each of its projections."""
    setup = setup_of(config)
    shapes = setup.grid(config.num_aux)
    wraps = {kind: projection(setup, shapes, kind) for kind in PROJECTIONS}
    out: dict[str, Arm] = {}
    for seed in range(config.num_seeds):
        out[f"seed {seed}"] = Arm(
            columns={"seed": seed}, measure=functools.partial(run_seed, setup, shapes, seed)
        )
        for name, wrap in wraps.items():
            out[f"seed {seed}, {name}"] = Arm(
                columns={"seed": seed, "defence": name, "strength": 1.0},
                measure=functools.partial(run_projected, setup, shapes, seed, wrap),
            )
    return out


def family(setup: Setup, shapes: Grid, seed: int) -> Teachers:
    """The untrained reference, the teacher, and the teacher with noise on its weights."""
    reference = setup.draw(shapes, seed, "reference")
    trained = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[reference])
    teacher = grid.pick(trained.params, 0)
    noisy = [
        starts.perturbed(setup.key(seed, "noise"), teacher, s, relative=True)
        for s in setup.config.weight_noise
    ]
    stack = grid.stacked([reference, teacher, *noisy])
    begin = grid.stacked([reference] * (2 + len(noisy)))
    return Teachers(begin, stack, setup.accuracy(shapes, shapes.teacher, stack))


def run_seed(setup: Setup, shapes: Grid, seed: int) -> list[Row]:
    """All defences but the projections, side by side."""
    teachers = family(setup, shapes, seed)
    own, other = grid.pick(teachers.starts, 0), setup.draw(shapes, seed, "other")
    base = setup.settings(num_aux=shapes.num_aux, teacher=TRAIT, defence=NONE)

    def student(name: str, strength: float, settings: Settings = base, start=own) -> Student:
        return Student({"defence": name, "strength": strength}, settings, start)

    def tuned(**rates: float) -> Settings:
        return base._replace(optimizer=base.optimizer._replace(**rates))

    students = [student("none", 0.0)]
    students += [
        student(name, strength, base._replace(defence=what))
        for name, strengths in DISGUISES.items()
        for strength, what in strengths.items()
    ]
    students += [
        student("noise on weights", s, base._replace(teacher=TRAIT + 1 + i))
        for i, s in enumerate(setup.config.weight_noise)
    ]
    students += [student("AdamW", d, tuned(decay=d)) for d in (0.1, 1.0, 10.0)]
    students += [student("L2 in Adam", d, tuned(l2=d)) for d in (1e-5, 1e-4, 1e-3)]
    students += [
        student("another start", s, start=starts.interpolated(own, other, s))
        for s in (0.2, 0.5, 1.0)
    ]
    rows = distil(setup, shapes, seed=seed, students=students, teachers=teachers, publish=disguise)
    return [columns_of(row) for row in rows]


def run_projected(setup: Setup, shapes: Grid, seed: int, wrap: grid.Wrap) -> list[Row]:
    """One student whose gradients are projected."""
    teachers = family(setup, shapes, seed)
    settings = setup.settings(num_aux=shapes.num_aux, teacher=TRAIT, defence=NONE)
    student = Student({}, settings, grid.pick(teachers.starts, 0))
    rows = distil(
        setup, shapes, seed=seed, students=[student], teachers=teachers, publish=disguise, wrap=wrap
    )
    return [columns_of(row) for row in rows]


def columns_of(row: Row) -> Row:
    """The columns of this experiment; those of a projection stand in its arm."""
    names = ("defence", "strength", "accuracy", "left", "moved", "dataset")
    return {name: row[name] for name in names if name in row}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the undefended gain left, half its interval, and loss paid, of every strength."""
    none = table.query("defence == 'none'").set_index("seed")
    gain = none["accuracy"].mean() - transfer.CHANCE
    rows = table.assign(
        paid=table["left"] / table["seed"].map(none["left"]),
        transfer=(table["accuracy"] - transfer.CHANCE) / gain,
    )
    grouped = rows.groupby(["defence", "strength"], sort=False)
    shares = grouped["transfer"].agg(lambda column: statistics.mean_interval(column)[1])
    return grouped[["transfer", "paid"]].mean().assign(half=shares).reset_index()


def cheap(table: pd.DataFrame) -> list[str]:
    """Defences that leave less than a fifth of the gain at less than twice the loss."""
    rows = summary(table).query("transfer < 0.2 and paid < 2 and defence != 'none'")
    return [f"{r.defence} {r.strength:g}" for r in rows.itertuples()]


def blind(table: pd.DataFrame) -> str:
    """Defences that know nothing of the trait and cost no loss, by the gain that they leave."""
    rows = summary(table).query("paid <= 1.05 and defence != 'none'")
    rows = rows[~rows["defence"].isin(PROJECTIONS)].sort_values("transfer")
    named = [f"{r.defence} {r.strength:g} leaves {r.transfer:.2f}" for r in rows.itertuples()]
    return "; ".join(named[:3]) or "none"


def accuracies(table: pd.DataFrame, defence: str, strength: float) -> np.ndarray:
    """Of one defence, by seed."""
    rows = table.query("defence == @defence and strength == @strength")
    return rows.sort_values("seed")["accuracy"].to_numpy()


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Transfer against loss, and the criteria of the docstring."""
    claim = functools.partial(transfer.claim, table)
    undefended = accuracies(table, "none", 0.0)
    projected, shuffled = (
        accuracies(table, defence, 1.0) for defence in ("projection", "projection, shuffled")
    )
    means = summary(table).set_index("defence")
    paid, left = means["paid"], means["transfer"]
    below = ", ".join(cheap(table)) or "none"
    at_random = f", at random {left[PROJECTIONS[2]]:.2f}" if PROJECTIONS[2] in left else ""
    p = transfer.no_transfer_p(projected, undefended)
    projection_claim = claim(
        f"projection (TOST p {p:.1g}, {paid['projection']:.2f} times the loss)",
        here=f"{statistics.shown(projected)}, {transfer.least(projected, undefended)}",
        holds=p < 0.05 and paid["projection"] <= 2,
    )
    gap = shuffled - undefended
    mean, half = statistics.mean_interval(gap)
    claims = [
        claim("undefended", here=undefended),
        projection_claim,
        *neutral_claims(table),
        claim("shuffled labels, less undefended", here=gap, holds=mean - half > -0.1),
        *weight_noise_claims(table, config),
        claim("below a fifth of the gain at less than twice the loss", here=below),
        claim("least left at no loss (1.05) without the trait", here=blind(table)),
    ]
    measured = (
        f"Removing the trait's gradient {'stops' if p < 0.05 else 'does not stop'} the transfer, "
        f"at {paid['projection']:.1f} times the loss"
    )
    figure = Figure(
        name="figure",
        title=say(
            [projection_claim],
            holds=measured,
            fails=measured,
            open="Does removing the trait's gradient stop the transfer, and at what loss?",
        ),
        predicted="Projection is nearly free, its neutral control changes nothing; disturbing "
        "outputs costs loss before transfer.",
        found=f"Projection leaves {left['projection']:.2f} of the gain at "
        f"{paid['projection']:.2f} times the loss, of shuffled labels "
        f"{left['projection, shuffled']:.2f}{at_random}; without the trait at no loss: "
        f"{blind(table)}; below a fifth at less than twice the loss: {below}.",
        follows="What a defence is worth is read off two numbers, not off the transfer alone.",
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def neutral_claims(table: pd.DataFrame) -> list[Claim]:
    """That the neutral control keeps the transfer, where it was run."""
    at_random, undefended = (
        accuracies(table, *defence) for defence in ((PROJECTIONS[2], 1.0), ("none", 0.0))
    )
    if not len(at_random):
        return []
    gap = at_random - undefended
    return [
        transfer.claim(
            table,
            "neutral control (as large, at random), less undefended (TOST, .1)",
            here=statistics.bounded(gap),
            holds=statistics.equivalent(gap, 0.1),
        )
    ]


def weight_noise_claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """That noise on the teacher's weights amplifies: paired differences, Holm over strengths."""
    undefended = accuracies(table, "none", 0.0)
    gaps = {s: accuracies(table, "noise on weights", s) - undefended for s in config.weight_noise}
    tests = [float(stats.ttest_1samp(g, 0, alternative="greater")[1]) for g in gaps.values()]
    return [
        transfer.claim(
            table,
            f"noise on weights {strength:g}, less undefended (Holm over {len(gaps)})",
            here=gap,
            holds=amplifies,
            replication="amplifies",
        )
        for (strength, gap), amplifies in zip(gaps.items(), statistics.holm(tests), strict=True)
    ]


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
