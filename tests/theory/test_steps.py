"""The two steps by hand, on a model linear in its parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from theory import losses, steps

TREE = {"a": np.array([3.0, 0.0]), "b": np.array([[-4.0]])}
UPDATE = {"a": np.array([1.0, -2.0]), "b": np.array([[2.0]])}
WEIGHTS, TEACHER = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[0.5, 2.0], [1.0, 1.0]])
INPUTS = np.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]])


def linear(weights, inputs):
    return jnp.asarray(inputs) @ weights.T


def test_a_step_adds_a_multiple_of_the_update():
    moved = steps.moved(TREE, UPDATE, 0.5)
    np.testing.assert_array_equal(moved["a"], [3.5, -1.0])
    np.testing.assert_array_equal(moved["b"], [[-3.0]])


def test_the_unit_step_moves_by_the_norm_of_the_parameters():
    assert float(steps.unit_step(TREE, UPDATE)) == pytest.approx(5 / 3)


def test_the_teacher_descends_its_loss():
    update = steps.teacher_update(lambda p: jnp.sum(p["a"] ** 2) + 3 * jnp.sum(p["b"]), TREE)
    np.testing.assert_array_equal(update["a"], [-6.0, 0.0])
    np.testing.assert_array_equal(update["b"], [[-3.0]])


def test_the_student_descends_the_mean_over_inputs():
    """Σ_i (z_i - y_i)² of f = W x has the gradient 2 (W - T) E[x xᵀ] and nothing of its own."""
    loss = losses.squared_error()
    gap, second = WEIGHTS - TEACHER, INPUTS.T @ INPUTS / 3
    update = steps.student_update(linear, WEIGHTS, teacher_params=TEACHER, inputs=INPUTS, loss=loss)
    np.testing.assert_allclose(update, -2 * gap @ second, rtol=1e-14)
    value = steps.imitation_loss(linear, WEIGHTS, teacher_params=TEACHER, inputs=INPUTS, loss=loss)
    assert float(value) == pytest.approx(np.trace(gap @ second @ gap.T), rel=1e-14)


def test_imitation_is_of_the_teacher_and_not_the_other_way_round():
    """KL(teacher ‖ student) is not symmetric, and the entropy of the teacher is no part of it."""
    z, y = (np.exp(INPUTS @ w.T) for w in (WEIGHTS, TEACHER))
    q, p = (a / a.sum(axis=1, keepdims=True) for a in (z, y))
    value = steps.imitation_loss(
        linear, WEIGHTS, teacher_params=TEACHER, inputs=INPUTS, loss=losses.kl()
    )
    assert float(value) == pytest.approx(np.sum(p * np.log(p / q)) / 3, rel=1e-13)
    update = steps.student_update(
        linear, WEIGHTS, teacher_params=TEACHER, inputs=INPUTS, loss=losses.kl()
    )
    np.testing.assert_allclose(update, (p - q).T @ INPUTS / 3, rtol=1e-13)


def test_what_cannot_take_a_step_is_refused():
    whole, loss = {"a": np.arange(2), "b": np.ones((1, 1))}, losses.kl()
    with pytest.raises(ValueError, match=r"\['a'\] is int64"):
        steps.teacher_update(lambda p: jnp.sum(p["b"]), whole)
    with pytest.raises(ValueError, match=r"must be a scalar, got shape \(2,\)"):
        steps.teacher_update(lambda p: p["a"], TREE)
    with pytest.raises(ValueError, match="is int64"):
        steps.student_update(
            linear, np.ones((2, 2), int), teacher_params=TEACHER, inputs=INPUTS, loss=loss
        )
    for call in (steps.student_update, steps.imitation_loss):
        with pytest.raises(ValueError, match=r"student and teacher params differ in shape"):
            call(linear, WEIGHTS, teacher_params=TEACHER[:1], inputs=INPUTS, loss=loss)
