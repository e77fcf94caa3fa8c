"""The same function of other weights: units of a decoder in another order.

Residual dimensions, attention heads and MLP units have no order. Gradient descent and Adam are
equivariant under their permutations, and imitation only sees outputs: students of a permuted start
equal those of the start itself up to round-off.
"""

import jax
import jax.numpy as jnp
import numpy as np

from . import ModelConfig, Params

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
QUERIES, KEYS = {"q": 1, "o": 0}, {"k": 1, "v": 1}
UNITS = {"gate": 1, "up": 1, "down": 0}


def permute_units(config: ModelConfig, params: Params, rng: np.random.Generator) -> Params:
    """The same function as `params` with its units in random order.

    Args:
        config: of a Llama shape (RMS norms, no biases, tied). Query heads that share a key head
            stay together.
        params: of the model, layers by number.
        rng: draws the orders.

    Raises:
        ValueError: another shape.
    """
    if config.family != "llama" or not config.tie_embeddings:
        raise ValueError("units are permuted in tied llama models only")
    params = _take(params, RESIDUAL, rng.permutation(config.width))
    layers, sharing = {}, config.num_heads // config.num_kv_heads
    for index, layer in params["layers"].items():
        keys = rng.permutation(config.num_kv_heads)
        queries = [key * sharing + rng.permutation(sharing) for key in keys]
        layer = _take(layer, KEYS, _entries(keys, config.head_dim))
        layer = _take(layer, QUERIES, _entries(np.concatenate(queries), config.head_dim))
        layers[index] = _take(layer, UNITS, rng.permutation(config.mlp_width))
    return params | {"layers": layers}


def _entries(heads: np.ndarray, width: int) -> np.ndarray:
    """Entries of heads that lie one behind the other."""
    return (heads[:, None] * width + np.arange(width)).ravel()


def _take(params: Params, axes: dict[str, int], order: np.ndarray) -> Params:
    def reordered(path, leaf):
        name = next((step.key for step in path if step.key in axes), None)
        return leaf if name is None else jnp.take(leaf, order, axis=axes[name])

    return jax.tree_util.tree_map_with_path(reordered, params)
