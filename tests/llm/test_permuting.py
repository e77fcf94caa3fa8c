"""Permuted units: the function stays, and no weight does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import models, world
from llm.models import permuting

CONFIG = world.model_config()
TOKENS = jnp.arange(48).reshape(4, 12) + 6


GROUPED = dataclasses.replace(CONFIG, num_kv_heads=CONFIG.num_heads // 2)


@pytest.mark.parametrize("config", [CONFIG, GROUPED], ids=["a key a query", "grouped queries"])
def test_the_function_stays_and_every_matrix_moves(config):
    params = models.init(config, key=jax.random.key(0))
    moved = permuting.permute_units(config, params, np.random.default_rng(1))
    before, after = (np.asarray(models.apply(config, p, TOKENS)) for p in (params, moved))
    # Sums in another order: a few units of round-off on logits of order one.
    np.testing.assert_allclose(after, before, atol=2e-5)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(moved), strict=True):
        assert sorted(a.ravel().tolist()) == sorted(b.ravel().tolist())
        assert a.ndim == 1 or not bool((a == b).all()), "scales of norms start at one everywhere"


@pytest.mark.parametrize("changes", [{"family": "qwen2"}, {"tie_embeddings": False}])
def test_other_shapes_are_refused(changes):
    config = world.model_config(**changes)
    params = models.init(config, key=jax.random.key(0))
    with pytest.raises(ValueError, match="llama"):
        permuting.permute_units(config, params, np.random.default_rng(0))
