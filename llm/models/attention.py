"""Attention as pure functions: rotary angles, who sees whom, the cache, the softmax itself.

Shapes: B rows, T tokens, S key slots, H query heads, K key heads, D head width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from .. import sharding
from .config import ModelConfig, Rope

Rotation = tuple[Float[Array, "B T half"], Float[Array, "B T half"]]  # cosines, sines
Attend = Callable[..., Array]  # `attend` with everything but queries, keys, values, visible


# The name of what a training step keeps for its backward pass: results of matrix products.
PRODUCT = "product"
LANES = 128  # of a TPU's vector unit
WIDE_HEADS = ("H100", "H200", "B100", "B200", "B300")  # NVIDIA's cards of capability 9 and later


class Sight(NamedTuple):
    """Where the tokens are and which keys they may see; the same for all layers of a kind."""

    rotation: Rotation
    visible: Bool[Array, "B T S"]


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, in slots that all rows share.

    Slots are written at one common index, so rows of different length are padded on the left.
    """

    keys: tuple[Float[Array, "B K S D"], ...]  # per layer
    values: tuple[Float[Array, "B K S D"], ...]
    segments: Int[Array, "B S"]  # 0: empty or padding
    lengths: Int[Array, " B"]  # real tokens so far: the position of the next one
    index: Int[Array, ""]  # next slot to write


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: DTypeLike) -> Cache:
    """A cache of `slots` free slots; `dtype` is the compute dtype of the model."""
    shape = (rows, config.num_kv_heads, slots, config.head_dim)
    keys, values = (
        tuple(jnp.zeros(shape, dtype) for _ in range(config.num_layers)) for _ in range(2)
    )
    return Cache(
        keys,
        values,
        jnp.zeros((rows, slots), jnp.int32),
        jnp.zeros((rows,), jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def widen_cache(cache: Cache, slots: int) -> Cache:
    """The same cache with free slots behind, `slots` in all."""
    free = slots - cache.segments.shape[1]

    def widened(x: Float[Array, "B K S D"]) -> Float[Array, "B K slots D"]:
        return jnp.pad(x, ((0, 0), (0, 0), (0, free), (0, 0)))

    return cache._replace(
        keys=tuple(map(widened, cache.keys)),
        values=tuple(map(widened, cache.values)),
        segments=jnp.pad(cache.segments, ((0, 0), (0, free))),
    )


def rotation(rope: Rope, positions: Int[Array, "B T"]) -> Rotation:
    """Cosines and sines of the rotary angles."""
    angles = positions[..., None].astype(jnp.float32) * rope.inverse_frequencies()[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B T heads D"], rotation: Rotation) -> Float[Array, "B T heads D"]:
    """Turn the pairs (i, i + dim/2) of each head by the angles of its position."""
    cos, sin = (part[:, :, None].astype(x.dtype) for part in rotation)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def token_positions(
    segments: Int[Array | np.ndarray, "B T"], cache: Cache | None
) -> Int[Array, "B T"]:
    """Distance from the start of the segment, plus the tokens in the cache."""
    slots = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    changed = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    starts = jax.lax.cummax(jnp.where(changed, slots, 0), axis=1)
    return slots - starts + (0 if cache is None else cache.lengths[:, None])


def visible_keys(
    segments: Int[Array | np.ndarray, "B T"], cache: Cache | None
) -> tuple[Bool[Array, "B T S"], Int[Array, "1 T S"]]:
    """Which keys each query may see, and how many slots back each key is."""
    first = 0 if cache is None else cache.index
    keys = segments if cache is None else write_segments(cache, segments)
    queries = first + jnp.arange(segments.shape[1])
    back = (queries[:, None] - jnp.arange(keys.shape[1])[None])[None]
    return (segments[:, :, None] == keys[:, None]) & (back >= 0), back


def write_segments(cache: Cache, segments: Int[Array | np.ndarray, "B T"]) -> Int[Array, "B S"]:
    """Segment numbers of all slots after these tokens were appended."""
    return jax.lax.dynamic_update_slice_in_dim(cache.segments, segments, cache.index, axis=1)


def attend(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B K S D"],
    *,
    v: Float[Array, "B K S D"],
    visible: Bool[Array, "B T S"],
    scale: float | None = None,
    softcap: float | None = None,
    causal: bool = False,
    implementation: str | None = None,
) -> Float[Array, "B T heads_times_D"]:
    """softmax(cap(q kᵀ · scale)) v over the visible keys, softmax in float32 or wider.

    Args:
        q: queries.
        k: keys; H is a multiple of their K heads.
        v: values.
        visible: true where a query may see a key.
        scale: D^-1/2 if None.
        softcap: c tanh(scores / c) if given (Gemma 2, arXiv:2408.00118).
        causal: `visible` is every key up to the query's own, so a kernel may leave it unread.
        implementation: "splash" or one of `jax.nn.dot_product_attention`; None: `fused_kernel`, or
            the one here.

    Raises:
        ValueError: "splash" is asked for what is not plainly causal.
    """
    rows, heads = sharding.attending(*k.shape[:2])
    q = sharding.constrain(q, P(rows, None, heads))
    k, v = (sharding.constrain(x, P(rows, heads)) for x in (k, v))
    kernel = implementation or fused_kernel(q, k, causal)
    if kernel is None or softcap is not None:
        y = _attend_here(q, k, v=v, visible=visible, scale=scale, softcap=softcap)
        return sharding.constrain(y, P(rows, None, heads))
    if kernel == "splash" and not causal:
        raise ValueError('implementation "splash" knows neither windows, masks nor a cache here')

    def run(q: Array, k: Array, v: Array, *mask: Array) -> Array:
        if kernel == "splash":
            return _splash(q, k, v=v, scale=scale)
        return jax.nn.dot_product_attention(
            q,
            k.swapaxes(1, 2),
            v.swapaxes(1, 2),
            mask=mask[0] if mask else None,
            is_causal=causal,
            scale=scale,
            implementation=kernel,  # pyright: ignore[reportArgumentType]
        )

    arrays = [q, k, v] if causal else [q, k, v, visible[:, None]]
    specs = (P(rows, None, heads), P(rows, heads), P(rows, heads), P(rows))
    y = sharding.on_each(run, arrays, specs[: len(arrays)])
    return sharding.constrain(y.reshape(*q.shape[:2], -1), P(rows, None, heads))


def fused_kernel(
    q: Float[Array, "B T H D"], k: Float[Array, "B K S D"], causal: bool
) -> str | None:
    """The attention that never stores (B, H, T, S) scores, where there is one.

    cuDNN has it for half precision, head widths that are multiples of 8 up to 128 (256 on the
    cards of `WIDE_HEADS`), and even lengths; TPUs have JAX's splash attention, here for half
    precision and a plain causal mask. One query per row has no such scores to spare.
    """
    kind = sharding.device_kind()
    if kind.startswith("TPU"):
        plain = causal and q.shape[1] == k.shape[2] > 1
        return "splash" if plain and q.dtype.itemsize == 2 else None
    if not kind.startswith("NVIDIA"):
        return None
    widest = 256 if any(name in kind for name in WIDE_HEADS) else 128
    fits = q.shape[-1] <= widest and q.shape[-1] % 8 == 0
    even = q.shape[1] > 1 and q.shape[1] % 2 == 0 and k.shape[2] % 2 == 0
    return "cudnn" if fits and even and q.dtype.itemsize == 2 else None


def _splash(q, k, *, v, scale: float | None):
    """Causal attention of a whole sequence by JAX's kernel for TPUs; elsewhere it is interpreted.

    The kernel takes lengths that are multiples of `LANES`. What is appended lies behind all
    queries, so that none sees it.
    """
    length = q.shape[1]
    missing = -length % LANES
    q = q * jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) for x in (q.swapaxes(1, 2), k, v))
    whole = (length + missing,) * 2
    attend = splash_attention_kernel.make_splash_mha_single_device(
        splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask(whole)] * q.shape[1]),
        residual_checkpoint_name=PRODUCT,
        interpret=not sharding.device_kind().startswith("TPU"),
    )
    return jnp.swapaxes(jax.vmap(attend)(q, k, v), 1, 2)[:, :length]


def _attend_here(q, k, *, v, visible, scale: float | None, softcap: float | None):
    B, T, H, D = q.shape
    q = q.reshape(B, T, k.shape[1], -1, D)
    scores = jnp.einsum("btkgd,bksd->bkgts", q, k, preferred_element_type=wide(q.dtype))
    scores = soft_cap(scores * (D**-0.5 if scale is None else scale), softcap)
    # Every token sees itself, so no row is empty and the fill never becomes a probability.
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    y = jnp.einsum(
        "bkgts,bksd->bkgtd", weights.astype(v.dtype), v, preferred_element_type=scores.dtype
    )
    y = checkpoint_name(y, PRODUCT)
    # Dividing after the sum over values spares the backward pass a reduction over the keys.
    y = y / jnp.sum(weights, axis=-1, keepdims=True)
    return y.transpose(0, 3, 1, 2, 4).astype(v.dtype).reshape(B, T, H * D)


def wide(dtype: DTypeLike) -> jnp.dtype:
    """float32, or the dtype itself if that is wider."""
    return jnp.promote_types(dtype, jnp.float32)


def soft_cap(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Bounded smoothly to ±cap by cap · tanh(x / cap); unchanged without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
