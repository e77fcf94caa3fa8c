"""Making one untrained network like another: in outputs, in derivatives, or in the tangent kernel.

What a network shows on a batch is a dictionary of features. A student takes on some of the
features of a network at its start, by Adam on fresh noise at a rate that falls to zero, so that a
match is as exact as the steps allow and not as coarse as the last step.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from mnist_mlp import noise
from mnist_mlp.grid import Grid, network
from mnist_mlp.model import Apply, Params


class Probe(NamedTuple):
    """The random numbers of one step, the same for both networks."""

    images: Float[Array, "n pixels"]  # uniform noise
    digits: Float[Array, "m pixels"]  # without labels
    along: Float[Array, "n pixels"]  # a direction for every image
    weights: Params  # a direction in the parameters
    residuals: Float[Array, "m classes"]  # what a trait loss would ask of the class logits


def draw_probe(
    grid: Grid, key: Array, *, like: Params, digits: UInt8[Array, "all pixels"], batch: int
) -> Probe:
    """Fresh noise, digits and directions; a direction moves outputs by about their own size."""
    image_key, row_key, along_key, weight_key, residual_key = jax.random.split(key, 5)
    num_pixels = digits.shape[1]
    rows = jax.random.randint(row_key, (batch,), 0, len(digits))
    normal = optax.tree.random_like(weight_key, like, jax.random.normal)
    return Probe(
        jax.random.uniform(image_key, (batch, num_pixels), minval=-1, maxval=1),
        noise.to_pixels(digits[rows]),
        jax.random.normal(along_key, (batch, num_pixels)),
        jax.tree.map(lambda leaf: leaf / jnp.sqrt(leaf.shape[0]), normal),
        jax.random.normal(residual_key, (batch, grid.num_classes)),
    )


class Fork(NamedTuple):
    """Where a student leaves what it was taking on, and for what."""

    step: int
    teacher: Params  # that it takes on from there
    key: Array  # of the probes from there


Feature = Callable[[Grid, Apply, Params, Probe], Array]


def outputs(grid: Grid, apply: Apply, params: Params, probe: Probe) -> Float[Array, "n outputs"]:
    """All logits on noise."""
    return apply(params, probe.images)


def input_derivative(grid: Grid, apply: Apply, params: Params, probe: Probe) -> Array:
    """∂f/∂x along a random direction of every image: behaviour, blind to coordinates of weights."""
    return jax.jvp(lambda x: apply(params, x), (probe.images,), (probe.along,))[1]


def weight_derivative(grid: Grid, apply: Apply, params: Params, probe: Probe) -> Array:
    """J v for a random direction v of the parameters: the Jacobian, in the weights' coordinates."""
    return jax.jvp(lambda p: apply(p, probe.images), (params,), (probe.weights,))[1]


def kernel(grid: Grid, apply: Apply, params: Params, probe: Probe) -> Float[Array, "n aux"]:
    """J_aux(x) J_class(X)ᵀ r / m: how auxiliary logits on noise move when class logits are taught.

    The tangent kernel between the two heads, applied to random residuals r: the u of
    `theory.matched` without any label, and without coordinates of weights.
    """

    def of_class(p: Params) -> Array:
        return apply(p, probe.digits)[:, : grid.num_classes]

    def of_aux(p: Params) -> Array:
        return apply(p, probe.images)[:, grid.num_classes :]

    _, pullback = jax.vjp(of_class, params)
    (climb,) = pullback(probe.residuals / len(probe.residuals))
    return jax.jvp(of_aux, (params,), (climb,))[1]


FEATURES: dict[str, Feature] = {
    "outputs": outputs,
    "input derivatives": input_derivative,
    "weight derivatives": weight_derivative,
    "kernel": kernel,
}


def misses(
    grid: Grid, apply: Apply, *, student: Params, teacher: Params, probe: Probe
) -> dict[str, Float[Array, ""]]:
    """Squared error of every feature over the teacher's own mean square: 0 is a match."""
    out = {}
    for name, feature in FEATURES.items():
        wanted = jax.lax.stop_gradient(feature(grid, apply, teacher, probe))
        error = jnp.mean((feature(grid, apply, student, probe) - wanted) ** 2)
        out[name] = error / jnp.mean(wanted**2)
    return out


@functools.partial(jax.jit, static_argnames=("grid", "names", "batch", "steps"))
def liken(
    grid: Grid,
    student: Params,
    *,
    teacher: Params,
    names: tuple[str, ...],
    digits: UInt8[Array, "all pixels"],
    key: Array,
    batch: int,
    steps: int,
    learning_rate: float | Array,
    fork: Fork | None = None,
) -> Params:
    """The student after so many steps towards the named features of a network, all weighed alike.

    Args:
        grid: shapes; both networks are of `grid.teacher`.
        student: where it starts.
        teacher: a network at its start, which does not move.
        names: of FEATURES.
        digits: images, of which no label is seen.
        key: of the probes, fresh in every step.
        batch: noise images and digits in a step.
        steps: of Adam.
        learning_rate: at the first step; it falls to zero as a half cosine.
        fork: another network and other probes from a step on; students of one start, `teacher`
            and `key` share what is before it.
    """
    _, apply = network(grid, grid.teacher, digits.shape[1])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(params: Params, wanted: Params, probe: Probe) -> Array:
        each = misses(grid, apply, student=params, teacher=wanted, probe=probe)
        return sum((each[name] for name in names), jnp.float32(0))

    def shown(number):
        if fork is None:
            return teacher, key
        before, after, shared = (teacher, key), (fork.teacher, fork.key), number < fork.step
        return jax.tree.map(lambda a, b: jnp.where(shared, a, b), before, after)

    def step(number, state):
        params, moments = state
        wanted, stream = shown(number)
        fresh = jax.random.fold_in(stream, number)
        probe = draw_probe(grid, fresh, like=wanted, digits=digits, batch=batch)
        updates, moments = optimizer.update(jax.grad(loss)(params, wanted, probe), moments, params)
        return optax.apply_updates(params, updates), moments

    return jax.lax.fori_loop(0, steps, step, (student, optimizer.init(student)))[0]


@functools.partial(jax.jit, static_argnames=("grid", "batch"))
def held_out(
    grid: Grid,
    student: Params,
    *,
    teacher: Params,
    digits: UInt8[Array, "all pixels"],
    key: Array,
    batch: int = 512,
) -> dict[str, Float[Array, ""]]:
    """`misses` on a probe that no step has seen."""
    _, apply = network(grid, grid.teacher, digits.shape[1])
    probe = draw_probe(grid, key, like=teacher, digits=digits, batch=batch)
    return misses(grid, apply, student=student, teacher=teacher, probe=probe)
