"""LoRA (arXiv:2106.09685): low-rank updates in a tree of their own beside frozen parameters.

    adapters = lora.init(settings, params, key=key)
    model = lora.bind(config, params, adapters, scale=settings.scale)   # inside the jitted function
    merged = lora.merge(params, adapters, scale=settings.scale)         # plain parameters again

The tree mirrors the parameters: `["layers"][0]["attn"]["q"] = {"a": (in, r), "b": (r, out)}`, with
a leading axis of layers on both where the layers of the parameters are stacked.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float, PyTree

from .. import models
from ..models.attention import PRODUCT
from ..models.transformer import flat_matmul

Adapters = PyTree[Array | np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Rank, strength and placement of the adapters."""

    rank: int = 8
    alpha: int | float = 8.0
    targets: str = r"layers/\d+/(attn|mlp)/\w+"  # regular expression over paths, matched whole
    dropout: float = 0.0  # of the adapters' input, in training only
    rslora: bool = False  # scale by alpha/√rank (arXiv:2312.03732) instead of alpha/rank

    @property
    def scale(self) -> float:
        """The factor of A B in the update of a weight."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def init(
    settings: LoraConfig, params: PyTree[Array | np.ndarray | jax.ShapeDtypeStruct], *, key: Array
) -> Adapters:
    """Adapters with A ~ U(-in^-1/2, in^-1/2) and B = 0, so that nothing changes at first.

    Raises:
        ValueError: no linear layer matches `settings.targets`, some layers of a stack do not,
            or the rank is not positive.
    """
    if settings.rank < 1:
        raise ValueError(f"LoRA rank must be at least 1, got {settings.rank}")
    adapters: Adapters = {}
    # Stacked or not, a layer's adapters have the same names and the same numbers.
    layers = list(linears(jax.eval_shape(models.unstack_layers, params)))
    for i, (path, linear) in enumerate(layers):
        if re.fullmatch(settings.targets, "/".join(map(str, path))):
            inputs, outputs = linear["kernel"].shape
            bound = inputs**-0.5
            shape, a_key = (inputs, settings.rank), jax.random.fold_in(key, i)
            a = jax.random.uniform(a_key, shape, minval=-bound, maxval=bound)
            put(adapters, path, {"a": a, "b": jnp.zeros((settings.rank, outputs))})
    if not adapters:
        names = sorted({str(path[-1]) for path, _ in layers})
        raise ValueError(f"no layer matches LoRA targets {settings.targets!r}; layers: {names}")
    return models.stack_layers(adapters) if models.is_stacked(params) else adapters


def bind(
    config: models.ModelConfig,
    params: models.Params,
    *,
    adapters: Adapters,
    scale: float | Array,
    dropout: float = 0.0,
    key: Array | None = None,
    dtype: DTypeLike | None = None,
) -> models.Decoder:
    """The decoder with y = x W + scale · (x A) B in the adapted layers; W + A B is never formed.

    Args:
        config: the shape of the model.
        params: frozen parameters.
        adapters: as from `init` or `load`.
        scale: `LoraConfig.scale`.
        dropout: share of the adapters' inputs set to zero, the rest scaled up; needs `key`.
        key: randomness of the dropout.
        dtype: compute dtype.
    """
    model = models.bind(config, params, dtype=dtype)
    keys = _layer_keys(adapters, key) if key is not None and dropout else {}
    for path, adapter in adapted(adapters):
        linear = functools.reduce(_child, path, model)
        own = functools.reduce(_child, path, keys) if keys else None
        linear.delta = nnx.data(LowRank(adapter, scale, dropout, own))  # pyright: ignore[reportAttributeAccessIssue]
    return model


def merge(params: models.Params, adapters: Adapters, *, scale: float | Array) -> models.Params:
    """Plain parameters W + scale · A B, in the dtype of W."""
    merged = jax.tree.map(lambda leaf: leaf, params)  # new dictionaries, same arrays
    for path, adapter in adapted(adapters):
        linear = functools.reduce(_child, path, merged)
        kernel = linear["kernel"]
        update = scale * jnp.matmul(adapter["a"], adapter["b"], precision="highest")
        linear["kernel"] = (kernel.astype(update.dtype) + update).astype(kernel.dtype)
    return merged


class LowRank(nnx.Module):
    """scale · (x A) B, with some entries of x dropped if there is a key.

    All arrays are variables, with a leading axis of layers in a stack, so that a scan cuts them.
    """

    def __init__(self, adapter: dict, scale: float | Array, dropout: float, key: Array | None):
        self.a, self.b = nnx.Variable(adapter["a"]), nnx.Variable(adapter["b"])
        layers = adapter["a"].shape[:-2]
        self.scale = nnx.Variable(jnp.broadcast_to(jnp.asarray(scale), layers))
        self.dropout = dropout
        self.key = None if key is None else nnx.Variable(key)

    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        """What the adapter adds to the output of its layer."""
        if self.key is not None:
            keep = jax.random.bernoulli(self.key[...], 1 - self.dropout, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout), 0)
        # Without the barrier compilers for GPUs put A beside the kernel of the layer, which writes
        # all weights again for every token.
        low = flat_matmul(jax.lax.optimization_barrier(x), self.a[...])
        low = checkpoint_name(low, PRODUCT)
        return flat_matmul(low, self.b[...]) * self.scale[...].astype(x.dtype)


def _layer_keys(adapters: Adapters, key: Array) -> dict:
    """A key for each adapted layer, in a tree like that of the adapters."""
    keys = {}
    for i, (path, _) in enumerate(adapted(jax.eval_shape(models.unstack_layers, adapters))):
        put(keys, path, jax.random.fold_in(key, i))
    return models.stack_layers(keys) if models.is_stacked(adapters) else keys


def linears(params: dict, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Paths and parameters of all linear layers, in the order of the tree."""
    for name, child in sorted(params.items()):
        if not isinstance(child, dict):
            continue
        if "kernel" in child:
            yield (*path, name), child
        else:
            yield from linears(child, (*path, name))


def adapted(adapters: dict, path: tuple = ()) -> Iterator[tuple[tuple, dict]]:
    """Paths and `{"a", "b"}` of all adapted layers."""
    for name, child in sorted(adapters.items()):
        if "a" in child and "b" in child:
            yield (*path, name), child
        else:
            yield from adapted(child, (*path, name))


def _child(node, name: str | int):
    """One step down a tree of dictionaries or of modules."""
    if isinstance(node, dict) or isinstance(name, int):
        return node[name]
    return getattr(node, name)


def put(tree: dict, path: tuple, leaf) -> None:
    """Set one leaf of a nested dictionary, making the dictionaries above it."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf
