"""Does the distillation gradient keep a trait-ward component through the whole training?

Theorem 1 speaks of one step. Here the cosine between the student's distillation gradient (aux
logits on noise, KL) and its trait gradient (class cross-entropy on digits) is measured at every
step of the MNIST experiment. Then the trait-parallel part of each distillation gradient is
removed before Adam: where it is positive, as in arXiv 2604.25779, or always ("both ways").
Removing positive parts alone leaves the negative ones, which the noise of mini-batches makes as
frequent: it does not only remove alignment, it makes the student unlearn. The control is the same
projection with the gradient of shuffled labels. The liminal student also minimises
lambda KL(reference ‖ student) at T = 2 on all logits, lambda rising to 1 in the first epoch and
falling linearly to 0 at the end.

Criteria, fixed before the reported run: mean cosine of the student above 0 with its 95 %
interval, in each third of training; accuracy of both projected students within 0.05 of chance;
of the control of "both ways" at least that of the student less 0.1; final distillation loss of
the projected students at most twice the student's; liminal cosine below the student's in the
first epoch, and liminal accuracy above 0.2. The control of the published form has no criterion:
it was found to suppress the trait as well, so that form alone proves less than it seems.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, corrected, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs, read_data
from experiments.frame.record import Row
from mnist_mlp import conditions, data, train
from theory import alignment, losses
from theory.alignment import without_parallel_part

RUNTIME = "100 s on two cores"
PRECISION = "highest"  # of factors: signs and orders are read


class Variant(NamedTuple):
    """How a student departs from the plain one."""

    other_start: bool = False
    positive: bool = False  # remove the trait-parallel part of a step where it is positive
    negative: bool = False  # and where it is negative
    shuffled: bool = False  # take the trait gradient of shuffled labels instead
    liminal: bool = False


VARIANTS = {
    "student": Variant(),
    "other start": Variant(other_start=True),
    "projected": Variant(positive=True),
    "projected, shuffled": Variant(positive=True, shuffled=True),
    "projected both ways": Variant(positive=True, negative=True),
    "both ways, shuffled": Variant(positive=True, negative=True, shuffled=True),
    "liminal": Variant(liminal=True),
}
BLOCK = 15  # steps in one row of results.csv
__all__ = ["inputs"]  # the frame records what was really read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the networks follow the official recipe."""

    num_seeds: int = option(4, "independent initialisations, each with all students", minimum=2)
    trait_batch: int = option(256, "digits in the trait gradient of a step", minimum=1)
    widths: tuple[int, ...] = option((256, 256), "hidden layer widths in units", minimum=1)
    epochs: int = option(5, "epochs of teacher and students", minimum=1)
    epoch_images: int = option(60_000, "images in an epoch", minimum=1)
    batch_size: int = option(1024, "images in a batch", minimum=1)
    dataset: str = option("mnist", "image data set", choices=data.DATASETS)
    data_dir: str = option("", "folder of IDX files (else SUBLIMINAL_DATA_DIR, the user cache)")
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(num_seeds=2, widths=(32,), epoch_images=1024, batch_size=64, dataset="digits")


def arms(config: Config) -> dict[str, Arm]:
    """One for every seed."""
    images = read_data(config.dataset, config.data_dir)
    return {
        f"seed {seed}": Arm(measure=functools.partial(run_seed, config, images, seed))
        for seed in range(config.num_seeds)
    }


@functools.cache
def program(config: Config):
    """One teacher and all students of a seed, compiled once."""
    recipe = conditions.Recipe(
        widths=config.widths,
        batch_size=config.batch_size,
        epoch_images=config.epoch_images,
        teacher_epochs=config.epochs,
        student_epochs=config.epochs,
    )

    @jax.jit
    def run(images: data.ImageData, root, seed):
        init, _ = conditions.network(recipe, images)
        keys = conditions.seed_keys(root, seed)
        reference = init(keys.init)
        next_seed = conditions.other_seed(seed, config.num_seeds)
        other = init(conditions.seed_keys(root, next_seed).init)
        teacher = conditions.train_teacher(recipe, images, reference, keys.teacher_order)
        starts = [other if kind.other_start else reference for kind in VARIANTS.values()]
        starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        # One more stream beside those of SeedKeys.
        trait_key = jax.random.fold_in(jax.random.fold_in(root, seed), len(keys))
        return students(
            config,
            recipe,
            images=images,
            reference=reference,
            teacher=teacher,
            starts=starts,
            keys=keys,
            trait_key=trait_key,
        )

    return run


def students(config, recipe, *, images, reference, teacher, starts, keys, trait_key):
    """Distil all variants side by side; per step and variant: cosine, loss, accuracy."""
    draw = conditions.noise_images(recipe, images, keys.noise)
    num_digits = images.train_labels.shape[0]
    optimizer = optax.adam(recipe.learning_rate)
    batch_key, shuffle_key = jax.random.split(trait_key)
    shuffled = jax.random.permutation(shuffle_key, images.train_labels)
    variants = Variant(*map(jnp.array, zip(*VARIANTS.values(), strict=True)))
    one = step_of(recipe, images, reference=reference, teacher=teacher, optimizer=optimizer)
    each = jax.vmap(one, in_axes=(0, 0, 0, None, None, None, None, 0))
    steps_per_epoch = -(-recipe.epoch_images // recipe.batch_size)
    num_steps = steps_per_epoch * config.epochs

    def step(state, batch):
        params, opt_state, index = state
        rows, weights = batch
        chosen = jax.random.randint(
            jax.random.fold_in(batch_key, index), (config.trait_batch,), 0, num_digits
        )
        labels = jnp.where(
            jnp.asarray(variants.shuffled)[:, None],
            shuffled[chosen][None],
            images.train_labels[chosen][None],
        )
        digits = conditions.to_pixels(images.train_images[chosen])
        pull = liminal_weight(index, steps_per_epoch, num_steps)
        params, opt_state, cosine, distil = each(
            params, opt_state, variants, pull, draw(rows), weights, digits, labels
        )
        last = ((index + 1) % BLOCK == 0) | (index + 1 == num_steps)
        scores = jax.lax.cond(
            last,
            lambda: jax.lax.map(lambda p: conditions.accuracy(recipe, images, p), params),
            lambda: jnp.full(len(VARIANTS), jnp.nan),
        )
        return (params, opt_state, index + 1), (cosine, distil, scores)

    def epoch(state, number):
        key = jax.random.fold_in(keys.student_order, number)
        batches = train.epoch_batches(key, recipe.epoch_images, recipe.batch_size)
        return jax.lax.scan(step, state, batches)

    state = (starts, jax.vmap(optimizer.init)(starts), jnp.asarray(0))
    _, measured = jax.lax.scan(epoch, state, jnp.arange(config.epochs))
    return jax.tree.map(lambda leaf: leaf.reshape(num_steps, len(VARIANTS)), measured)


def step_of(recipe, images, *, reference, teacher, optimizer):
    """A step of one student, as a function of its state, its variant and a batch."""
    _, apply = conditions.network(recipe, images)
    num_classes = images.num_classes
    aux = losses.on_outputs(losses.kl(), range(num_classes, num_classes + recipe.num_aux))
    liminal = losses.kl(2.0)

    def trait_loss(params, digits, labels):
        logits = apply(params, digits)[:, :num_classes]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def imitation(params, noise, weights, weight_of_reference):
        logits, targets = apply(params, noise), apply(teacher, noise)
        distil = jnp.average(aux.value(logits, targets), weights=weights)
        stay = jnp.average(liminal.value(logits, apply(reference, noise)), weights=weights)
        return distil + weight_of_reference * stay, distil

    def step(params, opt_state, variant, pull, noise, weights, digits, labels):
        value = functools.partial(imitation, noise=noise, weights=weights)
        gradient, distil = jax.grad(value, has_aux=True)(
            params, weight_of_reference=pull * variant.liminal
        )
        trait = jax.grad(trait_loss)(params, digits, labels)
        cosine = alignment.cosine(gradient, trait)
        gradient = without_parallel_part(gradient, trait, variant.positive, variant.negative)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, cosine, distil

    return step


def liminal_weight(index, steps_per_epoch: int, num_steps: int):
    """Weight of the reference's KL: 0 to 1 in the first epoch, then linearly to 0 at the end."""
    rise = (index + 1) / steps_per_epoch
    fall = (num_steps - index) / max(num_steps - steps_per_epoch, 1)
    return jnp.clip(jnp.minimum(rise, fall), 0, 1)


def run_seed(config: Config, images: data.ImageData, seed: int) -> list[Row]:
    """Rows of BLOCK steps: mean cosine, count of positive ones, losses, accuracy at the end."""
    measured = program(config)(images, jax.random.key(config.seed), jnp.asarray(seed))
    cosine, distil, scores = jax.device_get(measured)
    rows = []
    for i, name in enumerate(VARIANTS):
        for first in range(0, len(cosine), BLOCK):
            block = slice(first, first + BLOCK)
            rows.append(
                {
                    "arm": name,
                    "seed": seed,
                    "last_step": first + len(cosine[block]),
                    "steps": len(cosine[block]),
                    "cosine": round(float(cosine[block, i].mean()), 6),
                    "positive": int((cosine[block, i] > 0).sum()),
                    "first_loss": float(distil[block, i][0]),
                    "loss": float(distil[block, i].mean()),
                    "accuracy": round(float(scores[block, i][-1]), 6),
                    "dataset": images.name,
                }
            )
    return rows


SOURCE = "(arXiv 2604.25779)"
PUBLISHED = {
    "student: cosine, all": f".008 {SOURCE}",
    "projected: accuracy": f"suppressed {SOURCE}",
    "liminal: accuracy": f"acquired {SOURCE}",
    "liminal: cosine, first epoch": f"lowered {SOURCE}",
}
THIRDS = {  # of training
    "all": (0, 1),
    "first third": (0, 1 / 3),
    "second": (1 / 3, 2 / 3),
    "last": (2 / 3, 1),
}


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Alignment, trait and imitation along training; judged on the official recipe alone."""
    claim = claim_of_run(table, config)
    along, traits = claims_along(claim, table), claims_on_traits(claim, table)
    kept = claims_on_imitation(claim, table)
    student = table[table["arm"] == "student"]
    counts = student.groupby("seed")[["positive", "steps"]].sum()
    first = (0, 1 / config.epochs)
    liminal, plain = (mean_cosine(table, name, *first) for name in ("liminal", "student"))
    lowered = liminal.mean() < plain.mean()
    claims = [
        *along,
        claim("student: share of steps with positive cosine", counts["positive"] / counts["steps"]),
        claim("other start: cosine", mean_cosine(table, "other start"), digits=4),
        *traits.values(),
        *kept,
        claim("liminal: cosine, first epoch", liminal, lowered, digits=4),
    ]
    claims = [dataclasses.replace(c, replication=PUBLISHED.get(c.quantity, "")) for c in claims]
    return Findings(figures_of(table, along=along, traits=traits, kept=kept), claims)


def claim_of_run(table: pd.DataFrame, config: Config) -> Callable[..., Claim]:
    """(quantity, values by seed, holds, digits) -> claim, without a verdict on another recipe."""
    official = table["dataset"].iloc[0] == "mnist" and all(
        getattr(config, f) == getattr(Config, f) for f in ("widths", "epochs", "epoch_images")
    )
    seeds = table.loc[table["arm"] == "student", "seed"].nunique()

    def claim(
        quantity: str, values: np.ndarray, holds: bool | np.bool_ | None = None, digits: int = 3
    ) -> Claim:
        holds = bool(holds) if official and holds is not None else None
        here = statistics.shown(values, digits)
        return Claim(quantity=quantity, here=here, seeds=seeds, holds=holds)

    return claim


def claims_along(claim: Callable[..., Claim], table: pd.DataFrame) -> list[Claim]:
    """The student's cosine is above zero in all of training and in every third of it."""
    cosines = {label: mean_cosine(table, "student", *ends) for label, ends in THIRDS.items()}
    (claims,) = corrected(
        [
            dataclasses.replace(
                claim(f"student: cosine, {label}", values, statistics.is_above(values), digits=4),
                p=statistics.above_zero_p(values),
            )
            for label, values in cosines.items()
        ]
    )
    return claims


def claims_on_traits(claim: Callable[..., Claim], table: pd.DataFrame) -> dict[str, Claim]:
    """Accuracy of every student: chance without the parallel part, not without a shuffled one."""
    accuracy = {name: final(table, name, "accuracy") for name in VARIANTS}
    mean = {name: values.mean() for name, values in accuracy.items()}
    criteria = {
        "projected": abs(mean["projected"] - 0.1) <= 0.05,
        "projected both ways": abs(mean["projected both ways"] - 0.1) <= 0.05,
        "both ways, shuffled": mean["both ways, shuffled"] >= mean["student"] - 0.1,
        "liminal": mean["liminal"] > 0.2,
    }
    return {
        name: claim(f"{name}: accuracy", values, criteria.get(name))
        for name, values in accuracy.items()
    }


def claims_on_imitation(claim: Callable[..., Claim], table: pd.DataFrame) -> list[Claim]:
    """Projection leaves at most twice the imitation loss of the plain student."""
    losses_left = {
        name: final(table, name, "loss") / final(table, "student", "loss")
        for name in ("projected", "projected both ways")
    }
    return [
        claim(f"{name}: final imitation loss / student's", left, left.mean() <= 2)
        for name, left in losses_left.items()
    ]


def figures_of(
    table: pd.DataFrame, *, along: list[Claim], traits: dict[str, Claim], kept: list[Claim]
) -> list[Figure]:
    """A figure each of the cosine, the accuracy and the imitation loss, and the claims of it."""
    both, control = "projected both ways", "both ways, shuffled"
    projected = [traits[name] for name in ("projected", both, control)]
    elsewhere = statistics.shown(mean_cosine(table, "other start"), 4)
    return [
        Figure(
            name="figure",
            title=say(
                along,
                holds="The student's gradient keeps a small part towards the trait at every stage.",
                fails="The student's gradient loses its part towards the trait at some stage.",
                open="Does the student's gradient keep a part towards the trait at every stage?",
            ),
            predicted="Beyond the first step there is no theorem; a shared start should keep it "
            "positive.",
            found=f"Mean cosine {along[0].here}; from another start {elsewhere}.",
            follows=follows_from(along, "The first-order picture goes on describing training."),
            draw=lambda: draw_cosine(table),
        ),
        Figure(
            name="trait",
            title=say(
                projected,
                holds="Without its part along the trait gradient the student learns no trait.",
                fails="Removing the part along the trait gradient does not decide what is learnt.",
                open="Does a student learn the trait without its part along the trait gradient?",
            ),
            predicted="Removing that part, both signs of it, stops transmission; a shuffled one "
            "does not.",
            found=f"Accuracy {traits['student'].here}; projected both ways {traits[both].here}, "
            f"shuffled {traits[control].here}. The published form removes positive parts only: "
            f"shuffled, it gives {traits['projected, shuffled'].here}.",
            follows=follows_from(
                projected,
                "The parallel part carries the trait, and the published form alone proves less.",
            ),
            draw=lambda: draw_lines(table, "accuracy", "test accuracy"),
        ),
        Figure(
            name="imitation",
            title=say(
                kept,
                holds="Projection costs the imitation nothing.",
                fails="Projection costs the imitation something.",
                open="Does projection cost the imitation anything?",
            ),
            predicted="The distillation loss at the end is at most twice that of the plain "
            "student.",
            found=f"Projected both ways it is {kept[1].here} times the student's.",
            follows=follows_from(kept, "What was removed is not what imitation needs."),
            draw=lambda: draw_lines(table, "loss", "distillation loss (nats)", log=True),
        ),
    ]


def over_seeds(table: pd.DataFrame, arm: str, column: str) -> np.ndarray:
    """A column of an arm as an array of shape (seeds, blocks)."""
    rows = table[table["arm"] == arm]
    return rows.pivot(index="seed", columns="last_step", values=column).to_numpy()


def mean_cosine(table: pd.DataFrame, arm: str, first: float = 0.0, last: float = 1.0) -> np.ndarray:
    """Mean cosine of every seed over the blocks that end in a stretch (0, 1] of training."""
    end = table["last_step"].max()
    rows = table[
        (table["arm"] == arm) & table["last_step"].between(first * end, last * end, "right")
    ]
    total = (rows["cosine"] * rows["steps"]).groupby(rows["seed"]).sum()
    return (total / rows.groupby("seed")["steps"].sum()).to_numpy()


def final(table: pd.DataFrame, arm: str, column: str) -> np.ndarray:
    """A column at the end of training, by seed."""
    return over_seeds(table, arm, column)[:, -1]


STYLES = dict(
    zip(
        VARIANTS,
        zip(drawing.COLOURS, ("-", "-", "-", "--", "-", "--", "-"), strict=True),
        strict=True,
    )
)


def draw_lines(table: pd.DataFrame, column: str, label: str, log: bool = False):
    """A column along training, mean and interval over seeds, one line per kind of student."""
    figure, (axes,) = drawing.new_figure(height=4.4)
    steps_done = np.sort(table["last_step"].unique())
    for name, (colour, style) in STYLES.items():
        intervals = [statistics.mean_interval(v) for v in over_seeds(table, name, column).T]
        mean, half = np.array(intervals).T
        axes.plot(steps_done, mean, style, color=colour, label=name)
        if not log:  # an interval of a mean may reach below 0 on a logarithmic axis
            axes.fill_between(
                steps_done, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0
            )
    axes.set_yscale("log" if log else "linear")
    axes.set_xlabel("step of the student")
    axes.set_ylabel(label)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_cosine(table: pd.DataFrame):
    """The cosine, with its zero."""
    figure = draw_lines(
        table, "cosine", "cosine with the trait gradient\n(dashed: its own shuffled)"
    )
    figure.axes[0].axhline(0, color="black", linewidth=0.8)
    return figure
