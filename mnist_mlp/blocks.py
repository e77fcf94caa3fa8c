"""Several networks as one wide network, whose outputs are their weighted sum; the first one learns.

A fixed function that is added to a network changes its outputs on every input and leaves its
tangent kernel what it was. With the difference of two other networks as that function, a network
has the exact outputs of another one and all else of its own.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mnist_mlp import starts
from mnist_mlp.model import Params


def summed(
    like: Params, networks: Sequence[Params], weights: Sequence[Float[Array, " outputs"]]
) -> Params:
    """One network whose hidden units are those of all, and whose outputs are Σ w f.

    Args:
        like: any parameters of the wide shape.
        networks: of one shape.
        weights: for every network, what each of its outputs is multiplied by.
    """
    every = [starts.layers_of(params) for params in networks]
    last = len(every[0]) - 1
    layers = []
    for i in range(last + 1):
        kernels, biases = ([layers[i][name] for layers in every] for name in ("kernel", "bias"))
        if i == last:
            kernel = jnp.concatenate([k * w for k, w in zip(kernels, weights, strict=True)])
            bias = sum(
                (b * w for b, w in zip(biases, weights, strict=True)), jnp.zeros_like(biases[0])
            )
        else:
            kernel = jnp.concatenate(kernels, axis=1)
            kernel = kernel if i == 0 else jax.scipy.linalg.block_diag(*kernels)
            bias = jnp.concatenate(biases)
        layers.append({"kernel": kernel, "bias": bias})
    return starts.with_layers(like, layers)


def first_learns(
    widths: tuple[int, ...], optimizer: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The optimiser with steps for the first network alone, whose hidden layers have these widths.

    The biases of the outputs are its own.
    """

    def of_first(updates: Params) -> Params:
        last = len(widths)

        def masked(path: Any, update: Array) -> Array:
            layer = path[1].key
            into = jnp.arange(update.shape[-1]) < (widths[layer] if layer < last else jnp.inf)
            if update.ndim == 1:
                return update * into
            out_of = jnp.arange(update.shape[0]) < (widths[layer - 1] if layer else jnp.inf)
            return update * into * out_of[:, None]

        return jax.tree_util.tree_map_with_path(masked, updates)

    def update(grads: Params, state: Any, params: Params | None = None):
        steps, state = optimizer.update(grads, state, params)
        return of_first(steps), state

    return optax.GradientTransformation(optimizer.init, update)
