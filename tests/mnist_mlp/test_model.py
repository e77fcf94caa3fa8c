import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mnist_mlp import model


def test_forward_equals_hand_computed_products():
    init, apply = model.network((3, 4, 2))
    params = init(jax.random.key(0))
    x = np.array([[0.5, -1.0, 2.0], [0.0, 1.0, 0.25]], np.float32)
    first, last = params["layers"][0], params["layers"][1]
    hidden = np.maximum(x @ np.asarray(first["kernel"]) + np.asarray(first["bias"]), 0)
    expected = hidden @ np.asarray(last["kernel"]) + np.asarray(last["bias"])
    np.testing.assert_allclose(apply(params, jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)


def test_initial_weights_have_variance_one_over_fan_in():
    init, _ = model.network((784, 256, 13))
    layers = init(jax.random.key(1))["layers"]
    for index, fan_in in enumerate((784, 256)):
        kernel = np.asarray(layers[index]["kernel"])
        # The standard deviation of n normals is known to 1/√(2n); five of those.
        assert kernel.std() == pytest.approx(fan_in**-0.5, rel=5 / np.sqrt(2 * kernel.size))
        assert np.abs(kernel).max() > 3 * fan_in**-0.5, "normal, not uniform or truncated at 2"
        assert not np.any(layers[index]["bias"])


def test_bfloat16_product_rounds_only_the_factors():
    key_x, key_w, key_g = jax.random.split(jax.random.key(2), 3)
    x, w = jax.random.normal(key_x, (64, 48)), jax.random.normal(key_w, (48, 32))
    g = jax.random.normal(key_g, (64, 32))

    def product(x, w):
        return model.bfloat16_dot_general(x, w, (((1,), (0,)), ((), ())))

    def rounded(a):
        return np.asarray(a.astype(jnp.bfloat16), np.float64)

    value, pull = jax.vjp(product, x, w)
    dx, dw = pull(g)
    assert value.dtype == dx.dtype == dw.dtype == jnp.float32
    # float32 sums of n products of rounded factors: error below n ulp of the sum of sizes.
    for got, a, b in ((value, x, w), (dx, g, w.T), (dw, x.T, g)):
        exact = rounded(a) @ rounded(b)
        bound = a.shape[1] * np.finfo(np.float32).eps * (np.abs(rounded(a)) @ np.abs(rounded(b)))
        assert np.all(np.abs(np.asarray(got, np.float64) - exact) <= bound)
    assert not np.allclose(value, np.asarray(x, np.float64) @ np.asarray(w), rtol=1e-5), (
        "the factors are rounded to bfloat16"
    )


def test_bfloat16_product_refuses_other_contractions():
    with pytest.raises(ValueError, match=r"\[batch, in\]"):
        model.bfloat16_dot_general(jnp.ones((2, 3, 4)), jnp.ones((4, 5)), (((2,), (0,)), ((), ())))


def test_gradients_of_the_float32_network():
    init, apply = model.network((5, 6, 3))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: a.astype(jnp.float64), init(jax.random.key(3)))
        x = jax.random.normal(jax.random.key(4), (7, 5), jnp.float64)
        check_grads(lambda p: apply(p, x).sum(), (params,), order=1, modes=["rev"])
