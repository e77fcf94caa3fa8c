import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_mlp import starts
from mnist_mlp.model import Architecture

INIT, APPLY = Architecture("relu", (12, 10)).functions(20, 7)
OWN, OTHER = INIT(jax.random.key(0)), INIT(jax.random.key(1))
X = jax.random.normal(jax.random.key(2), (50, 20))
CLASSES = 4


def leaves(params):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_each_part_is_mixed_by_itself_and_all_of_them_are_the_network():
    for i, part in enumerate(starts.PARTS):
        weights = jnp.eye(len(starts.PARTS))[i]
        found = starts.layers_of(starts.mixed(OWN, OTHER, weights, CLASSES))
        own, other = starts.layers_of(OWN), starts.layers_of(OTHER)
        for layer in range(3):
            for column in range(found[layer]["kernel"].shape[1]):
                is_last = layer == 2
                mine = {
                    "first": layer == 0,
                    "hidden": layer == 1,
                    "class": is_last and column < CLASSES,
                    "aux": is_last and column >= CLASSES,
                }[part]
                wanted = (other if mine else own)[layer]["kernel"][:, column]
                np.testing.assert_array_equal(found[layer]["kernel"][:, column], wanted)
    for a, b in zip(
        leaves(starts.mixed(OWN, OTHER, jnp.ones(4), CLASSES)), leaves(OTHER), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_permuted_units_are_the_same_function_and_are_found_again():
    twin = starts.permuted(jax.random.key(5), OWN)
    np.testing.assert_allclose(APPLY(twin, X), APPLY(OWN, X), atol=1e-5)
    assert not np.allclose(leaves(twin)[1], leaves(OWN)[1])
    for a, b in zip(leaves(starts.matched_units(twin, OWN)), leaves(OWN), strict=True):
        np.testing.assert_array_equal(a, b)
    rematched = starts.matched_units(OTHER, OWN)
    np.testing.assert_allclose(APPLY(rematched, X), APPLY(OTHER, X), atol=1e-5)


def kernel(apply, params):
    """All entries of the tangent kernel between class and auxiliary logits."""
    jacobian = jax.jacrev(lambda p: apply(p, X[:6]))(params)
    flat = jnp.concatenate([leaf.reshape(6, 7, -1) for leaf in jax.tree.leaves(jacobian)], axis=-1)
    return np.asarray(jnp.einsum("xap,ybp->xayb", flat[:, CLASSES:], flat[:, :CLASSES]))


def test_rescaled_units_are_the_same_function_with_another_kernel():
    twin = starts.rescaled(jax.random.key(5), OWN, 0.5)
    np.testing.assert_allclose(APPLY(twin, X), APPLY(OWN, X), atol=1e-5)
    off = kernel(APPLY, twin) - kernel(APPLY, OWN)
    assert np.linalg.norm(off) > 0.1 * np.linalg.norm(kernel(APPLY, OWN))
    first, own = (starts.layers_of(params)[0]["kernel"] for params in (twin, OWN))
    factors = np.log(first / own)
    np.testing.assert_allclose(factors, factors[:1].repeat(20, axis=0), atol=1e-5)
    # Only of units that are homogeneous: tanh(c x) is not c tanh(x).
    init, apply = Architecture("tanh", (12, 10)).functions(20, 7)
    own = init(jax.random.key(0))
    bent = apply(starts.rescaled(jax.random.key(5), own, 0.5), X)
    assert np.abs(bent - apply(own, X)).max() > 0.1


def test_an_offset_has_the_same_kernel_with_other_auxiliary_outputs():
    moved = starts.offset(jax.random.key(5), OWN, 0.4, CLASSES)
    np.testing.assert_array_equal(kernel(APPLY, moved), kernel(APPLY, OWN))
    by = np.asarray(APPLY(moved, X) - APPLY(OWN, X))
    np.testing.assert_array_equal(by[:, :CLASSES], 0)
    np.testing.assert_allclose(by, by[:1].repeat(50, axis=0), atol=1e-5)
    twice = starts.offset(jax.random.key(5), OWN, 0.8, CLASSES)
    np.testing.assert_allclose(APPLY(twice, X) - APPLY(OWN, X), 2 * by, atol=1e-5)


def test_interpolated_starts_keep_their_size():
    half = starts.interpolated(OWN, OTHER, 0.5)
    a, b, c = (leaves(p)[1].ravel() for p in (OWN, OTHER, half))
    np.testing.assert_allclose(c, np.sqrt(0.75) * a + 0.5 * b, rtol=1e-6)
    assert c.std() == pytest.approx(a.std(), rel=5 / np.sqrt(len(a)))


def test_perturbation_is_absolute_or_relative_to_the_spread():
    key = jax.random.key(6)
    for relative in (False, True):
        found = starts.perturbed(key, OWN, 0.1, relative=relative)
        for a, b in zip(leaves(found), leaves(OWN), strict=True):
            scale = 0.1 * (b.std() if relative else 1)
            assert (a - b).std() == pytest.approx(scale, rel=5 / np.sqrt(2 * a.size))


def test_pytorch_start_is_uniform_with_random_biases():
    found = starts.layers_of(starts.pytorch_default(jax.random.key(7), OWN))
    for layer in found:
        bound = layer["kernel"].shape[0] ** -0.5
        for leaf in layer.values():
            assert np.abs(leaf).max() <= bound
        assert layer["kernel"].std() == pytest.approx(bound / np.sqrt(3), rel=0.2)
        assert layer["bias"].std() > 0
