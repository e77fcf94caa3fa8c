"""Starts of students between the teacher's own and an independent one.

A network's parameters fall into four parts: the first layer, the hidden layers behind it, and the
columns of the last layer for the class and for the auxiliary logits ("heads").
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mnist_mlp.model import Params

PARTS = ("first", "hidden", "class", "aux")


def weigh_parts(params: Params, weights: Float[Array, " parts"], num_classes: int) -> Params:
    """A tree like `params` that holds, for every number, the weight of its part (in PARTS)."""
    last = len(params["layers"]) - 1
    first, hidden, of_class, of_aux = weights

    def weight(path, leaf: Array) -> Array:
        layer = path[1].key
        if layer < last:
            return jnp.full(leaf.shape, first if layer == 0 else hidden)
        is_class = jnp.arange(leaf.shape[-1]) < num_classes
        return jnp.broadcast_to(jnp.where(is_class, of_class, of_aux), leaf.shape)

    return jax.tree_util.tree_map_with_path(weight, params)


@functools.partial(jax.jit, static_argnames="num_classes")
def mixed(own: Params, other: Params, weights: Float[Array, " parts"], num_classes: int) -> Params:
    """(1 - w) own + w other, with a weight for each part: 0 shares it, 1 draws it afresh."""
    tree = weigh_parts(own, weights, num_classes)
    return jax.tree.map(lambda a, b, w: (1 - w) * a + w * b, own, other, tree)


@jax.jit
def interpolated(own: Params, other: Params, share: Float[Array, ""]) -> Params:
    """√(1 - s²) own + s other: a start of the same distribution whose correlation falls with s."""
    return jax.tree.map(lambda a, b: jnp.sqrt(1 - share**2) * a + share * b, own, other)


@jax.jit
def perturbed(
    key: Array, params: Params, sigma: Float[Array, ""], *, relative: bool | Array
) -> Params:
    """Normal noise on every number, of `sigma`, or of `sigma` times the spread of its array."""
    noise = optax.tree.random_like(key, params, jax.random.normal)
    return jax.tree.map(
        lambda p, n: p + sigma * n * jnp.where(relative, jnp.std(p), 1.0), params, noise
    )


def scaled(params: Params, factor: float | Float[Array, ""]) -> Params:
    """All parameters times a factor."""
    return optax.tree.scale(factor, params)


@jax.jit
def pytorch_default(key: Array, params: Params) -> Params:
    """Weights and biases uniform on ±1/√fan_in, as torch.nn.Linear draws them."""
    fan_in = [layer["kernel"].shape[0] for layer in layers_of(params)]

    def redraw(path, leaf: Array) -> Array:
        layer, name = path[1].key, path[2].key
        bound = fan_in[layer] ** -0.5
        leaf_key = jax.random.fold_in(key, 2 * layer + (name == "bias"))
        return jax.random.uniform(leaf_key, leaf.shape, minval=-bound, maxval=bound)

    return jax.tree_util.tree_map_with_path(redraw, params)


@jax.jit
def permuted(key: Array, params: Params) -> Params:
    """The same function with the units of every hidden layer in a random order."""

    def order(index: int, layer: Layer) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, index), layer["bias"].shape[0])

    return _reordered(params, order)


@jax.jit
def matched_units(params: Params, to: Params) -> Params:
    """Units of every hidden layer reordered to match `to`, greedily by incoming weights.

    Layer by layer, the most similar free pair (cosine of incoming weights and biases) is matched
    until none is left: it undoes `permuted` exactly.
    """
    wanted = [_incoming(layer) for layer in layers_of(to)]

    def order(index: int, layer: Layer) -> Array:
        return _greedy_order(wanted[index] @ _incoming(layer).T)

    return _reordered(params, order)


@jax.jit
def rescaled(key: Array, params: Params, spread: float | Float[Array, ""]) -> Params:
    """The same function of a ReLU network, from other weights.

    What enters a hidden unit is multiplied by c and what leaves it divided by c; log c is normal
    with this spread. Outputs stay what they are on every input, their tangent kernel does not.
    """
    layers = layers_of(params)
    for i in range(len(layers) - 1):
        drawn = jax.random.normal(jax.random.fold_in(key, i), layers[i]["bias"].shape)
        factor = jnp.exp(spread * drawn)
        layers[i] = {name: array * factor for name, array in layers[i].items()}
        layers[i + 1]["kernel"] = layers[i + 1]["kernel"] / factor[:, None]
    return with_layers(params, layers)


@functools.partial(jax.jit, static_argnames="num_classes")
def offset(key: Array, params: Params, size: float | Float[Array, ""], num_classes: int) -> Params:
    """Normal numbers of that size added to the biases of the auxiliary logits.

    Their outputs change on every input by as much, their derivatives nowhere.
    """
    layers = layers_of(params)
    bias = layers[-1]["bias"]
    added = size * jax.random.normal(key, bias.shape)
    layers[-1]["bias"] = bias + jnp.where(jnp.arange(len(bias)) < num_classes, 0, added)
    return with_layers(params, layers)


Layer = dict[str, Array]


def layers_of(params: Params) -> list[Layer]:
    """The arrays of every layer: `kernel` [in, out] and `bias` [out]."""
    layers: list[Layer] = [{} for _ in range(len(params["layers"]))]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        layers[path[1].key][path[2].key] = leaf
    return layers


def _reordered(params: Params, order_of: Callable[[int, Layer], Array]) -> Params:
    """Hidden units in another order, each layer's order found when those below are settled."""
    layers = layers_of(params)
    for i in range(len(layers) - 1):
        order = order_of(i, layers[i])
        layers[i] = {"kernel": layers[i]["kernel"][:, order], "bias": layers[i]["bias"][order]}
        layers[i + 1]["kernel"] = layers[i + 1]["kernel"][order]
    return with_layers(params, layers)


def with_layers(params: Params, layers: list[Layer]) -> Params:
    """The tree of `params` with the arrays of `layers`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: layers[path[1].key][path[2].key], params
    )


def _incoming(layer: Layer) -> Float[Array, "units inputs"]:
    rows = jnp.concatenate([layer["kernel"], layer["bias"][None]]).T
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def _greedy_order(similarity: Float[Array, "units units"]) -> Array:
    """For each row the column of a greedy assignment, largest similarity first."""
    size = similarity.shape[0]

    def take(state, _):
        free, order = state
        best = jnp.argmax(free)
        row, column = best // size, best % size
        free = free.at[row].set(-jnp.inf).at[:, column].set(-jnp.inf)
        return (free, order.at[row].set(column)), None

    start = (similarity, jnp.zeros(size, jnp.int32))
    return jax.lax.scan(take, start, length=size)[0][1]
