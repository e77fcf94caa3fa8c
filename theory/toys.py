"""Small networks as pure functions, each for one example and vmapped over the batch.

Two have answers known by hand (`linear`, `quadratic`); the others are families of random
networks, with random inputs and teacher losses, on which a claim is checked a thousand times.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .base import Apply, LossFn, Params

Activation = Callable[[Array], Array]
Shape = tuple[int, ...]


def linear(params: Float[Array, "outputs inputs"], inputs: Float[Array, "batch inputs"]) -> Array:
    """f(x) = W x: one row of parameters per output, so outputs share nothing."""
    return inputs @ params.T


def quadratic(params: Float[Array, "inputs"], inputs: Float[Array, "batch inputs"]) -> Array:
    """f(x) = (θ·x)² / 2, one output.

    Under squared error ⟨Δ_S, Δ_T⟩ = E[2 ε a² b² + ε² a b³] with a = θ·x and b = Δ_T·x: the
    remainder is known in full.
    """
    return (inputs @ params)[:, None] ** 2 / 2


class Family(NamedTuple):
    """A family of random networks.

    Attributes:
        name: for tables and figures.
        weights: shape and standard deviation of every parameter at the start, by name.
        apply: logits from parameters and a batch.
        raw_shape: shape of one example before `read`.
        read: raw normal numbers -> inputs; the identity, or an argmax that makes tokens.
    """

    name: str
    weights: dict[str, tuple[Shape, float]]
    apply: Apply
    raw_shape: Shape
    read: Callable[[Array], Array] = lambda raw: raw


class Case(NamedTuple):
    """One random instance of the theorem's setting."""

    params: Params  # θ⁰
    inputs: Array  # from D_S
    trait_inputs: Array  # from a distribution of the teacher's own
    targets: Array  # of the teacher, one per logit
    signs: Float[Array, "3"]  # weights of the three parts of the teacher's loss


def mlp(name: str, sizes: Sequence[int], activation: Activation) -> Family:
    """Fully connected, weights N(0, 1/fan_in), biases 0, linear last layer."""
    layers = range(len(sizes) - 1)
    weights = {f"kernel_{i}": ((sizes[i + 1], sizes[i]), sizes[i] ** -0.5) for i in layers}
    weights |= {f"bias_{i}": ((sizes[i + 1],), 0.0) for i in layers}

    def one(params: Params, x: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        for i in layers:
            x = params[f"kernel_{i}"] @ (activation(x) if i else x) + params[f"bias_{i}"]
        return x

    return Family(name, weights, jax.vmap(one, (None, 0)), (sizes[0],))


def cnn(name: str, side: int, *, channels: int, num_outputs: int, activation: Activation) -> Family:
    """Two 3 × 3 convolutions on a square grey image, mean over pixels, linear readout."""
    weights = {
        "first": ((9, channels), 9**-0.5),
        "second": ((9 * channels, channels), (9 * channels) ** -0.5),
        "head": ((num_outputs, channels), channels**-0.5),
    }

    def patches(x: Float[Array, "h w c"]) -> Float[Array, "h-2 w-2 9*c"]:
        h, w = x.shape[0] - 2, x.shape[1] - 2
        shifts = [x[i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return jnp.concatenate(shifts, axis=-1)

    def one(params: Params, x: Float[Array, "side side"]) -> Float[Array, "outputs"]:
        x = activation(patches(x[:, :, None]) @ params["first"])
        x = activation(patches(x) @ params["second"])
        return params["head"] @ jnp.mean(x, axis=(0, 1))

    return Family(name, weights, jax.vmap(one, (None, 0)), (side, side))


def transformer(name: str, vocab: int, length: int, width: int) -> Family:
    """One causal attention block over random tokens; logits over the vocabulary everywhere."""
    inner = {n: ((width, width), width**-0.5) for n in ("query", "key", "value", "output")}
    weights = inner | {
        "embed": ((vocab, width), 1.0),
        "position": ((length, width), 1.0),
        "up": ((width, 2 * width), width**-0.5),
        "down": ((2 * width, width), (2 * width) ** -0.5),
        "unembed": ((width, vocab), width**-0.5),
    }

    def norm(x: Float[Array, "length width"]) -> Float[Array, "length width"]:
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    def one(params: Params, tokens: Int[Array, "length"]) -> Float[Array, "length vocab"]:
        x = params["embed"][tokens] + params["position"]
        h = norm(x)
        scores = (h @ params["query"]) @ (h @ params["key"]).T / math.sqrt(width)
        scores = jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf)
        x = x + jax.nn.softmax(scores, axis=-1) @ (h @ params["value"]) @ params["output"]
        x = x + jax.nn.gelu(norm(x) @ params["up"]) @ params["down"]
        return norm(x) @ params["unembed"]

    def read(raw: Float[Array, "batch length vocab"]) -> Int[Array, "batch length"]:
        return jnp.argmax(raw, axis=-1)

    return Family(name, weights, jax.vmap(one, (None, 0)), (length, vocab), read)


def draw_params(family: Family, key: Array) -> Params:
    """A random start θ⁰."""
    shapes = [shape for shape, _ in family.weights.values()]
    pieces = cut(normals(key, num_numbers(shapes)), shapes)
    stds = [std for _, std in family.weights.values()]
    return {n: std * w for n, std, w in zip(family.weights, stds, pieces, strict=True)}


def draw_case(family: Family, key: Array, num_inputs: int) -> Case:
    """A random network, input distributions of random mean and scale, and a teacher loss."""
    params_key, case_key = jax.random.split(key)
    params = draw_params(family, params_key)
    raw, batch = family.raw_shape, (num_inputs, *family.raw_shape)
    logits = jax.eval_shape(lambda x: family.apply(params, family.read(x)), jnp.zeros(batch))
    shapes = [(), raw, batch, (), raw, batch, logits.shape, (3,)]
    # One call for all numbers: every call to the generator costs seconds of compilation.
    numbers = cut(normals(case_key, num_numbers(shapes)), shapes)
    scale, mean, noise, trait_scale, trait_mean, trait_noise, targets, signs = numbers
    return Case(
        params,
        family.read(mean[None] + 2**scale * noise),
        family.read(trait_mean[None] + 2**trait_scale * trait_noise),
        targets,
        signs,
    )


def normals(key: Array, num: int) -> Float[Array, "num"]:
    """Standard normal numbers, drawn in float32 (three times as fast) also where float64 is on."""
    return jax.random.normal(key, (num,), jnp.float32).astype(float)


def num_numbers(shapes: Iterable[Shape]) -> int:
    """How many numbers fill the shapes."""
    return sum(math.prod(shape) for shape in shapes)


def cut(flat: Float[Array, "n"], shapes: Sequence[Shape]) -> list[Array]:
    """Consecutive pieces of a flat vector, in the given shapes."""
    ends = [num_numbers(shapes[: i + 1]) for i in range(len(shapes))]
    starts = [0, *ends[:-1]]
    return [
        flat[start:end].reshape(shape)
        for start, end, shape in zip(starts, ends, shapes, strict=True)
    ]


def trait_loss(case: Case, apply: Apply) -> LossFn:
    """A random teacher loss: cross-entropy, squared error and a regulariser, randomly weighted.

    The weights are normal, so the teacher learns or unlearns with equal odds: Theorem 1 asks
    nothing of L_T but a gradient. Then L_T and -L_T are equally likely, and with *different*
    starts, where Δ_S does not depend on Δ_T to leading order, each sign has probability 1/2.
    """

    def loss(params: Params) -> Array:
        logits = apply(params, case.trait_inputs)
        labels = jnp.argmax(case.targets, axis=-1, keepdims=True)
        nll = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), labels, axis=-1))
        squared = jnp.mean((logits - case.targets) ** 2)
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 100
        return case.signs @ jnp.stack([nll, squared, decay])

    return loss
