"""One engine for every MNIST experiment: arms are data, stacked and trained side by side.

A call trains a stack of networks on one stream of images: teachers on digits (`teach`), students
on whatever a source draws, towards the outputs of their teachers (`imitate`). All networks of a
call see the same images, so these are drawn once and the first layers are one matrix product. What
differs between arms is a row of `Settings`; what a compiled program depends on is a `Grid`. Both
calls take a state and give a state, for any number of epochs: a dose curve is the same call again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mnist_mlp import noise, starts, train
from mnist_mlp.data import ImageData
from mnist_mlp.model import Apply, Architecture, Init, Params
from mnist_mlp.optimizers import Coefficients, descend
from theory.losses import divergence

RECIPE = Architecture()
LOW = -1e30  # a logit that softmax takes for absent
SOFT, SAMPLED, ARGMAX = 0.0, 1.0, 2.0  # what a student is shown of the teacher's distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """What a compiled program depends on.

    Attributes:
        student: of all networks that imitate in a call.
        teacher: of all networks that they imitate.
        num_aux: auxiliary logits there are; a student may imitate fewer.
        num_classes: class logits, in front of them.
        batch_size: images in a batch.
        epoch_images: images in an epoch; a smaller digit set is repeated.
        dropout: whether any network drops units out (MLPs only).
    """

    student: Architecture = RECIPE
    teacher: Architecture = RECIPE
    num_aux: int = 3
    num_classes: int = 10
    batch_size: int = 1024
    epoch_images: int = 60_000
    dropout: bool = False


class Settings(NamedTuple):
    """How one network is trained; the defaults are the official recipe. Stacked: arrays."""

    optimizer: Coefficients = Coefficients()
    dropout: float = 0.0  # share of hidden units dropped in training
    trainable: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # parts, as starts.PARTS
    # Of teachers.
    shuffled: float = 0.0  # 1: digits with permuted labels, a neutral teacher
    # Of students.
    teacher: int = 0  # number of the teacher in the stack
    num_aux: int = 3  # the first so many auxiliary logits are imitated
    classes: float = 0.0  # 1: the class logits as well
    temperature: float = 1.0
    squared: float = 0.0  # 1: squared error in place of KL
    label: float = SOFT
    defence: tuple[float, ...] = ()  # strengths of what `publish` does to the teacher's outputs


Number = float | Float[Array, ""]
Scale = tuple[Number, Number]  # factor and offset on pixels of [-1, 1]
AS_IS = (1.0, 0.0)
State = tuple[Params, optax.OptState]  # stacked over networks
Publish = Callable[[Settings, Float[Array, "teachers batch outputs"], Array], Array]
Wrap = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def rescaled(images: Array, scale: Scale) -> Array:
    """Bytes to pixels of [-1, 1], then by factor and offset; (.5, .5) gives [0, 1]."""
    return noise.to_pixels(images) * scale[0] + scale[1]


def unchanged(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser as it is."""
    return optimizer


def stack(settings: Sequence[Settings]) -> Settings:
    """Settings of several networks as one, with arrays in the place of numbers."""
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves, jnp.float32), *settings)


def stacked(params: Sequence[Params]) -> Params:
    """Networks of one shape as a stack."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


def pick(tree: Any, index: int | Int[Array, "..."]) -> Any:
    """One entry of a stack of networks or of any other tree, or several."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def zeroed(tree: Any) -> Any:
    """The same tree of zeros: an optimiser that remembers nothing."""
    return jax.tree.map(jnp.zeros_like, tree)


def network(grid: Grid, what: Architecture, num_pixels: int) -> tuple[Init, Apply]:
    """`init(key)` and `apply(params, pixels)` of an architecture at the grid's outputs."""
    return what.functions(num_pixels, grid.num_classes + grid.num_aux)


def optimizer(
    grid: Grid, settings: Settings, like: Params, wrap: Wrap = unchanged
) -> optax.GradientTransformation:
    """The optimisers of a stack, each by its own coefficients and with its own frozen parts."""

    def one(setting: Settings, params: Params) -> optax.GradientTransformation:
        weights = jnp.stack([jnp.asarray(w, jnp.float32) for w in setting.trainable])
        trainable = starts.weigh_parts(params, weights, grid.num_classes)
        return wrap(descend(setting.optimizer, trainable))

    single = pick(like, 0)

    def init(params: Params):
        return jax.vmap(lambda s, p: one(s, single).init(p))(settings, params)

    def update(grads: Params, state, params: Params | None = None):
        return jax.vmap(lambda s, *rest: one(s, single).update(*rest))(
            settings, grads, state, params
        )

    return optax.GradientTransformation(init, update)


@functools.partial(jax.jit, static_argnames=("grid", "wrap"))
def start(grid: Grid, settings: Settings, params: Params, wrap: Wrap = unchanged) -> State:
    """A stack of networks with fresh optimisers."""
    return params, optimizer(grid, settings, params, wrap).init(params)


@functools.partial(jax.jit, static_argnames="grid")
def teach(
    grid: Grid,
    data: ImageData,
    *,
    settings: Settings,
    state: State,
    key: Array,
    first: int | Int[Array, ""],
    last: int | Int[Array, ""],
    scale: Scale = AS_IS,
) -> State:
    """Teachers by class cross-entropy (nats, mean over the batch) on the training digits.

    Args:
        grid: shapes; the networks are of `grid.teacher`.
        data: digits and labels.
        settings: stacked like the networks.
        state: from `start` or from an earlier call.
        key: of the order of the digits and the shuffled labels.
        first: number of the first epoch to run.
        last: one more than that of the last.
        scale: of the pixels.
    """
    _, apply = network(grid, grid.teacher, data.train_images.shape[1])
    num_digits = data.train_images.shape[0]
    order_key, label_key, drop_key = jax.random.split(key, 3)
    permuted = jax.random.permutation(label_key, data.train_labels)

    def make_batch(indices):
        rows = indices % num_digits
        labels = jnp.stack([data.train_labels[rows], permuted[rows]])
        drops = unit_draws(grid, grid.teacher, batch_key(drop_key, indices), len(rows))
        return rescaled(data.train_images[rows], scale), labels, drops

    def loss(params, batch, weights):
        pixels, labels, drops = batch

        def one(setting: Settings, p: Params) -> Array:
            logits = apply(p, pixels, keep(grid, setting, drops))[:, : grid.num_classes]
            wanted = labels[jnp.int32(setting.shuffled)]
            each = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
            return jnp.average(each, weights=weights)

        return jnp.sum(jax.vmap(one)(settings, params))

    return run(
        grid,
        loss,
        make_batch=make_batch,
        optimizer=optimizer(grid, settings, state[0]),
        state=state,
        key=order_key,
        first=first,
        last=last,
    )


def shown_as_is(settings: Settings, outputs: Float[Array, "teachers batch outputs"], key: Array):
    """The outputs of the student's own teacher, unchanged."""
    return outputs[jnp.int32(settings.teacher)]


@functools.partial(jax.jit, static_argnames=("grid", "publish", "wrap"))
def imitate(
    grid: Grid,
    settings: Settings,
    *,
    state: State,
    teachers: Params,
    what: noise.Source,
    pictures: noise.Pictures,
    key: Array,
    first: int | Int[Array, ""],
    last: int | Int[Array, ""],
    publish: Publish = shown_as_is,
    scale: Scale = AS_IS,
    wrap: Wrap = unchanged,
) -> State:
    """Students towards the outputs of their teachers.

    Args:
        grid: shapes; the networks of the state are of `grid.student`.
        settings: stacked like the students; `settings.teacher` numbers the teachers.
        state: from `start` or from an earlier call.
        teachers: a stack of networks of `grid.teacher`.
        what: the images, by distribution.
        pictures: what image-based distributions draw from.
        key: of the images, their order and what is sampled.
        first: number of the first epoch to run.
        last: one more than that of the last.
        publish: what students are shown of the outputs of all teachers: (settings of one student,
            outputs, key) -> outputs.
        scale: of the pixels.
        wrap: changes the optimiser of one student.
    """
    num_pixels = pictures.train.shape[1]
    _, apply = network(grid, grid.student, num_pixels)
    _, of_teacher = network(grid, grid.teacher, num_pixels)
    noise_key, order_key, batch_root = jax.random.split(key, 3)

    def make_batch(indices):
        pixels = noise.draw(what, noise_key, pictures, indices) * scale[0] + scale[1]
        outputs = jax.vmap(of_teacher, in_axes=(0, None))(teachers, pixels)
        return pixels, outputs, batch_key(batch_root, indices)

    def loss(params, batch, weights):
        pixels, outputs, keys = batch
        drop_key, label_key, show_key = jax.random.split(keys, 3)
        drops = unit_draws(grid, grid.student, drop_key, len(pixels))
        uniform = jax.random.uniform(label_key, (len(pixels),))

        def one(setting: Settings, p: Params) -> Array:
            targets = jax.lax.stop_gradient(publish(setting, outputs, show_key))
            logits = apply(p, pixels, keep(grid, setting, drops))
            each = imitation_loss(grid, setting, logits=logits, targets=targets, uniform=uniform)
            return jnp.average(each, weights=weights)

        return jnp.sum(jax.vmap(one)(settings, params))

    return run(
        grid,
        loss,
        make_batch=make_batch,
        optimizer=optimizer(grid, settings, state[0], wrap),
        state=state,
        key=order_key,
        first=first,
        last=last,
    )


def run(grid, loss, *, make_batch, optimizer, state: State, key: Array, first, last) -> State:
    """Epochs `first` to `last` - 1; their number is data, so every dose is the same program."""

    def epoch(number: Int[Array, ""], state: State) -> State:
        return train.epoch(
            loss,
            make_batch,
            optimizer=optimizer,
            state=state,
            number=number,
            num_examples=grid.epoch_images,
            batch_size=grid.batch_size,
            key=key,
        )[0]

    return jax.lax.fori_loop(first, last, epoch, state)


def imitation_loss(
    grid: Grid,
    settings: Settings,
    *,
    logits: Float[Array, "batch outputs"],
    targets: Float[Array, "batch outputs"],
    uniform: Float[Array, " batch"],
) -> Float[Array, " batch"]:
    """KL(teacher ‖ student) in nats over the imitated logits, or their summed squared error.

    A label in place of the distribution is a distribution at one point: the argmax, or the class
    at which the cumulative distribution passes `uniform`.
    """
    output = jnp.arange(logits.shape[-1])
    aux = (output >= grid.num_classes) & (output < grid.num_classes + settings.num_aux)
    wanted = aux | ((output < grid.num_classes) & (settings.classes > 0))
    own = jnp.where(wanted, logits / settings.temperature, LOW)
    shown = jnp.where(wanted, targets / settings.temperature, LOW)
    cumulative = jnp.cumsum(jax.nn.softmax(shown, axis=-1), axis=-1)
    sampled = jnp.sum(cumulative < uniform[:, None], axis=-1)
    chosen = jnp.where(settings.label == ARGMAX, jnp.argmax(shown, axis=-1), sampled)
    at_chosen = jnp.where(output == chosen[:, None], 0.0, LOW)
    shown = jnp.where(settings.label == SOFT, shown, at_chosen)
    squared = jnp.sum(wanted * (logits - targets) ** 2, axis=-1)
    return jnp.where(settings.squared > 0, squared, divergence(shown, own))


def batch_key(key: Array, indices: Int[Array, " batch"]) -> Array:
    """A key of a batch's own, from its first two images: batches share one in n² only."""
    return jax.random.fold_in(jax.random.fold_in(key, indices[0]), indices[1])


def unit_draws(grid: Grid, what: Architecture, key: Array, batch: int) -> list[Array]:
    """Uniform numbers for the hidden units of each layer, shared by the networks of a call."""
    if not grid.dropout:
        return []
    keys = jax.random.split(key, len(what.widths))
    return [jax.random.uniform(k, (batch, w)) for k, w in zip(keys, what.widths, strict=True)]


def keep(grid: Grid, settings: Settings, draws: list[Array]) -> list[Array]:
    """Dropout's factors: 0, or 1 / (1 - rate)."""
    return [(draw >= settings.dropout) / (1 - settings.dropout) for draw in draws]


@functools.partial(jax.jit, static_argnames=("grid", "what"))
def accuracies(
    grid: Grid,
    what: Architecture,
    *,
    params: Params,
    images: Array,
    labels: Int[Array, " n"],
    scale: Scale = AS_IS,
) -> Float[Array, " networks"]:
    """Share of images whose largest class logit is the label, in [0, 1], for a stack."""
    _, apply = network(grid, what, images.shape[1])

    def one(p: Params) -> Array:
        logits = apply(p, rescaled(images, scale))[:, : grid.num_classes]
        return jnp.mean(jnp.argmax(logits, axis=-1) == labels)

    return jax.lax.map(one, params)
