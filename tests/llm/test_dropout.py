"""Dropout: only while training, an unbiased mask of each branch, whichever way layers are held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import engines, models
from llm.models import ModelConfig
from llm.training import Training, dropout

CONFIG = ModelConfig(vocab_size=31, num_layers=2, num_kv_heads=2, init_std=0.3, max_positions=32)
TOKENS = jax.random.randint(jax.random.key(9), (2, 8), 0, 31)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda key: models.init(CONFIG, key=key))(jax.random.key(0))


@jax.jit
def plain(params):
    return models.apply(CONFIG, params, TOKENS)


@functools.partial(jax.jit, static_argnames="share")
def logits(params, share, seed=1):
    return dropout.add(models.bind(CONFIG, params), share, jax.random.key(seed))(TOKENS)


def test_layers_stacked_or_by_number_drop_the_same(params):
    dropped = logits(params, 0.5)
    np.testing.assert_allclose(logits(models.stack_layers(params), 0.5), dropped, atol=1e-5)
    assert not np.allclose(plain(params), dropped, atol=0.1)
    assert not np.allclose(logits(params, 0.5, seed=2), dropped, atol=0.1)
    np.testing.assert_allclose(logits(params, 0.0), plain(params), atol=1e-6)


def test_a_mask_keeps_the_mean_and_branches_differ():
    drop = dropout.Dropout(0.25, jax.random.key(0))
    first, second = (np.asarray(drop(jnp.ones((100, 100)), branch)) for branch in (0, 1))
    kept = first > 0
    np.testing.assert_allclose(first[kept], 4 / 3, rtol=1e-6)
    spread = np.sqrt(0.25 * 0.75 / kept.size)
    assert abs(kept.mean() - 0.75) < 5 * spread
    both = (kept & (second > 0)).mean()
    assert abs(both - 0.75**2) < 5 * np.sqrt(0.75**2 * (1 - 0.75**2) / kept.size)


def test_what_is_dropped_in_training_is_there_afterwards(params):
    batch = {"tokens": TOKENS, "weights": jnp.ones(TOKENS.shape)}
    frozen = {"base": None, "teacher": None}
    losses = {}
    for share in (0.0, 0.5):
        training = Training(steps=1, batch_size=2, dropout=share)
        loss, student = engines.make_loss(CONFIG, training, soft=False, tokens=None)
        losses[share] = float(jax.jit(loss)(params, frozen, batch, jax.random.key(0))[0])
        after = jax.jit(lambda p, student=student: student(p, frozen, jax.random.key(0))(TOKENS))
        np.testing.assert_array_equal(after(params), plain(params))
    assert losses[0.0] != pytest.approx(losses[0.5], rel=1e-3)
