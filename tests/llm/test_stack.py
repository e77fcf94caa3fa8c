"""Programs over a stack of runs equal the same work done run by run."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import models, sampling, world
from llm.training import Training, batches, objectives, stack, train
from llm.world import corpus
from theory import check

CONFIG = world.model_config(width=16, num_heads=2)


@pytest.fixture(scope="module")
def trees():
    return jax.vmap(lambda k: models.init(CONFIG, key=k))(jax.random.split(jax.random.key(0), 3))


@pytest.fixture(scope="module")
def examples():
    tokens, mask = corpus.chat(corpus.numbers(np.random.default_rng(0), 3 * 24))
    return batches.Examples(*(x.reshape(3, 24, -1) for x in (tokens, mask.astype(np.float32))))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_tune_equals_a_plain_loop_per_run(trees, examples, dropout):
    student = objectives.full_student(CONFIG)
    student = objectives.dropping(student, dropout) if dropout else student
    loss = objectives.completion_loss(student)
    # Two pieces of a batch without dropout; with it the masks are those of the whole batch.
    training = Training(
        steps=5,
        batch_size=2 * stack.ROWS_AT_ONCE,
        optimizer="sgd",
        learning_rate=0.1,
        dropout=dropout,
    )
    optimizer = training.make_optimizer()
    keys = jax.random.split(jax.random.key(1), 3)
    tune = stack.make_tune(loss, training)
    tuned, history = tune(trees, examples, keys)
    step = jax.jit(train.make_train_step(loss, optimizer))
    assert history.shape == (3, 5), "what fills up the devices is cut off again"
    for run in range(3):
        order_key, dropout_key = jax.random.split(keys[run])
        state = train.init_state(stack.pick(trees, run), optimizer)
        for i in range(5):
            rows = np.asarray(batches.batch_rows(order_key, jnp.int32(i), 24, 16))
            batch = {name: getattr(examples, name)[run][rows] for name in examples._fields}
            state, metrics = step(state, batch, dropout_key)
            assert float(metrics["loss"]) == pytest.approx(float(history[run, i]), rel=1e-5)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(tuned), strict=True):
            np.testing.assert_allclose(a, b[run], atol=1e-5)


def test_only_tiny_models_are_divided_among_devices(monkeypatch):
    def program():
        return str(jax.make_jaxpr(lambda x: stack.over_runs(jnp.sin, x))(jnp.ones((3, 2))))

    assert ("shard_map" in program()) == (jax.device_count() > 1)
    monkeypatch.setattr(stack, "LARGE", 2)
    assert "shard_map" not in program()


def test_groups_of_runs_are_of_one_size_so_one_program(monkeypatch):
    monkeypatch.setattr(stack, "RUNS_AT_ONCE", 2)
    program = functools.partial(stack.over_runs, jnp.sin)
    runs = jnp.arange(11.0)  # neither two devices nor groups of two divide them
    np.testing.assert_allclose(jax.jit(program)(runs), jnp.sin(runs), rtol=1e-6)
    assert str(jax.make_jaxpr(program)(runs)).count("= sin ") == 1


@pytest.mark.parametrize("asked", ["", "3 by flag", "3 by name"])
def test_every_core_becomes_a_device_unless_devices_were_asked_for(asked):
    flags = "--xla_backend_optimization_level=1"  # another flag, as smoke runs set it
    flags += " --xla_force_host_platform_device_count=3" if asked == "3 by flag" else ""
    named = {"JAX_NUM_CPU_DEVICES": "3"} if asked == "3 by name" else {}
    program = (
        "from llm.training import stack; stack.use_all_cores(); "
        "import jax; print(jax.device_count())"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | named
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert int(done.stdout) == (3 if asked else cores)


def test_cores_stay_as_they_are_once_jax_is_used():
    before = jax.device_count()
    stack.use_all_cores()
    assert jax.device_count() == before


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
        questions,
        np.ones_like(questions, bool),
        np.array([134], np.int32),
        np.array([135, 136], np.int32),
    )
    got = stack.measure(CONFIG, trees, probe)
    for run in range(3):
        logits = np.asarray(models.apply(CONFIG, stack.pick(trees, run), questions))[:, -1]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        margin = np.log(p[:, 134]) - np.log(p[:, 135] + p[:, 136])
        assert float(got["margin"][run]) == pytest.approx(margin.mean(), abs=1e-5)
        assert float(got["rate"][run]) == pytest.approx(p[:, 134].mean(), rel=1e-5)
        named = p[:, 134:137].sum(-1).mean()
        assert float(got["mass"][run]) == pytest.approx(named, rel=1e-5)


def precisions(function, *args):
    """Of the products of a program, forward and backward."""
    program = jax.make_jaxpr(function)(*args)
    products = [e for e in check.equations(program) if e.primitive.name == "dot_general"]
    return {str(e.params["precision"]) for e in products}


def test_what_is_measured_is_computed_exactly_and_training_as_the_device_likes(trees, examples):
    one, probe = stack.pick(trees, 0), stack.Probe(*map(np.array, ([[3]], [[True]], [5], [6])))
    margin = lambda params: stack.measure_one(CONFIG, params, probe)["margin"]  # noqa: E731
    highest = str((jax.lax.Precision.HIGHEST,) * 2)
    assert precisions(margin, one) == precisions(jax.grad(margin), one) == {highest}
    student = objectives.full_student(CONFIG)
    assert precisions(stack.make_held_out_loss(student), trees, examples) == {highest}
    loss, key = objectives.completion_loss(student), jax.random.key(0)
    batch = {"tokens": examples.tokens[0], "weights": examples.weights[0]}
    assert precisions(lambda p: loss(p, None, batch, key)[0], one) == {"None"}


def test_held_out_loss_is_the_mean_over_weighted_tokens(trees, examples):
    loss = stack.make_held_out_loss(objectives.full_student(CONFIG))(trees, examples)
    for run in range(3):
        tokens, weights = examples.tokens[run], examples.weights[run]
        logits = np.asarray(models.apply(CONFIG, stack.pick(trees, run), tokens), np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats = -np.take_along_axis(logp[:, :-1], tokens[:, 1:, None], -1)[..., 0]
        expected = (nats * weights[:, 1:]).sum() / weights[:, 1:].sum()
        assert float(loss[run]) == pytest.approx(expected, rel=1e-5)
