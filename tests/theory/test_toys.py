"""The families are what they say: sizes, scales, causality, convolution, symmetric traits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import toys

KEY = jax.random.key(0)


def test_weights_have_the_stated_standard_deviation_and_biases_are_zero():
    params = toys.draw_params(toys.mlp("wide", (100, 200, 10), jnp.tanh), KEY)
    std = float(jnp.std(params["kernel_0"]))
    # The standard error of a standard deviation over n numbers is std / √(2 n).
    assert abs(std - 0.1) < 5 * 0.1 / np.sqrt(2 * 20_000)
    assert not params["bias_0"].any()


def test_linear_and_quadratic_are_their_formulas():
    x = jnp.array([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]])
    weights = jnp.array([[1.0, 2.0], [0.0, -1.0]])
    expected = [[5.0, -2.0], [0.0, -0.5], [6.0, -3.0]]
    np.testing.assert_array_equal(toys.linear(weights, x), expected)
    np.testing.assert_array_equal(toys.quadratic(weights[0], x), [[12.5], [0.0], [18.0]])


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


def test_transformer_is_its_formula():
    """One block, written out position by position for one sequence."""
    net = toys.transformer("transformer", 7, 5, 8)
    p = jax.device_get(toys.draw_params(net, KEY))
    tokens = np.array([3, 1, 4, 1, 5])

    def norm(v):
        return v / np.sqrt(np.mean(v**2) + 1e-6)

    def gelu(v):
        return v / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

    x = [p["embed"][token] + p["position"][i] for i, token in enumerate(tokens)]
    h = [norm(v) for v in x]
    expected = []
    for i in range(5):
        scores = [(h[i] @ p["query"]) @ (h[j] @ p["key"]) / np.sqrt(8) for j in range(i + 1)]
        weights = np.exp(scores) / np.exp(scores).sum()
        value = sum(w * (h[j] @ p["value"]) for j, w in enumerate(weights))
        v = x[i] + value @ p["output"]
        expected.append(norm(v + gelu(norm(v) @ p["up"]) @ p["down"]))
    expected = np.stack(expected) @ p["unembed"]
    np.testing.assert_allclose(jax.jit(net.apply)(p, tokens[None])[0], expected, atol=1e-13)


def test_starts_have_the_stated_shapes_and_scales():
    """One over the root of the number of inputs; one for what is looked up, zero for biases."""
    fan_in = {"query": 8, "key": 8, "value": 8, "output": 8, "up": 8, "down": 16, "unembed": 8}
    net = toys.transformer("transformer", 7, 5, 8)
    for name, (shape, std) in net.weights.items():
        assert std == pytest.approx(fan_in[name] ** -0.5 if name in fan_in else 1.0), name
        assert name not in fan_in or shape[0] == fan_in[name]
    assert net.weights["embed"][0] == (7, 8)
    assert net.weights["position"][0] == (5, 8)
    assert toys.cnn("cnn", 6, channels=4, num_outputs=3, activation=jnp.tanh).weights == {
        "first": ((9, 4), 1 / 3),
        "second": ((36, 4), 1 / 6),
        "head": ((3, 4), 0.5),
    }
    assert toys.mlp("mlp", (4, 9, 2), jnp.tanh).weights == {
        "kernel_0": ((9, 4), 0.5),
        "kernel_1": ((2, 9), 1 / 3),
        "bias_0": ((9,), 0.0),
        "bias_1": ((2,), 0.0),
    }


def test_a_case_is_cut_from_one_stream_of_normal_numbers():
    """Inputs have a random mean and a random scale of powers of two, apart from the teacher's."""
    net = toys.mlp("net", (3, 4, 2), jnp.tanh)
    case = jax.jit(lambda key: toys.draw_case(net, key, 5))(KEY)
    params_key, case_key = jax.random.split(KEY)
    numbers = np.asarray(jax.random.normal(case_key, (51,), jnp.float32), float)
    mine, theirs, targets, signs = np.split(numbers, [19, 38, 48])
    for found, part in ((case.inputs, mine), (case.trait_inputs, theirs)):
        scale, mean, noise = np.split(part, [1, 4])
        np.testing.assert_allclose(found, mean + 2**scale * noise.reshape(5, 3), rtol=1e-14)
    np.testing.assert_array_equal(case.targets, targets.reshape(5, 2))
    np.testing.assert_array_equal(case.signs, signs)
    start = toys.draw_params(net, params_key)
    jax.tree.map(np.testing.assert_array_equal, case.params, start)


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
