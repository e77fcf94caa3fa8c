"""Students that are less than a network: exact near the base, and the theory's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lab import surrogates
from llm import models, world
from llm.models import ModelConfig

CONFIG = ModelConfig(
    vocab_size=23,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_width=24,
    init_std=0.3,
    max_positions=32,
)
TOKENS = np.arange(12).reshape(2, 6) % 23


@pytest.fixture(scope="module")
def pair():
    """A base, and a direction of its parameters."""
    init = jax.jit(lambda key: models.init(CONFIG, key=key))
    return init(jax.random.key(0)), init(jax.random.key(1))


def applied(kind, params, base):
    return np.asarray(jax.jit(kind(CONFIG))(params, base, TOKENS))


def test_the_tangent_model_is_the_network_to_first_order(pair):
    base, direction = pair
    errors = []
    for size in (4e-2, 2e-2):
        moved = jax.tree.map(lambda b, d, size=size: b + size * d, base, direction)
        network = applied(surrogates.network, moved, base)
        errors.append(np.abs(applied(surrogates.linear, moved, base) - network).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3), "the remainder is of second order"
    far = jax.tree.map(lambda b, d: b + 2 * d, base, direction)
    plain = applied(surrogates.linear, base, base)
    once, twice = (
        applied(surrogates.linear, jax.tree.map(lambda b, f, s=s: b + s * (f - b), base, far), base)
        for s in (0.5, 1.0)
    )
    np.testing.assert_allclose(twice - plain, 2 * (once - plain), rtol=1e-2, atol=1e-2)


def test_steering_adds_to_the_residual_stream(pair):
    base, _ = pair
    none = surrogates.start(surrogates.steered, CONFIG, jax.tree.map(lambda x: x[None], base))[0]
    assert none.shape == (2, 2, 16)
    np.testing.assert_allclose(
        applied(surrogates.steered, none, base), applied(surrogates.network, base, base), atol=1e-5
    )
    last = none.at[1, 1].set(jnp.linspace(-1, 1, 16))

    def by_hand(base):
        model = models.bind(CONFIG, base)
        norm, model.norm = model.norm, lambda x: x
        return model.unembed(norm(model.hidden(TOKENS) + last[1, 1][None, None]))

    expected = np.asarray(jax.jit(by_hand)(base))
    np.testing.assert_allclose(applied(surrogates.steered, last, base), expected, atol=1e-4)


def test_a_skill_is_balanced_and_held_out_pairs_are_never_shown():
    skill = world.skills.draw(np.random.default_rng(0))
    assert skill.above.mean() == 0.5
    assert skill.held_out.sum() == 64
    tokens, weights = world.skills.lessons(np.random.default_rng(1), skill, 400)
    asked = {tuple(row) for row in tokens[:, :6].tolist()}
    prompts = [tuple(row) for row in world.skills.prompts().tolist()]
    assert asked == {prompts[i] for i in np.flatnonzero(~skill.held_out)}
    answer = dict(zip(prompts, np.where(skill.above, *world.skills.ANSWERS), strict=True))
    assert all(answer[tuple(row[:6])] == row[6] for row in tokens.tolist())
    assert (weights[:, 6] == 1).all()
    sure = np.log(np.where(skill.above[:, None], [0.8, 0.2], [0.2, 0.8]))
    assert world.skills.right(skill, sure) == (pytest.approx(np.log(4)), 1.0)
