"""The linearised student against a dense eigendecomposition and against real gradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from theory import losses, ntk, steps

LOSS = losses.squared_error()
NUM_PARAMS = 8 * 4 + 8 + 5 * 8 + 5


@pytest.fixture(scope="module")
def spectrum(tanh, case, direction, dense_g):
    """Eigenvalues and vectors of G, and the components of the displacement, all dense."""
    with jax.enable_x64(True):
        g = dense_g(tanh.apply, case.params, case.inputs, LOSS)
        eigenvalues, vectors = np.linalg.eigh(np.asarray(g))
        return eigenvalues, vectors, np.asarray(ravel_pytree(direction)[0])


@pytest.fixture(scope="module")
def space(tanh, case, direction):
    """The Krylov space with as many products as G has rank (7 inputs, 5 outputs) and more."""
    with jax.enable_x64(True):
        return jax.jit(
            lambda p, d: ntk.krylov(
                tanh.apply, p, displacement=d, inputs=case.inputs, num_products=40, loss=LOSS
            )
        )(case.params, direction)


def displacement(space, case, gain):
    return np.asarray(ravel_pytree(ntk.student_displacement(space, case.params, gain))[0])


@pytest.mark.parametrize("time", [0.1, 1.0, 10.0, 1e3])
def test_gradient_flow_against_the_dense_exponential(space, spectrum, case, time):
    eigenvalues, vectors, d = spectrum
    dense = vectors @ (-np.expm1(-eigenvalues * time) * (vectors.T @ d))
    mine = displacement(space, case, ntk.flow_gain(time))
    np.testing.assert_allclose(mine, dense, atol=1e-8 * np.linalg.norm(d))
    share = d @ dense / (d @ d)
    assert float(ntk.arrived_share(space, ntk.flow_gain(time))) == pytest.approx(share, abs=1e-9)


def test_a_long_time_gives_the_projection_on_the_row_space(space, spectrum, case):
    eigenvalues, vectors, d = spectrum
    row_space = vectors[:, eigenvalues > 1e-12 * eigenvalues.max()]
    assert 20 < row_space.shape[1] < NUM_PARAMS  # a real projection, neither all nor nothing
    projected = row_space.T @ d
    share = np.sum(projected**2) / (d @ d)
    assert 0.05 < share < 0.95
    low, _ = ntk.share_bounds(space, jnp.inf)
    assert float(low) == pytest.approx(share, abs=1e-6)
    limit = displacement(space, case, ntk.limit_gain)
    np.testing.assert_allclose(limit, row_space @ projected, atol=1e-6 * np.linalg.norm(d))
    assert float(ntk.arrived_share(space, ntk.flow_gain(1e12))) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("num_products", [1, 4])
def test_the_space_holds_the_displacement_and_its_coupling_is_what_leads_out(
    tanh, case, direction, spectrum, num_products
):
    """G vᵢ = λᵢ vᵢ + cᵢ q for each Ritz pair, with one unit vector q outside the space for all."""
    eigenvalues, vectors, d = spectrum
    space = ntk.krylov(
        tanh.apply,
        case.params,
        displacement=direction,
        inputs=case.inputs,
        num_products=num_products,
        loss=LOSS,
    )
    space = ntk.Krylov(*map(np.asarray, space))
    g = vectors @ np.diag(eigenvalues) @ vectors.T
    atol = 1e3 * np.finfo(float).eps * eigenvalues.max()
    v = space.vectors
    np.testing.assert_allclose(v @ v.T, np.eye(num_products), atol=1e-13)
    np.testing.assert_allclose(space.weights, v @ d, atol=1e-13 * np.linalg.norm(d))
    np.testing.assert_allclose(v @ g @ v.T, np.diag(space.eigenvalues), atol=atol)
    out = v @ g - space.eigenvalues[:, None] * v  # a row for each Ritz vector
    assert np.abs(space.coupling).min() > 1e6 * atol
    q = out[0] / space.coupling[0]
    assert np.linalg.norm(q) == pytest.approx(1, abs=1e-8)
    np.testing.assert_allclose(out, space.coupling[:, None] * q, atol=1e-8 * eigenvalues.max())


@pytest.mark.parametrize("num_products", [2, 5, 12])
@pytest.mark.parametrize("time", [1.0, 30.0, 1e3, 1e5])
def test_bounds_enclose_the_truth_with_few_products(
    tanh, case, direction, spectrum, num_products, time
):
    eigenvalues, vectors, d = spectrum
    few = ntk.krylov(
        tanh.apply,
        case.params,
        displacement=direction,
        inputs=case.inputs,
        num_products=num_products,
        loss=LOSS,
    )
    dense = vectors @ (-np.expm1(-eigenvalues * time) * (vectors.T @ d))
    share = d @ dense / (d @ d)
    low, high = (float(bound) for bound in ntk.share_bounds(few, time))
    assert low - 1e-9 <= share <= high + 1e-9
    assert high - low > 1e-6 or num_products == 12 or time == 1, "bounds, not the value itself"
    error = np.linalg.norm(displacement(few, case, ntk.flow_gain(time)) - dense)
    bound = float(ntk.flow_error(few, time)) * np.linalg.norm(d)
    assert error <= 1.01 * bound + 1e-9 * np.linalg.norm(d)  # 1 % for the trapezes


def test_bounds_close_once_the_space_is_exhausted(space):
    for time in (1.0, 1e3):
        low, high = ntk.share_bounds(space, time)
        assert float(high - low) == pytest.approx(0, abs=1e-8)
        assert float(ntk.flow_error(space, time)) < 1e-7


def test_share_rises_with_time_and_stays_in_the_unit_interval(space):
    times = jnp.logspace(-3, 6, 40)
    shares = jax.vmap(lambda t: ntk.arrived_share(space, ntk.flow_gain(t)))(times)
    assert (jnp.diff(shares) > -1e-12).all()
    assert shares[0] > 0
    assert shares[-1] <= 1


@pytest.mark.parametrize("num_steps", [1, 7, 60])
def test_descent_gain_is_gradient_descent_on_the_linearised_network(
    tanh, case, direction, space, num_steps
):
    """Steps of plain gradient descent on f_θ⁰ + J s against the linearised teacher."""
    learning_rate = 0.3 / float(space.eigenvalues.max())

    def linearised(s, x):
        logits, tangent = jax.jvp(lambda p: tanh.apply(p, x), (case.params,), (s,))
        return logits + tangent

    def step(s, _):
        update = steps.student_update(
            linearised, s, teacher_params=direction, inputs=case.inputs, loss=LOSS
        )
        return steps.moved(s, update, learning_rate), None

    start = jax.tree.map(jnp.zeros_like, direction)
    real, _ = jax.lax.scan(step, start, length=num_steps)
    predicted = displacement(space, case, ntk.descent_gain(learning_rate, num_steps))
    np.testing.assert_allclose(ravel_pytree(real)[0], predicted, atol=1e-9)


def test_one_product_is_the_theorem(tanh, case, direction, dense_g):
    """With a single product the space holds d only: share = η dᵀGd / dᵀd after one step."""
    tiny = ntk.krylov(
        tanh.apply,
        case.params,
        displacement=direction,
        inputs=case.inputs,
        num_products=1,
        loss=LOSS,
    )
    g = np.asarray(dense_g(tanh.apply, case.params, case.inputs, LOSS))
    d = np.asarray(ravel_pytree(direction)[0])
    share = float(ntk.arrived_share(tiny, ntk.descent_gain(1e-3, 1)))
    assert share == pytest.approx(1e-3 * d @ g @ d / (d @ d), rel=1e-10)


def test_softmax_losses_are_allowed_as_the_quadratic_model_at_the_start(tanh, case, direction):
    space = ntk.krylov(
        tanh.apply,
        case.params,
        displacement=direction,
        inputs=case.inputs,
        num_products=3,
        loss=losses.kl(),
    )
    assert (space.eigenvalues > -1e-15).all()


def test_another_tree_is_an_error(tanh, case):
    with pytest.raises(ValueError, match="params and displacement"):
        ntk.krylov(
            tanh.apply,
            case.params,
            displacement={"kernel_0": jnp.ones(3)},
            inputs=case.inputs,
            num_products=3,
            loss=LOSS,
        )
