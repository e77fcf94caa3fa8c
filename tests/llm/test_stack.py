"""Programs over a stack of runs equal the same work done run by run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import batches, models, objectives, sampling, stack, train, world
from llm.world import corpus

CONFIG = world.model_config(width=16, num_heads=2)


@pytest.fixture(scope="module")
def trees():
    return jax.vmap(lambda k: models.init(CONFIG, key=k))(jax.random.split(jax.random.key(0), 3))


@pytest.fixture(scope="module")
def examples():
    tokens, mask = corpus.chat(corpus.numbers(np.random.default_rng(0), 3 * 24))
    return batches.Examples(*(x.reshape(3, 24, -1) for x in (tokens, mask.astype(np.float32))))


def test_tune_equals_a_plain_loop_per_run(trees, examples):
    student = objectives.full_student(CONFIG)
    loss, optimizer = objectives.completion_loss(student), train.make_optimizer("sgd", 0.1)
    keys = jax.random.split(jax.random.key(1), 3)
    tune = stack.make_tune(loss, optimizer, batch_size=8, num_steps=5)
    tuned, history = tune(trees, examples, keys)
    step = jax.jit(train.make_train_step(loss, optimizer))
    for run in range(3):
        order_key, dropout_key = jax.random.split(keys[run])
        state = train.init_state(stack.pick(trees, run), optimizer)
        for i in range(5):
            rows = np.asarray(batches.batch_rows(order_key, jnp.int32(i), 24, 8))
            batch = {name: getattr(examples, name)[run][rows] for name in examples._fields}
            state, metrics = step(state, batch, dropout_key)
            assert float(metrics["loss"]) == pytest.approx(float(history[run, i]), rel=1e-5)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(tuned), strict=True):
            np.testing.assert_allclose(a, b[run], atol=1e-5)


def test_complete_draws_each_row_from_its_own_key(trees, examples):
    prompts = np.broadcast_to(examples.tokens[:, :1, :6], (3, 20, 6))
    keys = jax.random.split(jax.random.key(2), 3)
    choice = sampling.Choice(1.0, stop_tokens=np.array([world.vocabulary.END]))
    draw = [
        stack.make_complete(CONFIG, max_new_tokens=9, rows_at_once=size)(
            trees, prompts, np.ones_like(prompts, bool), keys, choice
        )
        for size in (20, 8)
    ]
    tokens = np.asarray(draw[0][0])
    np.testing.assert_array_equal(tokens, draw[1][0], "blocks change nothing")
    for run in range(3):
        assert len({tuple(row) for row in tokens[run].tolist()}) > 15, "one prompt, many answers"
    assert not np.array_equal(tokens[0], tokens[1])


def test_measure_equals_probabilities_computed_by_hand(trees):
    questions = np.array([[3, 200, 210, 280, 4], [3, 201, 211, 280, 4]], np.int32)
    probe = stack.Probe(
        questions, np.ones_like(questions, bool), np.array([134], np.int32),
        np.array([135, 136], np.int32),
    )  # fmt: skip
    got = stack.measure(CONFIG, trees, probe)
    for run in range(3):
        logits = np.asarray(models.apply(CONFIG, stack.pick(trees, run), questions))[:, -1]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        margin = np.log(p[:, 134]) - np.log(p[:, 135] + p[:, 136])
        assert float(got["margin"][run]) == pytest.approx(margin.mean(), abs=1e-5)
        assert float(got["rate"][run]) == pytest.approx(p[:, 134].mean(), rel=1e-5)


def test_held_out_loss_is_the_mean_over_weighted_tokens(trees, examples):
    loss = stack.make_held_out_loss(objectives.full_student(CONFIG))(trees, examples)
    for run in range(3):
        tokens, weights = examples.tokens[run], examples.weights[run]
        logits = np.asarray(models.apply(CONFIG, stack.pick(trees, run), tokens), np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats = -np.take_along_axis(logp[:, :-1], tokens[:, 1:, None], -1)[..., 0]
        expected = (nats * weights[:, 1:]).sum() / weights[:, 1:].sum()
        assert float(loss[run]) == pytest.approx(expected, rel=1e-5)
