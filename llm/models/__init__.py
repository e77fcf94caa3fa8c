"""Decoder models as pure functions of a config and a parameter tree.

    config, params = models.load("path/to/checkpoint")      # or models.init(config, key=key)
    logits = models.apply(config, params, tokens, mask=mask)

Parameters are nested dictionaries of arrays, e.g. `params["layers"][0]["attn"]["q"]["kernel"]`, or
`stack_layers(params)["layers"]["attn"]["q"]["kernel"]` with a leading axis of layers.
"""

import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from .attention import Cache, empty_cache, widen_cache
from .config import ModelConfig, Rope
from .families import FAMILIES
from .folders import DIGITS, fingerprint, folder_of, new_folder, without_weights
from .gguf_file import is_gguf
from .hf_config import from_hf, is_wrapped, load_config, to_hf
from .stacking import is_stacked, is_uniform, stack_layers, unstack_layers
from .transformer import Decoder
from .weights import load_params, module_name, published_name, save, to_host

__all__ = [
    "DIGITS",
    "FAMILIES",
    "Cache",
    "Decoder",
    "ModelConfig",
    "Params",
    "Rope",
    "apply",
    "bind",
    "empty_cache",
    "fingerprint",
    "folder_of",
    "from_hf",
    "init",
    "is_gguf",
    "is_stacked",
    "is_uniform",
    "is_wrapped",
    "load",
    "load_config",
    "module_name",
    "new_folder",
    "published_name",
    "save",
    "stack_layers",
    "to_hf",
    "to_host",
    "unstack_layers",
    "widen_cache",
    "without_weights",
]

Params = PyTree[Array | np.ndarray]


def init(config: ModelConfig, *, key: Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Fresh parameters; a pure function of the key, so it works under `jit` and `vmap`."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key), param_dtype=dtype)))


def bind(config: ModelConfig, params: Params, *, dtype: DTypeLike | None = None) -> Decoder:
    """The decoder with these parameters; call it inside the function that is jitted.

    Args:
        config: the shape of the model.
        params: as from `init` or `load`, layers stacked or not.
        dtype: compute dtype; that of the embedding if None.
    """
    dtype = jnp.dtype(params["embedding"].dtype if dtype is None else dtype)
    return nnx.merge(_graphdef(config, dtype, is_stacked(params)), params)


def apply(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array | np.ndarray, "B T"],
    *,
    dtype: DTypeLike | None = None,
    **kwargs,
) -> Float[Array, "B T V"]:
    """Next-token logits in float32; `kwargs` go to `Decoder.__call__` (mask, positions, remat)."""
    return bind(config, params, dtype=dtype)(tokens, **kwargs)  # pyright: ignore[reportReturnType]


def load(
    folder_or_name: str | os.PathLike,
    dtype: DTypeLike = jnp.float32,
    *,
    layout: Callable[[PyTree], PyTree[jax.sharding.Sharding]] | None = None,
    stacked: bool = False,
) -> tuple[ModelConfig, Params]:
    """Config and parameters of a Hugging Face checkpoint folder or hub name.

    Args:
        folder_or_name: holds `config.json` and safetensors, one file or indexed shards; or a
            GGUF file.
        dtype: of the parameters, whatever the files hold.
        layout: from the tree of shapes to a tree of shardings, such as `sharding.shardings`
            with its mesh bound; each process then reads only the parts of its own devices.
        stacked: layers as one stack, for training deep models (`stacking`).

    Raises:
        ValueError: no such folder or name, an unsupported model, or files that do not fit.
    """
    folder = folder_of(folder_or_name)
    config = load_config(folder)
    form = stack_layers if stacked else lambda tree: tree
    abstract = jax.eval_shape(lambda: form(init(config, key=jax.random.key(0))))
    return config, load_params(
        folder, config, abstract=abstract, dtype=dtype, shardings=layout and layout(abstract)
    )


@functools.lru_cache
def _graphdef(config: ModelConfig, dtype: jnp.dtype, stacked: bool) -> nnx.GraphDef:
    abstract = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, stacked=stacked)
    )
    return nnx.split(abstract)[0]
