import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from llm import losses

T, V = 7, 11


def draw(seed, *shape):
    return 3 * jax.random.normal(jax.random.key(seed), shape)


def test_hard_tokens_is_the_negative_log_probability():
    logits, targets = draw(0, T, V), jax.random.randint(jax.random.key(1), (T,), 0, V)
    expected = [-jax.nn.log_softmax(logits[t])[targets[t]] for t in range(T)]
    np.testing.assert_allclose(losses.hard_tokens(logits, targets), jnp.stack(expected), rtol=1e-5)


def test_soft_targets_is_the_divergence_and_zero_at_the_teacher():
    student, teacher = np.float64(draw(0, T, V)), np.float64(draw(1, T, V))
    p = np.exp(teacher / 2) / np.exp(teacher / 2).sum(-1, keepdims=True)
    q = np.exp(student / 2) / np.exp(student / 2).sum(-1, keepdims=True)
    found = losses.soft_targets(jnp.float32(student), jnp.float32(teacher), 2.0)
    np.testing.assert_allclose(found, (p * np.log(p / q)).sum(-1), rtol=1e-5)
    at_teacher = losses.soft_targets(jnp.float32(teacher), jnp.float32(teacher))
    np.testing.assert_allclose(at_teacher, np.zeros(T), atol=1e-6)


def test_soft_targets_with_a_point_mass_are_hard_tokens():
    logits, targets = draw(0, T, V), jax.random.randint(jax.random.key(1), (T,), 0, V)
    teacher = jnp.where(jax.nn.one_hot(targets, V) > 0, 0.0, -jnp.inf)
    np.testing.assert_allclose(
        losses.soft_targets(logits, teacher), losses.hard_tokens(logits, targets), rtol=1e-5
    )
    assert jnp.isfinite(jax.grad(lambda z: losses.soft_targets(z, teacher).sum())(logits)).all()


def test_restricted_targets_ignore_and_spare_every_logit_outside_the_set():
    student, teacher, inside = draw(0, T, V), draw(1, T, V), jnp.array([2, 5, 7])
    outside = jnp.setdiff1d(jnp.arange(V), inside)
    found = losses.restricted_soft_targets(student, teacher, inside)
    moved = losses.restricted_soft_targets(
        student.at[:, outside].add(5.0), teacher.at[:, outside].add(-3.0), inside
    )
    np.testing.assert_array_equal(found, moved)
    full = losses.restricted_soft_targets(student, teacher, jnp.arange(V))
    np.testing.assert_allclose(full, losses.soft_targets(student, teacher), rtol=1e-5)
    grad = jax.grad(lambda z: losses.restricted_soft_targets(z, teacher, inside).sum())(student)
    assert (grad[:, outside] == 0).all()
    assert (jnp.abs(grad[:, inside]).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("kind", ["hard", "soft", "restricted"])
def test_gradients_and_shift_invariance(kind):
    teacher, targets = draw(1, T, V), jax.random.randint(jax.random.key(1), (T,), 0, V)
    loss = {
        "hard": lambda z: losses.hard_tokens(z, targets),
        "soft": lambda z: losses.soft_targets(z, teacher),
        "restricted": lambda z: losses.restricted_soft_targets(z, teacher, jnp.array([1, 2, 9])),
    }[kind]
    logits = draw(0, T, V)
    with jax.enable_x64(True):
        check_grads(lambda z: loss(z).sum(), (logits.astype(jnp.float64),), 1, modes=["rev"])
    np.testing.assert_allclose(loss(logits + 4.0), loss(logits), rtol=2e-5, atol=2e-6)


def test_softmax_is_float32_under_bfloat16_logits():
    logits = draw(0, T, 1000).astype(jnp.bfloat16)
    targets = jnp.arange(T)
    found = losses.hard_tokens(logits, targets)
    assert found.dtype == jnp.float32
    exact = losses.hard_tokens(logits.astype(jnp.float32), targets)
    np.testing.assert_array_equal(found, exact)


def test_masked_tokens_get_gradient_exactly_zero():
    logits, targets = draw(0, T, V), jnp.zeros((T,), jnp.int32)
    weights = jnp.array([0.0, 1.0, 0.0, 2.5, 0.0, 0.5, 0.0])

    def total(z):
        return losses.weighted_total(losses.hard_tokens(z, targets), weights)

    grad = jax.grad(total)(logits)
    assert (grad[weights == 0] == 0).all()
    assert (jnp.abs(grad[weights != 0]).max(axis=1) > 1e-3).all()
    # even where the masked token itself has an infinite loss
    impossible = logits.at[0, 0].set(-jnp.inf)
    np.testing.assert_array_equal(total(impossible), total(logits))


@pytest.mark.parametrize("size", [1, 3, 7, 50, None])
def test_chunks_change_neither_value_nor_gradient(size):
    hidden, head = draw(0, T, 5), draw(1, 5, V)
    targets, weights = jnp.arange(T), jnp.array([0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 2.0])

    def loss(hidden, head, size):
        def total(h, t, w):
            return losses.weighted_total(losses.hard_tokens(h @ head, t), w)

        return losses.total_in_chunks(total, size, hidden, targets, weights)

    value, grads = jax.value_and_grad(loss, (0, 1))(hidden, head, size)
    whole, whole_grads = jax.value_and_grad(loss, (0, 1))(hidden, head, None)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    for grad, expected in zip(grads, whole_grads, strict=True):
        np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-5)


def test_chunks_bound_the_memory():
    vocab, length, width = 4096, 256, 8
    hidden, head = jnp.ones((length, width)), jnp.ones((width, vocab))

    def temporary(size):
        def loss(hidden, head):
            def total(h, t):
                return losses.hard_tokens(h @ head, t).sum()

            return losses.total_in_chunks(total, size, hidden, jnp.arange(length))

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * vocab * length
    assert temporary(None) >= logits
    assert temporary(16) < logits / 2
