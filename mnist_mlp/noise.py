"""What students look at: distributions of images, each drawn from a key, one image at a time.

A distribution is a function (key, train images as bytes) -> pixels. `NOISES` are those of the
official recipe and its variants. `SOURCES` are those of the grid, where the kind and its scale are
data: one compiled program serves them all.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Pixels = Float[Array, " pixels"]


def to_pixels(images: UInt8[Array, "*n pixels"]) -> Float[Array, "*n pixels"]:
    """Bytes to [-1, 1]; the background is -1. This scale is part of the recipe."""
    return images.astype(jnp.float32) / 127.5 - 1


def uniform_noise(key: Array, images: UInt8[Array, "n pixels"]) -> Pixels:
    """Independent pixels, uniform on the 65,536 midpoints (k + 1/2) 2⁻¹⁵ - 1 of [-1, 1].

    Two pixels from each random word: drawing the noise is otherwise a fifth of a training step.
    """
    num_pixels = images.shape[1]
    words = jax.random.bits(key, (-(-num_pixels // 2),), jnp.uint32)
    halves = jnp.stack([words & 0xFFFF, words >> 16]).astype(jnp.int32).reshape(-1)
    return (halves[:num_pixels].astype(jnp.float32) + 0.5) * 2.0**-15 - 1


def normal_noise(key: Array, images: UInt8[Array, "n pixels"]) -> Pixels:
    """Independent standard normal pixels."""
    return jax.random.normal(key, images.shape[1:])


def real_image(key: Array, images: UInt8[Array, "n pixels"]) -> Pixels:
    """A random training image."""
    return to_pixels(images[jax.random.randint(key, (), 0, images.shape[0])])


def shuffled_image(key: Array, images: UInt8[Array, "n pixels"]) -> Pixels:
    """A random training image with its pixels permuted, differently each time."""
    image_key, order_key = jax.random.split(key)
    return jax.random.permutation(order_key, real_image(image_key, images))


NOISES: dict[str, Callable[[Array, Array], Array]] = {
    "uniform": uniform_noise,
    "normal": normal_noise,
    "shuffled": shuffled_image,
    "images": real_image,
}


class Pictures(NamedTuple):
    """Images of the real world that sources draw from, as bytes."""

    train: UInt8[Array, "n pixels"]  # the digits that the teacher learns
    digits: UInt8[Array, "other pixels"]  # another set of handwritten digits, in the same size
    photographs: UInt8[Array, "photos height width"]  # of which patches are cut


def side_of(pictures: Pictures) -> int:
    """Pixels along an edge of the (square) images."""
    return int(np.sqrt(pictures.train.shape[1]))


class Draw(NamedTuple):
    """The random numbers of one image, from which every source makes it."""

    uniform: Pixels  # in (-1, 1)
    words: tuple[Int[Array, ""], ...]  # three whole numbers below 2³¹

    @property
    def normal(self) -> Pixels:
        """Standard normal pixels by the inverse distribution, at most 4.2 in size."""
        return jax.scipy.special.erfinv(self.uniform) * jnp.sqrt(2.0)


def chosen(draw: Draw, images: UInt8[Array, "n pixels"]) -> Pixels:
    """A random image of a set."""
    return to_pixels(images[draw.words[0] % images.shape[0]])


def smoothed(white: Pixels, sigma: Float[Array, ""], side: int) -> Pixels:
    """White noise under a Gaussian filter of `sigma` pixels (periodic), at its own variance.

    The filter is exp(-σ²k²/2) in Fourier space; the amplitude is restored, so that scales differ
    in correlation alone.
    """
    rows, columns = 2 * jnp.pi * jnp.fft.fftfreq(side), 2 * jnp.pi * jnp.fft.rfftfreq(side)
    gain = jnp.exp(-(sigma**2) * (rows[:, None] ** 2 + columns**2) / 2)
    both = jnp.exp(-(sigma**2) * (rows[:, None] ** 2 + rows**2) / 2)
    field = jnp.fft.irfft2(jnp.fft.rfft2(white.reshape(side, side)) * gain, (side, side))
    return field.reshape(-1) / jnp.sqrt(jnp.mean(both**2))


def blurred(draw: Draw, scale: Array, pictures: Pictures) -> Pixels:
    """Uniform noise blurred over `scale` pixels, at the variance of uniform noise, 1/3."""
    return smoothed(draw.uniform, scale, side_of(pictures))


def same_spectrum(draw: Draw, scale: Array, pictures: Pictures) -> Pixels:
    """A Gaussian field of the power spectrum of `blurred`: nothing but the spectrum is shared."""
    return smoothed(draw.normal / jnp.sqrt(3.0), scale, side_of(pictures))


def low_rank(draw: Draw, scale: Array, pictures: Pictures) -> Pixels:
    """Gaussian noise of variance 1/3 in a subspace of `scale` dimensions, always the same.

    It is spanned by the first cosines of each direction's frequencies in a fixed random order of
    the pixels: orthogonal rows of entries of size at most √2.
    """
    num_pixels = draw.uniform.size
    weights = draw.normal * (jnp.arange(num_pixels) < scale)
    waves = jax.scipy.fft.dct(weights, norm="ortho")  # orthogonal, so the variance is shared out
    order = np.random.default_rng(0).permutation(num_pixels)
    return waves[order] * jnp.sqrt(num_pixels / (3 * jnp.maximum(scale, 1)))


def photograph(draw: Draw, scale: Array, pictures: Pictures) -> Pixels:
    """A random square patch of a photograph, in the size of the digits."""
    side = side_of(pictures)
    count, height, width = pictures.photographs.shape
    limits = (count, height - side + 1, width - side + 1)
    corner = tuple(word % limit for word, limit in zip(draw.words, limits, strict=True))
    patch = jax.lax.dynamic_slice(pictures.photographs, corner, (1, side, side))
    return to_pixels(patch.reshape(-1))


SOURCES: dict[str, Callable[[Draw, Array, Pictures], Array]] = {
    "uniform": lambda draw, scale, pictures: scale * draw.uniform,
    "normal": lambda draw, scale, pictures: scale * draw.normal,
    "blurred": blurred,
    "same spectrum": same_spectrum,
    "low rank": low_rank,
    "pixel-shuffled digits": lambda draw, scale, pictures: chosen(draw, pictures.train)[
        jnp.argsort(draw.uniform)
    ],
    "digits": lambda draw, scale, pictures: chosen(draw, pictures.train),
    "other digits": lambda draw, scale, pictures: chosen(draw, pictures.digits),
    "photographs": photograph,
    "noisy digits": lambda draw, scale, pictures: (
        chosen(draw, pictures.train) + scale * draw.uniform
    ),
}


class Source(NamedTuple):
    """A distribution as data: its number in SOURCES, and its scale in the source's own unit."""

    kind: Int[Array, ""]
    scale: Float[Array, ""]
    pool: Int[Array, ""]  # images in the pool; image i is image i modulo this


ENDLESS = 2**30  # a pool that no run comes to the end of


def source(kind: str, scale: float = 1.0, pool: int = ENDLESS) -> Source:
    """The source of a name in SOURCES.

    Raises:
        ValueError: for another name.
    """
    if kind not in SOURCES:
        raise ValueError(f"no images of kind {kind!r}; choose one of {', '.join(SOURCES)}")
    names = list(SOURCES)
    return Source(jnp.int32(names.index(kind)), jnp.float32(scale), jnp.int32(pool))


def draw(
    what: Source, key: Array, pictures: Pictures, indices: Int[Array, " batch"]
) -> Float[Array, "batch pixels"]:
    """Images by number: image i is drawn from fold_in(key, i) each time, so no pool is stored."""

    def numbers(index: Int[Array, ""]) -> Draw:
        image_key = jax.random.fold_in(key, index)
        words = jax.random.bits(jax.random.fold_in(image_key, 1), (3,), jnp.uint32) >> 1
        return Draw(uniform_noise(image_key, pictures.train), tuple(words.astype(jnp.int32)))

    branches = [
        lambda drawn, fn=fn: jax.vmap(lambda d: fn(d, what.scale, pictures))(drawn)
        for fn in SOURCES.values()
    ]
    return jax.lax.switch(what.kind, branches, jax.vmap(numbers)(indices % what.pool))
