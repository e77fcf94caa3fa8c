import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from llm.training import losses

T, V = 7, 11


def draw(seed, *shape):
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


hard_tokens = jax.jit(losses.hard_tokens)
soft_targets = jax.jit(losses.soft_targets, static_argnums=2)
restricted = jax.jit(losses.restricted_soft_targets)


def log_softmax(logits):
    """In float64, on the host."""
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_hard_tokens_is_the_negative_log_probability():
    logits, targets = draw(0, T, V), jnp.arange(T) % 5
    expected = -log_softmax(logits)[np.arange(T), targets]
    np.testing.assert_allclose(hard_tokens(logits, targets), expected, rtol=1e-5)


def test_soft_targets_is_the_divergence_and_zero_at_the_teacher():
    student, teacher = draw(0, T, V), draw(1, T, V)
    p, q = log_softmax(teacher / 2), log_softmax(student / 2)
    expected = (np.exp(p) * (p - q)).sum(-1)
    np.testing.assert_allclose(soft_targets(student, teacher, 2.0), expected, rtol=1e-5)
    np.testing.assert_allclose(soft_targets(teacher, teacher, 1.0), np.zeros(T), atol=1e-6)


def test_the_reverse_divergence_changes_sides():
    student, teacher = draw(0, T, V), draw(1, T, V)
    reverse = losses.soft_targets(student, teacher, reverse=True)
    np.testing.assert_allclose(reverse, soft_targets(teacher, student, 1.0), rtol=1e-5)
    grad = jax.grad(lambda z: losses.soft_targets(student, z, reverse=True).sum())(teacher)
    assert (np.asarray(grad) == 0).all()


def test_the_teacher_gets_no_gradient():
    student, teacher = draw(0, T, V), draw(1, T, V)
    grad = jax.jit(jax.grad(lambda z: losses.soft_targets(student, z).sum()))(teacher)
    assert (np.asarray(grad) == 0).all()


def test_soft_targets_with_a_point_mass_are_hard_tokens():
    logits, targets = draw(0, T, V), jnp.arange(T) % 5
    teacher = jnp.where(jnp.eye(V)[targets] > 0, 0, -jnp.inf)
    np.testing.assert_allclose(
        soft_targets(logits, teacher, 1.0), hard_tokens(logits, targets), rtol=1e-5
    )
    grad = jax.jit(jax.grad(lambda z: losses.soft_targets(z, teacher).sum()))(logits)
    assert np.isfinite(grad).all()


def test_restricted_targets_ignore_and_spare_every_logit_outside_the_set():
    student, teacher, inside = draw(0, T, V), draw(1, T, V), jnp.array([2, 5, 7])
    outside = np.setdiff1d(np.arange(V), inside)
    other_student, other_teacher = np.array(student), np.array(teacher)
    other_student[:, outside] += 5
    other_teacher[:, outside] -= 3
    np.testing.assert_array_equal(
        restricted(student, teacher, token_set=inside),
        restricted(other_student, other_teacher, token_set=inside),
    )
    np.testing.assert_allclose(
        restricted(student, teacher, token_set=np.arange(V)),
        soft_targets(student, teacher, 1.0),
        rtol=1e-5,
    )
    loss = lambda z: losses.restricted_soft_targets(z, teacher, token_set=inside).sum()  # noqa: E731
    grad = np.asarray(jax.jit(jax.grad(loss))(student))
    assert (grad[:, outside] == 0).all()
    assert (np.abs(grad[:, inside]).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("kind", ["hard", "soft", "restricted"])
def test_gradients_and_shift_invariance(kind):
    teacher, targets = draw(1, T, V), jnp.arange(T) % 5
    loss = {
        "hard": lambda z: losses.hard_tokens(z, targets),
        "soft": lambda z: losses.soft_targets(z, teacher),
        "restricted": lambda z: losses.restricted_soft_targets(
            z, teacher, token_set=jnp.array([1, 2, 9])
        ),
    }[kind]
    logits = draw(0, T, V)
    with jax.enable_x64(True):
        check_grads(jax.jit(lambda z: loss(z).sum()), (np.float64(logits),), 1, modes=["rev"])
    loss = jax.jit(loss)
    np.testing.assert_allclose(loss(logits + 4), loss(logits), rtol=2e-5, atol=2e-6)


def test_softmax_is_float32_under_bfloat16_logits():
    logits = jnp.asarray(draw(0, T, 1000), jnp.bfloat16)
    found = hard_tokens(logits, np.arange(T))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, hard_tokens(np.float32(logits), np.arange(T)))


def test_masked_tokens_get_gradient_exactly_zero():
    logits, targets = draw(0, T, V), jnp.zeros(T, jnp.int32)
    weights = jnp.array([0.0, 1.0, 0.0, 2.5, 0.0, 0.5, 0.0])

    @jax.jit
    @jax.value_and_grad
    def total(z):
        return losses.weighted_total(losses.hard_tokens(z, targets), weights)

    value, grad = total(logits)
    assert (np.asarray(grad)[weights == 0] == 0).all()
    assert (np.abs(grad)[weights != 0].max(axis=1) > 1e-3).all()
    # even where the masked token itself has an infinite loss
    impossible = logits.at[0, 0].set(-jnp.inf)
    assert total(impossible)[0] == value


@pytest.mark.parametrize("size", [1, 3, 50])
def test_chunks_change_neither_value_nor_gradient(size):
    hidden, head = draw(0, 2 * T, 5).reshape(2, T, 5), draw(1, 5, V)
    targets = jnp.arange(2 * T).reshape(2, T)
    weights = jnp.array([[0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 0.0]])

    def loss(hidden, head, size):
        def total(h, t, w):
            return losses.weighted_total(losses.hard_tokens(h @ head, t), w)

        return losses.total_in_chunks(total, size, hidden, targets, weights)

    run = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)
    (value, grads), (whole, whole_grads) = run(hidden, head, size), run(hidden, head, 2 * T)
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

            return losses.total_in_chunks(total, size, hidden[None], jnp.arange(length)[None])

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(hidden, head).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * vocab * length
    assert temporary(length) >= logits
    assert temporary(16) < logits / 2
