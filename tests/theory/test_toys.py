"""The families are what they say: sizes, scales, causality, convolution, symmetric traits."""

import jax
import jax.numpy as jnp
import numpy as np

from theory import toys

KEY = jax.random.key(0)


def test_weights_have_the_stated_standard_deviation_and_biases_are_zero():
    params = toys.draw_params(toys.mlp("wide", (100, 200, 10), jnp.tanh), KEY)
    std = float(jnp.std(params["kernel_0"]))
    # The standard error of a standard deviation over n numbers is std / √(2 n).
    assert abs(std - 0.1) < 5 * 0.1 / np.sqrt(2 * 20_000)
    assert not params["bias_0"].any()


def test_mlp_is_its_formula():
    net = toys.mlp("relu", (3, 4, 4, 2), jax.nn.relu)
    p = toys.draw_params(net, KEY)
    x = jax.random.normal(KEY, (5, 3))
    hidden = x
    for i in range(2):
        hidden = np.maximum(hidden @ p[f"kernel_{i}"].T + p[f"bias_{i}"][None], 0)
    expected = hidden @ p["kernel_2"].T + p["bias_2"][None]
    np.testing.assert_allclose(net.apply(p, x), expected, atol=1e-14)


def test_cnn_is_a_convolution():
    net = toys.cnn("cnn", 6, channels=4, num_outputs=3, activation=jnp.tanh)
    p = toys.draw_params(net, KEY)
    x = jax.random.normal(KEY, (2, 6, 6))
    hidden = x[..., None]
    for name in ("first", "second"):
        kernel = p[name].reshape(3, 3, -1, 4)
        hidden = jnp.tanh(
            jax.lax.conv_general_dilated(
                hidden, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    expected = hidden.mean((1, 2)) @ p["head"].T
    np.testing.assert_allclose(net.apply(p, x), expected, atol=1e-13)


def test_transformer_is_causal():
    net = toys.transformer("transformer", 7, 5, 8)
    p = toys.draw_params(net, KEY)
    tokens = jnp.array([[1, 2, 3, 4, 5], [1, 2, 3, 0, 6]])
    logits = jax.jit(net.apply)(p, tokens)
    np.testing.assert_allclose(logits[0, :3], logits[1, :3], atol=1e-14)
    assert jnp.abs(logits[0, 3:] - logits[1, 3:]).min() > 1e-6


def test_every_case_is_its_own():
    net = toys.transformer("transformer", 7, 5, 8)
    cases = jax.jit(jax.vmap(lambda k: toys.draw_case(net, k, 50)))(jax.random.split(KEY, 2))
    assert cases.inputs.shape == (2, 50, 5)
    assert cases.targets.shape == (2, 50, 5, 7)
    assert not jnp.allclose(cases.params["query"][0], cases.params["query"][1])
    assert (cases.inputs[0] != cases.trait_inputs[0]).any()
    assert set(np.unique(cases.inputs)) <= set(range(7))


def test_the_random_trait_has_symmetric_signs(tanh, case):
    flipped = case._replace(signs=-case.signs)
    assert toys.trait_loss(flipped, tanh.apply)(case.params) == -toys.trait_loss(case, tanh.apply)(
        case.params
    )
