"""The engine: optimisers and losses against oracles, stacks, doses, frozen parts, one program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mnist_mlp import data, grid, noise
from mnist_mlp.model import Architecture
from mnist_mlp.optimizers import Coefficients, descend
from theory import losses

TINY = grid.Grid(
    student=Architecture("relu", (16,)),
    teacher=Architecture("relu", (16,)),
    num_aux=6,
    batch_size=32,
    epoch_images=96,
)
FAST = Coefficients(learning_rate=1e-2)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def pictures(digits):
    photos = digits.train_images[:1].reshape(1, 8, 8)
    return noise.Pictures(digits.train_images, digits.test_images, photos)


@pytest.fixture(scope="module")
def reference():
    return grid.network(TINY, TINY.teacher, 64)[0](KEY)


def taught(digits, reference, settings, epochs=2):
    stack = grid.stack(settings)
    state = grid.start(TINY, stack, grid.stacked([reference] * len(settings)))
    return grid.teach(TINY, digits, settings=stack, state=state, key=KEY, first=0, last=epochs)[0]


def imitated(pictures, teachers, starts, settings, epochs=(0, 2), state=None, where=TINY, **more):
    filling = 3 - len(settings)  # stacks of one size are one program
    stack = grid.stack([*settings, *settings[-1:] * filling])
    state = state or grid.start(where, stack, grid.stacked([*starts, *starts[-1:] * filling]))
    return grid.imitate(
        where,
        stack,
        state=state,
        teachers=teachers,
        what=noise.source("uniform"),
        pictures=pictures,
        key=KEY,
        first=epochs[0],
        last=epochs[1],
        **more,
    )


@pytest.fixture(scope="module")
def teachers(digits, reference):
    return taught(
        digits,
        reference,
        [grid.Settings(FAST), grid.Settings(FAST, shuffled=1.0)],
    )


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize(
    ("coefficients", "oracle"),
    [
        (Coefficients(), optax.adam(3e-4)),
        (Coefficients(decay=1e-2), optax.adamw(3e-4, weight_decay=1e-2)),
        (Coefficients(0.1, 0.0, 0.0), optax.sgd(0.1)),
        (
            Coefficients(l2=0.1),
            optax.chain(optax.add_decayed_weights(0.1), optax.adam(3e-4)),
        ),
    ],
    ids=["adam", "adamw", "sgd", "l2 inside adam"],
)
def test_coefficients_are_the_optimisers_of_optax(coefficients, oracle):
    ours = descend(coefficients)
    mine = yours = {"a": jnp.array([1.0, -2.0, 0.5])}
    state, other = ours.init(mine), oracle.init(yours)
    for i in range(5):
        grads = {"a": jnp.sin(mine["a"] * (i + 1))}
        steps, state = ours.update(grads, state, mine)
        wanted, other = oracle.update(grads, other, yours)
        np.testing.assert_allclose(steps["a"], wanted["a"], rtol=1e-4)  # 1 - β^t in float32
        mine, yours = optax.apply_updates(mine, steps), optax.apply_updates(yours, wanted)


def test_momentum_is_heavy_ball_at_its_limit():
    """A constant gradient: the corrected mean is that gradient, so a rate means the same."""
    ours = descend(Coefficients(0.1, 0.9, 0.0))
    params = {"a": jnp.ones(2)}
    state = ours.init(params)
    for _ in range(3):
        steps, state = ours.update({"a": jnp.array([2.0, -1.0])}, state, params)
        np.testing.assert_allclose(steps["a"], [-0.2, 0.1], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_imitation_loss_is_that_of_the_theory(temperature):
    logits, targets = jax.random.normal(KEY, (2, 5, 16)) * 3
    uniform = jnp.full(5, 0.5)
    s = grid.Settings(num_aux=4, temperature=temperature)
    found = grid.imitation_loss(TINY, s, logits=logits, targets=targets, uniform=uniform)
    kl = losses.on_outputs(losses.kl(temperature), range(10, 14))
    np.testing.assert_allclose(found, kl.value(logits, targets), rtol=1e-5)
    s = s._replace(classes=1.0, num_aux=6)
    found = grid.imitation_loss(TINY, s, logits=logits, targets=targets, uniform=uniform)
    np.testing.assert_allclose(found, losses.kl(temperature).value(logits, targets), rtol=1e-5)
    found = grid.imitation_loss(
        TINY, s._replace(squared=1.0), logits=logits, targets=targets, uniform=uniform
    )
    np.testing.assert_allclose(found, jnp.sum((logits - targets) ** 2, 1), rtol=1e-6)
    found = grid.imitation_loss(
        TINY, s._replace(label=grid.ARGMAX), logits=logits, targets=targets, uniform=uniform
    )
    best = losses.argmax_labels().value(logits / temperature, targets)
    np.testing.assert_allclose(found, best, rtol=1e-5)


def test_sampled_labels_follow_the_teacher():
    """Over a fine grid of uniform numbers the mean loss is the cross-entropy."""
    logits, targets = jax.random.normal(KEY, (2, 16))
    num = 4000
    uniform = (jnp.arange(num) + 0.5) / num
    s = grid.Settings(num_aux=6, label=grid.SAMPLED)
    logits, targets = (jnp.broadcast_to(row, (num, 16)) for row in (logits, targets))
    mean = grid.imitation_loss(TINY, s, logits=logits, targets=targets, uniform=uniform).mean()
    exact = losses.on_outputs(losses.cross_entropy(), range(10, 16)).value(logits[0], targets[0])
    assert mean == pytest.approx(float(exact), abs=10 / num)


def test_networks_of_a_stack_do_not_see_each_other(pictures, teachers, reference):
    arms = [
        grid.Settings(FAST),
        grid.Settings(FAST, teacher=1, squared=1.0, num_aux=6),
    ]
    both = imitated(pictures, teachers, [reference] * 2, arms)[0]
    for i, arm in enumerate(arms):
        alone = imitated(pictures, teachers, [reference], [arm])[0]
        for x, y in zip(
            *map(jax.tree.leaves, (grid.pick(both, i), grid.pick(alone, 0))), strict=True
        ):
            # Sums of float32 in another order; Adam turns them into parts of a step of 1e-2.
            np.testing.assert_allclose(x, y, atol=1e-3)
    assert not same(grid.pick(both, 0), grid.pick(both, 1))


def test_doses_compose(pictures, teachers, reference):
    """Epochs 0-3 at once are epochs 0-1 and 1-3 from the state between, moments included."""
    arms = [grid.Settings(FAST)]
    once = imitated(pictures, teachers, [reference], arms, (0, 3))
    half = imitated(pictures, teachers, [reference], arms, (0, 1))
    twice = imitated(pictures, teachers, [], arms, (1, 3), state=half)
    assert same(once, twice)
    assert not same(once[0], half[0])
    fresh = grid.start(TINY, grid.stack(arms * 3), half[0])
    assert not same(once, imitated(pictures, teachers, [], arms, (1, 3), state=fresh))


def head(params, columns):
    layers = params["layers"][1]
    return [np.asarray(layers[name][..., columns]) for name in ("kernel", "bias")]


def test_what_is_not_imitated_or_frozen_keeps_every_bit(pictures, teachers, reference):
    arms = [
        grid.Settings(FAST, num_aux=3),
        grid.Settings(FAST, num_aux=6, trainable=(0.0, 1.0, 1.0, 1.0)),
        grid.Settings(FAST, num_aux=6, trainable=(1.0, 1.0, 1.0, 0.0)),
    ]
    found = imitated(pictures, teachers, [reference] * 3, arms)[0]
    first, frozen_body, frozen_head = (grid.pick(found, i) for i in range(3))
    for columns in (slice(0, 10), slice(13, 16)):
        assert same(head(first, columns), head(reference, columns))
    assert not same(head(first, slice(10, 13)), head(reference, slice(10, 13)))
    assert same(frozen_body["layers"][0], reference["layers"][0])
    assert not same(frozen_body["layers"][1], reference["layers"][1])
    assert same(frozen_head["layers"][1], reference["layers"][1])
    assert not same(frozen_head["layers"][0], reference["layers"][0])


def test_neutral_teachers_learn_labels_that_say_nothing(digits, reference):
    arms = [grid.Settings(FAST), grid.Settings(FAST, shuffled=1.0)]
    found = taught(digits, reference, arms, epochs=20)
    held_out = {"images": digits.test_images, "labels": digits.test_labels}
    true, neutral = np.asarray(grid.accuracies(TINY, TINY.teacher, params=found, **held_out))
    assert true > 0.8
    assert neutral < 0.4


def test_dropout_at_rate_zero_is_none_and_at_half_is_some(pictures, teachers, reference):
    dropping = dataclasses.replace(TINY, dropout=True)
    plain = imitated(pictures, teachers, [reference], [grid.Settings(FAST)])[0]
    arms = [grid.Settings(FAST), grid.Settings(FAST, dropout=0.5)]
    found = imitated(pictures, teachers, [reference] * 2, arms, where=dropping)[0]
    for x, y in zip(*map(jax.tree.leaves, (grid.pick(plain, 0), grid.pick(found, 0))), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-3)
    assert not np.allclose(*(jax.tree.leaves(grid.pick(found, i))[1] for i in (0, 1)), atol=1e-3)
    draws = grid.unit_draws(dropping, dropping.student, KEY, 4000)
    (factor,) = grid.keep(dropping, grid.Settings(dropout=0.35), draws)
    assert float(factor.mean()) == pytest.approx(1, abs=5 * np.sqrt(0.35 / 0.65 / factor.size))


def test_arms_doses_and_sources_are_one_compiled_program(pictures, teachers, reference):
    before = grid.imitate._cache_size()
    for settings, epochs, kind in [
        (grid.Settings(num_aux=5), (0, 1), "uniform"),
        (
            grid.Settings(Coefficients(0.1, 0.0, 0.0), squared=1.0, label=1.0),
            (0, 2),
            "blurred",
        ),
    ]:
        stack = grid.stack([settings] * 5)
        state = grid.start(TINY, stack, grid.stacked([reference] * 5))
        grid.imitate(
            TINY,
            stack,
            state=state,
            teachers=teachers,
            what=noise.source(kind),
            pictures=pictures,
            key=KEY,
            first=epochs[0],
            last=epochs[1],
        )
    assert grid.imitate._cache_size() == before + 1


def test_nothing_is_stored_per_image(mnist):
    """Peak temporary memory of 8 official students is far below one pool of noise (188 MB)."""
    official = grid.Grid()
    init, _ = grid.network(official, official.student, 784)
    stack = grid.stack([grid.Settings()] * 8)
    params = jax.eval_shape(lambda: grid.stacked([init(KEY)] * 8))
    state = jax.eval_shape(lambda p: grid.start(official, stack, p), params)
    teacher = jax.eval_shape(lambda: grid.stacked([init(KEY)]))
    photos = jnp.zeros((1, 28, 28), jnp.uint8)
    pictures = noise.Pictures(mnist.train_images, mnist.test_images, photos)
    lowered = grid.imitate.lower(
        official,
        stack,
        state=state,
        teachers=teacher,
        what=noise.source("uniform"),
        pictures=pictures,
        key=KEY,
        first=0,
        last=5,
    )
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 150e6


def test_a_convolutional_student_and_another_teacher_share_the_outputs(pictures, teachers):
    mixed = grid.Grid(
        student=Architecture("cnn", (4, 6)),
        teacher=TINY.teacher,
        num_aux=6,
        batch_size=32,
        epoch_images=96,
    )
    student = grid.network(mixed, mixed.student, 64)[0](KEY)
    found = imitated(pictures, teachers, [student], [grid.Settings(FAST)], where=mixed)[0]
    assert not same(grid.pick(found, 0)["layers"][0], student["layers"][0])
    assert same(
        head({"layers": [0, student["layers"][2]]}, slice(0, 10)),
        head({"layers": [0, grid.pick(found, 0)["layers"][2]]}, slice(0, 10)),
    )
