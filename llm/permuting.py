"""The same function of other weights: units of a decoder in another order.

Residual dimensions, attention heads and MLP units have no order. Gradient descent and Adam are
equivariant under their permutations, and imitation only sees outputs: students of a permuted start
equal those of the start itself up to round-off.
"""

import jax
import jax.numpy as jnp
import numpy as np

from .models import ModelConfig, Params

# Which axis of a leaf, by the name of its layer, runs over the units of each kind.
RESIDUAL = {
    "embedding": 1,
    "norm": 0,
    "attn_norm": 0,
    "mlp_norm": 0,
    "q": 0,
    "k": 0,
    "v": 0,
    "o": 1,
    "gate": 0,
    "up": 0,
    "down": 1,
}
HEADS = {"q": 1, "k": 1, "v": 1, "o": 0}
UNITS = {"gate": 1, "up": 1, "down": 0}


def permute_units(config: ModelConfig, params: Params, rng: np.random.Generator) -> Params:
    """The same function as `params` with its units in random order.

    Args:
        config: of a Llama shape (RMS norms, no biases, tied, as many key as query heads).
        params: of the model.
        rng: draws the orders.

    Raises:
        ValueError: another shape.
    """
    plain = config.family == "llama" and config.tie_embeddings
    if not plain or config.num_kv_heads != config.num_heads:
        raise ValueError("units are permuted in tied llama models without grouped queries only")
    params = _take(params, RESIDUAL, rng.permutation(config.width))
    layers = {}
    for index, layer in params["layers"].items():
        heads = rng.permutation(config.num_heads)[:, None] * config.head_dim
        layer = _take(layer, HEADS, (heads + np.arange(config.head_dim)).ravel())
        layers[index] = _take(layer, UNITS, rng.permutation(config.mlp_width))
    return params | {"layers": layers}


def _take(params: Params, axes: dict[str, int], order: np.ndarray) -> Params:
    def reordered(path, leaf):
        name = next((step.key for step in path if step.key in axes), None)
        return leaf if name is None else jnp.take(leaf, order, axis=axes[name])

    return jax.tree_util.tree_map_with_path(reordered, params)
