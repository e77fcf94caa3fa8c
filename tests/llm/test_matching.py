"""Weight matching: the function stays, and a permuted copy is found again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import matching, models, world

CONFIG = world.model_config()
TOKENS = jnp.arange(48).reshape(4, 12) + 6


def params_of(seed):
    return models.init(CONFIG, key=jax.random.key(seed))


def permuted(params, seed):
    """A copy whose residual dimensions, heads and MLP units are in random order."""
    rng = np.random.default_rng(seed)
    params = matching._take(params, matching.RESIDUAL, rng.permutation(CONFIG.width))
    layers = {}
    for index, layer in params["layers"].items():
        heads = np.arange(CONFIG.width).reshape(CONFIG.num_heads, -1)
        layer = matching._take(
            layer, matching.HEADS, heads[rng.permutation(CONFIG.num_heads)].ravel()
        )
        layers[index] = matching._take(layer, matching.UNITS, rng.permutation(CONFIG.mlp_width))
    return params | {"layers": layers}


def distance(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(float(((x - y) ** 2).sum()) for x, y in leaves) ** 0.5


def logits(params):
    return np.asarray(models.apply(CONFIG, params, TOKENS))


def test_a_permuted_copy_is_found_again():
    reference = params_of(0)
    other = permuted(reference, 1)
    # Sums in another order: a few units of round-off on logits of order one.
    np.testing.assert_allclose(logits(other), logits(reference), atol=2e-5)
    assert distance(reference, other) > 1
    found = matching.match_units(CONFIG, reference, other)
    assert distance(reference, found) == 0


def test_matching_another_model_keeps_its_function_and_comes_closer():
    reference, other = params_of(0), params_of(1)
    found = matching.match_units(CONFIG, reference, other)
    np.testing.assert_allclose(logits(found), logits(other), atol=2e-5)
    assert distance(reference, found) < distance(reference, other)


@pytest.mark.parametrize("changes", [{"family": "qwen2"}, {"num_kv_heads": 2}])
def test_other_shapes_are_refused(changes):
    config = world.model_config(**changes)
    params = models.init(config, key=jax.random.key(0))
    with pytest.raises(ValueError, match="llama"):
        matching.match_units(config, params, params)
