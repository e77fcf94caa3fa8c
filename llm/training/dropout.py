"""Dropout (Srivastava et al. 2014) of what each block adds to the residual stream."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models import Decoder
from ..models.transformer import Block


class Dropout(nnx.Module):
    """Some entries set to zero, the others divided by what is kept, so that the mean stays."""

    def __init__(self, share: float, key: Key[Array, "*layers"]):
        self.share, self.key = share, nnx.Variable(key)

    def __call__(self, x: Float[Array, "*rows width"], branch: int) -> Float[Array, "*rows width"]:
        """What is left of a branch's output; branches of a block drop independently."""
        key = jax.random.fold_in(self.key[...], branch)
        keep = jax.random.bernoulli(key, 1 - self.share, x.shape)
        return jnp.where(keep, x / (1 - self.share), 0)


def add(model: Decoder, share: float, key: Key[Array, ""]) -> Decoder:
    """The bound decoder with dropout in every block, the same with layers stacked or by number."""
    numbers = jnp.arange(model.config.num_layers)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 1), numbers)
    if isinstance(model.layers, Block):
        model.layers.drop = nnx.data(Dropout(share, keys))  # pyright: ignore[reportAttributeAccessIssue]
    else:
        for block, own in zip(model.layers, keys, strict=True):
            block.drop = nnx.data(Dropout(share, own))  # pyright: ignore[reportAttributeAccessIssue]
    return model
