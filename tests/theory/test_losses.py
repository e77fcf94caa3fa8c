"""Losses against numpy and their M against JAX's second derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from theory import losses

COVERED = [
    losses.squared_error(),
    losses.squared_error((1.0, 0.0, 2.0, 0.5, 0.0)),
    losses.cross_entropy(),
    losses.cross_entropy(4.0),
    losses.kl(2.0),
    losses.reverse_kl(0.5),
    losses.on_outputs(losses.squared_error(), (0, 3)),
    losses.on_outputs(losses.cross_entropy(), (1, 4, 2)),
    losses.on_outputs(losses.reverse_kl(3.0), (2, 3)),
    losses.on_outputs(losses.kl(), (1,)),
]
covered = pytest.mark.parametrize("loss", COVERED, ids=lambda loss: loss.name)


def logits(seed, shape=(5,)):
    return jax.random.normal(jax.random.key(seed), shape)


@functools.cache
def matrices(loss):
    """At y of scale 1 and 3: M by products, M by derivatives, Hessian and gradient at z = y."""

    def at(y):
        gradient = jax.grad(loss.value)
        products = jax.vmap(lambda v: loss.mixed_hessian(y, v))(jnp.eye(5))
        derived = -jax.jacfwd(lambda t: gradient(y, t))(y)  # M_ij = -∂²L/∂y_j ∂z_i at z = y
        return products.T, derived, jax.hessian(loss.value)(y, y), gradient(y, y)

    y = logits(0, (20, 5)) * jnp.tile(jnp.array([1.0, 3.0]), 10)[:, None]
    return jax.device_get(jax.jit(jax.vmap(at))(y))


@covered
def test_mixed_hessian_is_minus_the_second_derivative(loss):
    products, derived, _, _ = matrices(loss)
    np.testing.assert_allclose(products, derived, atol=1e-13)


@covered
def test_m_equals_the_hessian_in_z_because_z_equals_y_is_a_minimum(loss):
    _, derived, hessian, gradient = matrices(loss)
    np.testing.assert_allclose(hessian, derived, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


@covered
def test_m_is_symmetric_positive_semidefinite(loss):
    m, _, _, _ = matrices(loss)
    np.testing.assert_allclose(m, m.swapaxes(1, 2), atol=1e-14)
    assert np.linalg.eigvalsh(m).min() > -1e-13


@covered
def test_gradients_of_the_value(loss):
    value = jax.jit(lambda z: loss.value(z, logits(1)))
    check_grads(value, (logits(0),), order=1, modes=("rev",))


@covered
def test_batches_are_examples_side_by_side(loss):
    z, y = logits(0, (2, 3, 5)), logits(1, (2, 3, 5))
    value = jax.jit(loss.value)
    one_by_one = [[value(z[i, j], y[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(value(z, y), one_by_one, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_values_against_numpy(temperature):
    z, y = logits(0), logits(1)
    q, p = (
        np.exp(a / temperature) / np.exp(a / temperature).sum() for a in map(np.asarray, (z, y))
    )
    kl = (p * np.log(p / q)).sum()
    entropy = -(p * np.log(p)).sum()
    assert losses.kl(temperature).value(z, y) == pytest.approx(kl)
    assert losses.reverse_kl(temperature).value(z, y) == pytest.approx((q * np.log(q / p)).sum())
    assert losses.cross_entropy(temperature).value(z, y) == pytest.approx(kl + entropy)
    assert losses.squared_error((1, 2, 0, 0, 3)).value(z, y) == pytest.approx(
        ((z - y) ** 2 * jnp.array([1, 2, 0, 0, 3])).sum()
    )


def test_null_spaces():
    y, ones = logits(0), jnp.ones(5)
    np.testing.assert_allclose(losses.kl().mixed_hessian(y, ones), 0, atol=1e-16)
    assert np.linalg.norm(losses.squared_error().mixed_hessian(y, ones)) > 1
    weighted = losses.squared_error((1, 0, 0, 0, 0)).mixed_hessian(y, logits(1))
    assert not weighted[1:].any()
    assert weighted[0] != 0
    outside = losses.on_outputs(losses.kl(), (1, 2)).mixed_hessian(y, jnp.array([1.0, 0, 0, 1, 1]))
    assert not outside.any()
    single = losses.on_outputs(losses.kl(), (3,)).mixed_hessian(y, logits(1))
    assert not single.any()


def test_a_subset_is_normalised_over_itself():
    z, y = logits(0), logits(1)
    on_three = losses.on_outputs(losses.kl(), (0, 2, 4))
    assert on_three.value(z, y) == losses.kl().value(z[::2], y[::2])


def test_from_value_finds_the_same_m():
    y, v = logits(0, (3, 5)), logits(1, (3, 5))
    derived = jax.jit(losses.from_value("own", losses.kl(2.0).value).mixed_hessian)
    expected = losses.kl(2.0).mixed_hessian(y, v)
    np.testing.assert_allclose(derived(y, v), expected, atol=1e-14)


def test_squared_error_of_probabilities_through_from_value():
    """M = 2 (diag(p) - p pᵀ)², worked out by hand."""
    loss = losses.from_value(
        "probabilities", lambda z, y: jnp.sum((jax.nn.softmax(z) - jax.nn.softmax(y)) ** 2, -1)
    )
    y, v = logits(0), logits(1)
    p = jax.nn.softmax(y)
    c = jnp.diag(p) - jnp.outer(p, p)
    np.testing.assert_allclose(loss.mixed_hessian(y, v), 2 * c @ c @ v, atol=1e-14)


def test_names_say_what_a_loss_is():
    names = {
        "squared error": losses.squared_error(),
        "weighted squared error": losses.squared_error((1, 2)),
        "cross-entropy": losses.cross_entropy(),
        "cross-entropy at T = 2.5": losses.cross_entropy(2.5),
        "KL(teacher‖student) at T = 4": losses.kl(4),
        "KL(student‖teacher) at T = 0.5": losses.reverse_kl(0.5),
        "cross-entropy on 2 outputs": losses.on_outputs(losses.cross_entropy(), (3, 1)),
        "one of argmax labels, KL(student‖teacher)": losses.one_of(
            jnp.array(0), [losses.argmax_labels(), losses.reverse_kl()]
        ),
    }
    assert list(names) == [loss.name for loss in names.values()]


def test_one_of_many_is_the_one_of_that_number():
    z, y = logits(0), logits(1)
    many = [losses.squared_error(), losses.kl(), losses.reverse_kl()]

    @jax.jit
    @jax.vmap
    def of(number):
        loss = losses.one_of(number, many)
        return loss.value(z, y), loss.mixed_hessian(y, z)

    values, products = of(jnp.arange(3))
    np.testing.assert_allclose(values, [loss.value(z, y) for loss in many], rtol=1e-14)
    expected = [loss.mixed_hessian(y, z) for loss in many]
    np.testing.assert_allclose(products, expected, atol=1e-15)


def test_argmax_labels_are_not_covered():
    y = logits(0)
    loss = losses.argmax_labels()
    assert loss.value(y, y) == pytest.approx(-jax.nn.log_softmax(y).max())
    assert not loss.mixed_hessian(y, logits(1)).any()
    assert np.abs(jax.grad(loss.value)(y, y)).max() > 0.1  # z = y is no minimum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.squared_error((1.0, -2.0)), "at least 0"),
        (lambda: losses.kl(0.0), "above 0"),
        (lambda: losses.cross_entropy(float("nan")), "above 0"),
        (lambda: losses.on_outputs(losses.kl(), ()), "at least one"),
        (lambda: losses.on_outputs(losses.kl(), (1, 1)), "distinct"),
        (lambda: losses.on_outputs(losses.kl(), (3, 5)).value(logits(0), logits(1)), "5 outputs"),
        (lambda: losses.on_outputs(losses.kl(), (-1,)).value(logits(0), logits(1)), "out of range"),
        (lambda: losses.squared_error((1.0, 2.0)).value(logits(0), logits(1)), "2 weights for 5"),
    ],
)
def test_bad_input_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
