import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_mlp import data, noise

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def pictures():
    digits = data.load("digits")
    photos = jnp.arange(2 * 20 * 30, dtype=jnp.uint8).reshape(2, 20, 30)
    return noise.Pictures(digits.train_images, digits.test_images, photos)


def drawn(pictures, kind, scale=1.0, count=2000, pool=noise.ENDLESS):
    source = noise.source(kind, scale, pool)
    return np.asarray(noise.draw(source, KEY, pictures, jnp.arange(count)))


@pytest.mark.parametrize("kind", noise.SOURCES)
def test_images_are_finite_a_fixed_function_of_their_number_and_differ(kind, pictures):
    images = drawn(pictures, kind, count=6)
    assert images.shape == (6, 64)
    assert np.isfinite(images).all()
    np.testing.assert_array_equal(images, drawn(pictures, kind, count=6))
    assert len(np.unique(images, axis=0)) == 6


def test_a_pool_repeats():
    digits = data.load("digits").train_images
    pictures = noise.Pictures(digits, digits, digits[:1].reshape(1, 8, 8))
    images = drawn(pictures, "uniform", count=10, pool=4)
    np.testing.assert_array_equal(images[:4], images[4:8])
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("blurred", 0.5), ("blurred", 1.5), ("same spectrum", 1.5), ("low rank", 5.0)],
)
def test_shaped_noise_has_the_variance_of_white_noise(kind, scale, pictures):
    images = drawn(pictures, kind, scale)
    # Pixels of an image are correlated: count the images alone, times its 5 or more dimensions.
    error = 5 * np.sqrt(2 / (len(images) * 5)) / 3
    assert (images**2).mean() == pytest.approx(1 / 3, abs=error)
    assert abs(images.mean()) < 5 * np.sqrt(1 / 3 / len(images))


def test_blurred_noise_and_its_gaussian_twin_share_the_spectrum(pictures):
    powers = [
        (np.abs(np.fft.fft2(drawn(pictures, kind, 1.0).reshape(-1, 8, 8))) ** 2).mean(0)
        for kind in ("blurred", "same spectrum")
    ]
    frequency = 2 * np.pi * np.fft.fftfreq(8)
    gain = np.exp(-(frequency[:, None] ** 2 + frequency**2))
    wanted = 64 / 3 * gain / gain.mean()
    for power in powers:
        np.testing.assert_allclose(power, wanted, rtol=5 * np.sqrt(2 / 2000))


def test_low_rank_noise_has_that_rank(pictures):
    assert np.linalg.matrix_rank(drawn(pictures, "low rank", 5.0, count=50), tol=1e-3) == 5


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="choose one of uniform"):
        noise.source("pink")
