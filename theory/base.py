"""Names used everywhere in `theory`, and the checks of what a caller passes in."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

Params: TypeAlias = Any  # a pytree whose leaves are all floating-point arrays
Apply: TypeAlias = Callable[[Params, Any], Array]  # logits from parameters and a batch of inputs
LossFn: TypeAlias = Callable[[Params], Array]  # a scalar of the parameters: the trait loss


def require_float_params(params: Params, name: str = "params") -> None:
    """Raise ValueError unless every leaf is a floating-point array, hence differentiable."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"{name} has no leaves; pass the tree of trainable arrays")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {dtype}, and only floating-point arrays "
                "can be differentiated; split the rest off, e.g. nnx.split(model, nnx.Param, ...)"
            )


def require_same_tree(left: Params, right: Params, names: str) -> None:
    """Raise ValueError unless two trees agree in structure and in the shape of every leaf."""
    left_leaves, left_def = jax.tree_util.tree_flatten_with_path(left)
    right_leaves, right_def = jax.tree.flatten(right)
    if left_def != right_def:
        raise ValueError(f"{names} are trees of different structure: {left_def} and {right_def}")
    for (path, a), b in zip(left_leaves, right_leaves, strict=True):
        if jnp.shape(a) != jnp.shape(b):
            place = jax.tree_util.keystr(path) or "the only leaf"
            raise ValueError(f"{names} differ in shape at {place}: {a.shape} and {b.shape}")


def require_logits(logits: Any) -> None:
    """Raise ValueError unless an `apply` returned one floating-point array."""
    if not (hasattr(logits, "dtype") and jnp.issubdtype(logits.dtype, jnp.floating)):
        kind = getattr(logits, "dtype", None) or f"a {type(logits).__name__}"
        raise ValueError(
            f"apply must return one floating-point array of logits, got {kind}; pick the logits, "
            "e.g. lambda params, inputs: apply(params, inputs)[0]"
        )


def require_float64(params: Params) -> None:
    """Raise ValueError if a leaf has fewer than 64 bits: orders of ε drown in its round-off."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.dtype != jnp.float64:
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} is {leaf.dtype}, and claims about orders of "
                "eps need float64; run inside `with jax.enable_x64(True):` and convert with "
                "base.as_float64(params)"
            )


def as_float64(params: Params) -> Params:
    """The same tree in float64.

    Raises:
        ValueError: outside `with jax.enable_x64(True):`, where JAX would silently keep float32.
    """
    if jnp.zeros((), float).dtype != jnp.float64:
        raise ValueError("float64 is switched off; wrap the call in `with jax.enable_x64(True):`")
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
