"""Decoder models as pure functions of a config and a parameter tree.

    config, params = models.load("path/to/checkpoint")      # or models.init(config, key=key)
    logits = models.apply(config, params, tokens, mask=mask)

Parameters are nested dictionaries of arrays, e.g. `params["layers"][0]["attn"]["q"]["kernel"]`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from .config import SUPPORTED, ModelConfig, Rope
from .transformer import Cache, Decoder, empty_cache

__all__ = [
    "SUPPORTED",
    "Cache",
    "Decoder",
    "ModelConfig",
    "Params",
    "Rope",
    "apply",
    "bind",
    "empty_cache",
    "init",
]

Params = PyTree[Array]


def init(config: ModelConfig, *, key: Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Fresh parameters; a pure function of the key, so it works under `jit` and `vmap`."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key), param_dtype=dtype)))


def bind(config: ModelConfig, params: Params, *, dtype: DTypeLike | None = None) -> Decoder:
    """The decoder with these parameters; call it inside the function that is jitted.

    Args:
        config: the shape of the model.
        params: as from `init` or `load`.
        dtype: compute dtype; that of the embedding if None.
    """
    dtype = jnp.dtype(params["embedding"].dtype if dtype is None else dtype)
    return nnx.merge(_graphdef(config, dtype), params)


def apply(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    dtype: DTypeLike | None = None,
    **kwargs,
) -> Float[Array, "B T V"]:
    """Next-token logits in float32; `kwargs` go to `Decoder.__call__` (mask, positions, remat)."""
    return bind(config, params, dtype=dtype)(tokens, **kwargs)


@functools.lru_cache
def _graphdef(config: ModelConfig, dtype: jnp.dtype) -> nnx.GraphDef:
    abstract = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    return nnx.split(abstract)[0]
