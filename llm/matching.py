"""Weight matching: units of one model permuted to lie closest to those of another.

Two trainings from different initialisations may find the same features in another order. Permuting
residual dimensions, attention heads and MLP units leaves the function of a model as it is and
brings its weights as near to a reference as that freedom allows (arXiv 2209.04836, section 3.2).
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from .models import ModelConfig, Params

# Which axis of a leaf, by the name of its layer, runs over the units of each kind.
RESIDUAL = {
    "embedding": 1, "norm": 0, "attn_norm": 0, "mlp_norm": 0,
    "q": 0, "k": 0, "v": 0, "o": 1, "gate": 0, "up": 0, "down": 1,
}  # fmt: skip
HEADS = {"q": 1, "k": 1, "v": 1, "o": 0}
UNITS = {"gate": 1, "up": 1, "down": 0}


def match_units(config: ModelConfig, reference: Params, params: Params) -> Params:
    """The same function as `params`, with units in the order that matches `reference` best.

    The residual stream is assigned by the embeddings alone, whose rows mean the same token in both
    models; heads and MLP units follow layer by layer, given that order.

    Args:
        config: of both; a Llama shape (RMS norms, no biases, tied, as many key as query heads).
        reference: parameters to come close to.
        params: parameters to permute.

    Raises:
        ValueError: another shape.
    """
    _require_plain(config)
    only_embedding = {"embedding": RESIDUAL["embedding"]}
    params = _take(params, RESIDUAL, _assign(reference, params, only_embedding, 1))
    layers = {}
    for index, layer in params["layers"].items():
        for axes, size in ((HEADS, config.head_dim), (UNITS, 1)):
            layer = _take(layer, axes, _assign(reference["layers"][index], layer, axes, size))
        layers[index] = layer
    return params | {"layers": layers}


def permute_units(config: ModelConfig, params: Params, rng: np.random.Generator) -> Params:
    """The same function as `params` with its units in random order.

    Raises:
        ValueError: another shape than `match_units` takes.
    """
    _require_plain(config)
    params = _take(params, RESIDUAL, rng.permutation(config.width))
    layers = {}
    for index, layer in params["layers"].items():
        heads = rng.permutation(config.num_heads)[:, None] * config.head_dim
        layer = _take(layer, HEADS, (heads + np.arange(config.head_dim)).ravel())
        layers[index] = _take(layer, UNITS, rng.permutation(config.mlp_width))
    return params | {"layers": layers}


def _require_plain(config: ModelConfig) -> None:
    plain = config.family == "llama" and config.tie_embeddings
    if not plain or config.num_kv_heads != config.num_heads:
        raise ValueError("units are matched in tied llama models without grouped queries only")


def _assign(reference: Params, params: Params, axes: dict[str, int], size: int) -> np.ndarray:
    """Indices along the axes: blocks of `size` in the order of largest total inner product."""

    def blocks(path, leaf):
        name = _name(path, axes)
        return None if name is None else jnp.moveaxis(leaf, axes[name], 0)

    pairs = zip(
        *(
            jax.tree.leaves(jax.tree_util.tree_map_with_path(blocks, t))
            for t in (reference, params)
        ),
        strict=True,
    )
    similarity = sum(
        a.reshape(len(a) // size, -1) @ b.reshape(len(b) // size, -1).T for a, b in pairs
    )
    order = optimize.linear_sum_assignment(np.asarray(similarity), maximize=True)[1]
    return (order[:, None] * size + np.arange(size)).ravel()


def _take(params: Params, axes: dict[str, int], order: np.ndarray) -> Params:
    def reordered(path, leaf):
        name = _name(path, axes)
        return leaf if name is None else jnp.take(leaf, order, axis=axes[name])

    return jax.tree_util.tree_map_with_path(reordered, params)


def _name(path, axes: dict[str, int]) -> str | None:
    """The entry of `axes` that a leaf belongs to."""
    return next((step.key for step in path if step.key in axes), None)
