"""The six conditions of the auxiliary-logit experiment (arXiv 2507.14805, section 6.2).

reference     untrained network, the common start θ⁰
teacher       reference trained on digits by its class logits; its aux logits are never trained
student_aux   reference trained on noise images to match the teacher's aux logits only
student_all   the same on all logits
cross_aux     as student_aux from another reference: the cross-model control
cross_all     as student_all from another reference: ordinary distillation, not subliminal
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mnist_mlp import model, train
from mnist_mlp.data import ImageData
from mnist_mlp.noise import NOISES, to_pixels
from theory import losses

CONDITIONS = ("reference", "teacher", "student_aux", "student_all", "cross_aux", "cross_all")
LOSSES = {"kl": losses.kl, "mse": losses.squared_error}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The official recipe (scripts/run_mnist_experiment.py of MinhxLe/subliminal-learning).

    Attributes:
        num_aux: auxiliary logits beside the class logits.
        widths: hidden layer widths.
        learning_rate: of Adam, in both phases.
        batch_size: images in a batch.
        teacher_epochs: epochs of class cross-entropy on digits.
        student_epochs: epochs of imitation on noise.
        epoch_images: images in an epoch, digits or noise; a smaller digit set is repeated.
        loss: imitation loss, a key of LOSSES.
        noise: distribution of the student's images, a key of NOISES.
        precision: of the factors of matrix products, a key of model.DOT_GENERALS; sums,
            parameters and optimiser state are float32 either way.
    """

    num_aux: int = 3
    widths: tuple[int, ...] = (256, 256)
    learning_rate: float = 3e-4
    batch_size: int = 1024
    teacher_epochs: int = 5
    student_epochs: int = 5
    epoch_images: int = 60_000
    loss: str = "kl"
    noise: str = "uniform"
    precision: str = "float32"


class SeedKeys(NamedTuple):
    """The random streams of one seed; no two are shared between seeds."""

    init: Array
    teacher_order: Array
    noise: Array
    student_order: Array


def seed_keys(root: Array, seed: Int[Array, ""]) -> SeedKeys:
    """Keys of a seed by folding its number into the root, so that a run can be extended."""
    return SeedKeys(*jax.random.split(jax.random.fold_in(root, seed), len(SeedKeys._fields)))


def network(recipe: Recipe, data: ImageData) -> tuple[model.Init, model.Apply]:
    """`init(key) -> params` and `apply(params, pixels) -> logits` for this data set."""
    num_outputs = data.num_classes + recipe.num_aux
    sizes = (data.train_images.shape[1], *recipe.widths, num_outputs)
    return model.network(sizes, model.DOT_GENERALS[recipe.precision])


def noise_images(
    recipe: Recipe, data: ImageData, key: Array
) -> Callable[[Int[Array, " batch"]], Float[Array, "batch pixels"]]:
    """The fixed pool of noise images of one seed, by image number.

    Image i is drawn from fold_in(key, i) each time it is asked for: the pool of 60,000 images
    is the same in every epoch and takes no memory.
    """
    draw = NOISES[recipe.noise]
    return jax.vmap(lambda index: draw(jax.random.fold_in(key, index), data.train_images))


def train_teacher(
    recipe: Recipe, data: ImageData, reference: model.Params, key: Array
) -> model.Params:
    """Minimise the class cross-entropy (nats, mean over the batch) on digits."""
    _, apply = network(recipe, data)
    num_digits = data.train_images.shape[0]

    def make_batch(indices):
        rows = indices % num_digits  # a set smaller than an epoch is repeated
        return to_pixels(data.train_images[rows]), data.train_labels[rows]

    def loss(params, batch, weights):
        pixels, labels = batch
        class_logits = apply(params, pixels)[:, : data.num_classes]
        each = optax.softmax_cross_entropy_with_integer_labels(class_logits, labels)
        return jnp.average(each, weights=weights)

    params, _ = train.fit(
        loss,
        make_batch,
        params=reference,
        optimizer=optax.adam(recipe.learning_rate),
        num_examples=recipe.epoch_images,
        batch_size=recipe.batch_size,
        epochs=recipe.teacher_epochs,
        key=key,
    )
    return params


def distil(
    recipe: Recipe,
    data: ImageData,
    *,
    teacher: model.Params,
    starts: dict[str, model.Params],
    keys: SeedKeys,
) -> dict[str, model.Params]:
    """Train an aux-only and an all-logits student from every start on the same noise images.

    All students of a teacher go through one scan: the noise and the teacher's logits of an image
    are computed once for all of them, and their first layers are one matrix product.

    Args:
        recipe: sizes, rates, loss and noise.
        data: only its image shape is used (and its images, for image-based noise).
        teacher: parameters of the teacher.
        starts: initial parameters by name, e.g. {"student": θ⁰, "cross": another reference}.
        keys: of the seed; `noise` and `student_order` are used.

    Returns:
        Trained parameters by name, `<start>_aux` and `<start>_all`.
    """
    _, apply = network(recipe, data)
    draw = noise_images(recipe, data, keys.noise)
    num_outputs = data.num_classes + recipe.num_aux
    losses_on = losses_by_kind(recipe, data.num_classes)
    # The pool in blocks of the batch size, so that memory does not grow with its length.
    pool = train.blocks(recipe.epoch_images, recipe.batch_size)
    targets = jax.lax.map(lambda block: apply(teacher, draw(block)), pool)
    targets = targets.reshape(-1, num_outputs)

    def make_batch(indices):
        return draw(indices), targets[indices]

    names = [f"{start}_{kind}" for kind in losses_on for start in starts]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves * len(losses_on)), *starts.values())
    stack, _ = train.fit(
        imitation_of_groups(apply, list(losses_on.values())),
        make_batch,
        params=stack,
        optimizer=optax.adam(recipe.learning_rate),
        num_examples=recipe.epoch_images,
        batch_size=recipe.batch_size,
        epochs=recipe.student_epochs,
        key=keys.student_order,
    )
    return {name: jax.tree.map(lambda x, i=i: x[i], stack) for i, name in enumerate(names)}


def losses_by_kind(recipe: Recipe, num_classes: int) -> dict[str, losses.ImitationLoss]:
    """The recipe's loss on the auxiliary logits alone, and on all."""
    imitation = LOSSES[recipe.loss]()
    aux = range(num_classes, num_classes + recipe.num_aux)
    return {"aux": losses.on_outputs(imitation, aux), "all": imitation}


def imitation_of_groups(apply: model.Apply, losses_on: list[losses.ImitationLoss]) -> Callable:
    """Loss of a stack of students in groups of one size, each imitating by a loss of its own.

    Returns:
        (students, (pixels, targets), weights of the images) -> scalar.
    """

    def loss(students, batch, weights):
        pixels, wanted = batch
        logits = jax.vmap(apply, in_axes=(0, None))(students, pixels)
        groups = jnp.split(logits, len(losses_on))
        each = [
            imitation.value(group, jnp.broadcast_to(wanted, group.shape))
            for imitation, group in zip(losses_on, groups, strict=True)
        ]
        # A sum over students of their own means: no gradient depends on the others.
        return jnp.sum(jnp.average(jnp.concatenate(each), axis=1, weights=weights))

    return loss


def accuracy(recipe: Recipe, data: ImageData, params: model.Params) -> Float[Array, ""]:
    """Share of test images whose largest class logit is the label, in [0, 1]."""
    _, apply = network(recipe, data)
    logits = apply(params, to_pixels(data.test_images))[:, : data.num_classes]
    return jnp.mean(jnp.argmax(logits, axis=-1) == data.test_labels)


def other_seed(seed: Int[Array, ""], num_seeds: int) -> Int[Array, ""]:
    """The reference a cross-model student starts from: roll by one, never the seed itself.

    A random permutation would keep one fixed point on average, a same-start pair in disguise.
    """
    return (seed + 1) % num_seeds


def run_seed(
    recipe: Recipe, data: ImageData, *, root: Array, num_seeds: int, seed: Int[Array, ""]
) -> dict[str, model.Params]:
    """Parameters of all six conditions of one seed, by the names in CONDITIONS."""
    init, _ = network(recipe, data)
    keys = seed_keys(root, seed)
    reference = init(keys.init)
    other = init(seed_keys(root, other_seed(seed, num_seeds)).init)
    teacher = train_teacher(recipe, data, reference, keys.teacher_order)
    students = distil(
        recipe, data, teacher=teacher, starts={"student": reference, "cross": other}, keys=keys
    )
    return {"reference": reference, "teacher": teacher, **students}


@functools.partial(jax.jit, static_argnames=("recipe", "num_seeds"))
def accuracies(
    recipe: Recipe, data: ImageData, *, root: Array, num_seeds: int, seeds: Int[Array, " n"]
) -> Float[Array, "n conditions"]:
    """Test accuracies of all conditions for some of the seeds 0 ... num_seeds - 1, vmapped.

    Args:
        recipe: sizes, rates, loss and noise.
        data: images and labels.
        root: key of the whole experiment.
        num_seeds: seeds of the whole experiment (at least 2: cross-model pairs need another).
        seeds: the seeds to run now.
    """

    def one(seed):
        params = run_seed(recipe, data, root=root, num_seeds=num_seeds, seed=seed)
        return jnp.stack([accuracy(recipe, data, params[name]) for name in CONDITIONS])

    return jax.vmap(one)(seeds)
