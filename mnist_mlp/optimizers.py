"""Gradient descent, momentum, Adam and AdamW as one update whose coefficients are data.

    m ← β m + (1 - β) g        v ← .999 v + .001 g²        (both corrected for their zero start)
    θ ← θ - η (m / s + decay θ),   s = √v + 1e-8 if adaptive, else 1

With coefficients that are arrays, one compiled program trains a stack of networks, each by its
own optimiser.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

SECOND, EPS = 0.999, 1e-8
Params = optax.Params  # any tree of arrays
Number = float | Float[Array, "..."]


class Coefficients(NamedTuple):
    """Of one network's optimiser, or stacked; the defaults are Adam's of the official recipe."""

    learning_rate: Number = 3e-4
    momentum: Number = 0.9  # β; as a mean of gradients, so a rate means the same at every β
    adaptive: Number = 1.0  # 1: Adam's division by √v, 0: none
    l2: Number = 0.0  # added to the gradient as l2 · θ, before Adam sees it
    decay: Number = 0.0  # decoupled (AdamW)


class Moments(NamedTuple):
    """What an optimiser remembers."""

    count: Int[Array, ""]
    first: Params
    second: Params


def descend(c: Coefficients, trainable: Params | None = None) -> optax.GradientTransformation:
    """The update of one network.

    Args:
        c: scalars.
        trainable: a tree of factors on the steps, 0 where a number must keep its value; all 1 if
            omitted.
    """

    def init(params: Params) -> Moments:
        zeros = optax.tree.zeros_like(params)
        return Moments(jnp.int32(0), zeros, zeros)

    def update(grads: Params, state: Moments, params: Params | None = None):
        grads = optax.tree.add_scale(grads, c.l2, params)
        count = state.count + 1
        first = optax.tree.update_moment(grads, state.first, c.momentum, 1)
        second = optax.tree.update_moment(grads, state.second, SECOND, 2)
        # β = 0 has nothing to correct, and 0^count = 0 says so.
        first_scale = 1 / (1 - jnp.asarray(c.momentum) ** count)
        second_scale = 1 / (1 - SECOND**count)

        def step(m: Array, v: Array, p: Array) -> Array:
            size = jnp.where(c.adaptive, jnp.sqrt(v * second_scale) + EPS, 1.0)
            return -c.learning_rate * (m * first_scale / size + c.decay * p)

        steps = jax.tree.map(step, first, second, params)
        if trainable is not None:
            steps = jax.tree.map(jnp.multiply, steps, trainable)
        return steps, Moments(count, first, second)

    return optax.GradientTransformation(init, update)
