"""Predictors where their values are known: shared start, permuted twin, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_mlp import data, grid, noise, predictors, starts
from mnist_mlp.model import Architecture

TINY = grid.Grid(
    student=Architecture("relu", (24,)),
    teacher=Architecture("relu", (24,)),
    num_aux=6,
    batch_size=64,
)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def measured():
    """Shared start, permuted twin, another start; a teacher of one step."""
    digits = data.load("digits")
    pictures = noise.Pictures(
        digits.train_images, digits.test_images, digits.train_images[:1].reshape(1, 8, 8)
    )
    init, apply = grid.network(TINY, TINY.teacher, 64)
    reference, other = init(KEY), init(jax.random.key(1))
    loss = predictors.trait_loss(
        TINY, apply, noise.to_pixels(digits.train_images[:512]), digits.train_labels[:512]
    )
    step = jax.grad(loss)(reference)
    teacher = jax.tree.map(lambda p, g: p - 0.3 * g, reference, step)
    students = [reference, starts.permuted(KEY, reference), other]
    settings = grid.stack([grid.Settings(num_aux=6)] * 3)
    own, end = grid.stacked([reference]), grid.stacked([teacher])
    given = {
        "settings": settings,
        "teacher_starts": own,
        "teachers": end,
        "what": noise.source("uniform"),
        "pictures": pictures,
        "key": KEY,
    }
    stack = grid.stacked(students)
    before = predictors.before(TINY, digits, students=stack, **given)
    last = grid.stacked([teacher, students[1], other])
    after = predictors.after(TINY, digits, starts=stack, students=last, **given)
    return {k: np.asarray(v) for k, v in (before | after).items()}


def test_shared_start_and_its_twin_are_aligned_and_matched(measured):
    for name in ("alignment", "aligned_far", "share"):
        np.testing.assert_allclose(measured[name][:2], 1, rtol=1e-3)
        assert abs(measured[name][2]) < 0.9
    assert np.abs(measured["mismatch"][:2]).max() < 1e-6 < measured["mismatch"][2]


def test_gain_of_a_shared_start_is_positive_and_its_own_square(measured):
    """A one-step teacher's displacement is along its gradient; a twin's gain is the same."""
    assert (measured["gain"][:2] > 0).all()
    np.testing.assert_allclose(measured["gain"][0], measured["gain"][1], rtol=1e-3)


def test_after_training_the_copy_has_all_and_the_unmoved_twin_none(measured):
    np.testing.assert_allclose(measured["angle"], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(measured["cka"][0], 1, atol=1e-3)
    assert measured["cka"][1] < 0.99
    assert measured["left"][0] < 1e-6
    np.testing.assert_allclose(measured["left"][1], measured["moved"][1], rtol=0.05)


def test_cka_is_one_for_rotations_and_small_for_independent_features():
    x, y = jax.random.normal(KEY, (2, 500, 5))
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (5, 5)))[0]
    assert float(predictors.cka(x, 3 * x @ rotation)) == pytest.approx(1, abs=1e-5)
    assert float(predictors.cka(x, y)) < 0.05
