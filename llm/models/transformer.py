"""One decoder for every supported family: the config decides which parts are present.

Shapes: B rows, T tokens, S key slots, K key heads, G query heads per key head, D head width.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from .config import ModelConfig, Rope


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


class Linear(nnx.Module):
    """x W + b. `delta`, where set, is a function of x that is added to the output (LoRA)."""

    def __init__(self, inputs: int, outputs: int, bias: bool, std: float, *, rngs, dtype):
        kernel = std * jax.random.normal(rngs.params(), (inputs, outputs), dtype)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if bias else None
        self.delta = None

    def __call__(self, x: Float[Array, "B T inputs"]) -> Float[Array, "B T outputs"]:
        """The affine map, in the dtype of x."""
        y = flat_matmul(x, self.kernel[...])
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None, None]
        return y if self.delta is None else y + self.delta(x)


class Norm(nnx.Module):
    """RMS norm, or LayerNorm with bias, over the last axis in float32 or wider."""

    def __init__(self, config: ModelConfig, width: int, *, dtype):
        self.eps = config.norm_eps
        self.offset = config.norm_offset
        self.scale = nnx.Param(jnp.full((width,), 1.0 - self.offset, dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype)) if config.layer_norm else None

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """The normalised x, in its own dtype."""
        z = x.astype(_wide(x.dtype))
        if self.bias is not None:
            z = z - jnp.mean(z, axis=-1, keepdims=True)
        z = z * jax.lax.rsqrt(jnp.mean(z * z, axis=-1, keepdims=True) + self.eps)
        lead = (None,) * (x.ndim - 1)
        z = z * (self.scale[...].astype(z.dtype) + self.offset)[lead]
        if self.bias is not None:
            z = z + self.bias[...].astype(z.dtype)[lead]
        return z.astype(x.dtype)


class Attention(nnx.Module):
    """Causal attention with grouped queries (arXiv:2305.13245) and rotary positions."""

    def __init__(self, config: ModelConfig, *, rngs, dtype):
        self.config = config
        linear = functools.partial(Linear, std=config.init_std, rngs=rngs, dtype=dtype)
        q_width, kv_width = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        if config.fused_qkv:
            self.qkv = linear(config.width, q_width + 2 * kv_width, config.qkv_bias)
        else:
            self.q = linear(config.width, q_width, config.qkv_bias)
            self.k = linear(config.width, kv_width, config.qkv_bias)
            self.v = linear(config.width, kv_width, config.qkv_bias)
        self.o = linear(q_width, config.width, config.out_bias)
        if config.qk_norm:
            self.q_norm = Norm(config, config.head_dim, dtype=dtype)
            self.k_norm = Norm(config, config.head_dim, dtype=dtype)

    def __call__(self, x, rotation, visible, cache=None):
        """Output and `(keys, values)`; given the layer's `(keys, values, index)`, these grow."""
        config = self.config
        heads = (*x.shape[:2], -1, config.head_dim)
        if config.fused_qkv:
            fused = self.qkv(x).reshape(*x.shape[:2], config.num_heads, 3 * config.head_dim)
            q, k, v = jnp.split(fused, 3, axis=-1)
        else:
            q, k, v = (linear(x).reshape(heads) for linear in (self.q, self.k, self.v))
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if cache is not None:
            keys, values, index = cache
            k = jax.lax.dynamic_update_slice_in_dim(keys, k, index, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, index, axis=2)
        y = attend(q, k, v, visible, scale=config.attention_scale, softcap=config.attention_softcap)
        return self.o(y), (k, v)


class MLP(nnx.Module):
    """down(act(gate(x)) · up(x)), or down(act(up(x))) without a gate."""

    def __init__(self, config: ModelConfig, *, rngs, dtype):
        self.activation = config.activation
        linear = functools.partial(
            Linear, bias=config.mlp_bias, std=config.init_std, rngs=rngs, dtype=dtype
        )
        self.gate = linear(config.width, config.mlp_width) if config.gated_mlp else None
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x: Float[Array, "B T width"]) -> Float[Array, "B T width"]:
        """The same at every token."""
        if self.gate is None:
            return self.down(_activate(self.activation, self.up(x)))
        return self.down(_activate(self.activation, self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Attention and MLP around a residual stream, one after the other or in parallel."""

    def __init__(self, config: ModelConfig, *, rngs, dtype):
        norm = functools.partial(Norm, config, config.width, dtype=dtype)
        self.parallel = config.parallel
        self.attn_norm = norm()
        self.attn = Attention(config, rngs=rngs, dtype=dtype)
        self.mlp_norm = norm()
        self.mlp = MLP(config, rngs=rngs, dtype=dtype)
        self.post_attn_norm = norm() if config.post_norms else _identity
        self.post_mlp_norm = norm() if config.post_norms else _identity

    def __call__(self, x, rotation, visible, cache=None):
        """The residual stream after this block, and the layer's `(keys, values)`."""
        attended, cache = self.attn(self.attn_norm(x), rotation, visible, cache)
        attended = self.post_attn_norm(attended)
        if self.parallel:
            return x + attended + self.mlp(self.mlp_norm(x)), cache
        x = x + attended
        return x + self.post_mlp_norm(self.mlp(self.mlp_norm(x))), cache


class Decoder(nnx.Module):
    """Token ids to next-token logits.

    Args:
        config: the shape of the model.
        rngs: randomness of the initial weights, N(0, init_std²); biases start at zero.
        dtype: of activations and matrix products; norms, softmax and logits are float32 or wider.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.config, self.dtype = config, jnp.dtype(dtype)
        shape = (config.vocab_size, config.width)
        normal = config.init_std * jax.random.normal(rngs.params(), shape, param_dtype)
        self.embedding = nnx.Param(normal)
        self.layers = nnx.List(
            [Block(config, rngs=rngs, dtype=param_dtype) for _ in range(config.num_layers)]
        )
        self.norm = Norm(config, config.width, dtype=param_dtype)
        head = functools.partial(Linear, *shape[::-1], False, config.init_std)
        self.head = None if config.tie_embeddings else head(rngs=rngs, dtype=param_dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        mask: Bool[Array, "B T"] | Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        remat: bool = False,
    ):
        """Logits `Float[B, T, V]`, or `(logits, cache)` when a cache is given; see `hidden`."""
        x = self.hidden(tokens, positions=positions, mask=mask, cache=cache, remat=remat)
        return self.unembed(x) if cache is None else (self.unembed(x[0]), x[1])

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        mask: Bool[Array, "B T"] | Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        remat: bool = False,
    ):
        """Final hidden states `Float[B, T, width]`, the input of `unembed`.

        Args:
            tokens: token ids.
            positions: rotary positions; by default they count from 0 in each segment.
            mask: true for real tokens, false for padding on either side. Integers mark several
                examples packed in a row: a token attends to earlier ones of its own number only.
            cache: earlier keys and values; the tokens are appended and `(hidden, cache)` returned.
            remat: recompute each block in the backward pass instead of storing its activations.

        Raises:
            ValueError: more tokens than `config.max_positions`.
        """
        config = self.config
        slots = tokens.shape[1] if cache is None else cache.segments.shape[1]
        if slots > config.max_positions:
            raise ValueError(
                f"{slots} tokens exceed the context of {config.max_positions} of this model"
            )
        segments = jnp.ones_like(tokens) if mask is None else mask.astype(jnp.int32)
        if positions is None:
            positions = _positions(segments, cache)
        visible = _visible(segments, cache)
        windowed = {w: visible[0] & (visible[1] < w) for w in set(config.windows) if w}
        rotations = {r: _rotation(r, positions) for r in {config.rope, config.local_rope} if r}

        x = self.embedding[...][tokens].astype(self.dtype)
        if config.scale_embeddings:
            x = x * jnp.asarray(config.width**0.5, self.dtype)
        layers = []
        for i, block in enumerate(self.layers):
            window = config.windows[i] if config.windows else None
            rope = config.rope if window is None else config.local_rope or config.rope
            layer = None if cache is None else (cache.keys[i], cache.values[i], cache.index)
            run = jax.checkpoint(block) if remat else block
            x, layer = run(x, rotations[rope], windowed[window] if window else visible[0], layer)
            layers.append(layer)
        x = self.norm(x)
        if cache is None:
            return x
        keys, values = zip(*layers, strict=True)
        return x, Cache(
            keys,
            values,
            _write(cache, segments),
            cache.lengths + jnp.sum(segments > 0, axis=1),
            cache.index + tokens.shape[1],
        )

    def unembed(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows V"]:
        """Logits of hidden states, accumulated and returned in float32 or wider."""
        table = self.embedding[...].T if self.head is None else self.head.kernel[...]
        logits = flat_matmul(x, table, preferred_element_type=_wide(x.dtype))
        if self.head is not None and self.head.delta is not None:
            logits = logits + self.head.delta(x).astype(logits.dtype)
        return _soft_cap(logits, self.config.logit_softcap)


def flat_matmul(x: Float[Array, "*rows inputs"], kernel: Float[Array, "inputs outputs"], **kwargs):
    """Product x W with all rows in one axis; the gradient of W is then one plain product.

    With two row axes XLA for CPUs transposes the incoming gradient first, which made the backward
    pass of an MLP take 1.7 times as long.
    """
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), **kwargs)
    return y.reshape(*x.shape[:-1], -1)


def rotate(x: Float[Array, "B T K D"], rotation) -> Float[Array, "B T K D"]:
    """Turn the pairs (i, i + dim/2) of each head by the angles of its position."""
    cos, sin = (part[:, :, None].astype(x.dtype) for part in rotation)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attend(q, k, v, visible, *, scale: float | None = None, softcap: float | None = None):
    """softmax(cap(q kᵀ · scale)) v over the visible keys, softmax in float32 or wider.

    Args:
        q: (B, T, H, D) queries.
        k: (B, K, S, D) keys.
        v: (B, K, S, D) values.
        visible: (B, T, S), true where a query may see a key.
        scale: D^-1/2 if None.
        softcap: c tanh(scores / c) if given (Gemma 2, arXiv:2408.00118).

    Returns:
        (B, T, H * D).
    """
    B, T, H, D = q.shape
    q = q.reshape(B, T, k.shape[1], -1, D)
    scores = jnp.einsum("btkgd,bksd->bkgts", q, k, preferred_element_type=_wide(q.dtype))
    scores = _soft_cap(scores * (D**-0.5 if scale is None else scale), softcap)
    # Every token sees itself, so no row is empty and the fill never becomes a probability.
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(scores.dtype).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    y = jnp.einsum(
        "bkgts,bksd->bkgtd", weights.astype(v.dtype), v, preferred_element_type=scores.dtype
    )
    # Dividing after the sum over values spares the backward pass a reduction over the keys.
    y = y / jnp.sum(weights, axis=-1, keepdims=True)
    return y.transpose(0, 3, 1, 2, 4).astype(v.dtype).reshape(B, T, H * D)


def _wide(dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _identity(x):
    return x


def _soft_cap(x: Array, cap: float | None) -> Array:
    return x if cap is None else cap * jnp.tanh(x / cap)


def _activate(name: str, x: Array) -> Array:
    return jax.nn.silu(x) if name == "silu" else jax.nn.gelu(x, approximate=name == "gelu_tanh")


def _rotation(rope: Rope, positions: Int[Array, "B T"]):
    """Cosines and sines (B, T, dim/2) of the rotary angles."""
    angles = positions[..., None].astype(jnp.float32) * rope.inverse_frequencies()[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def _positions(segments: Int[Array, "B T"], cache: Cache | None) -> Int[Array, "B T"]:
    """Distance from the start of the segment, plus the tokens in the cache."""
    slots = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
    changed = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    starts = jax.lax.cummax(jnp.where(changed, slots, 0), axis=1)
    return slots - starts + (0 if cache is None else cache.lengths[:, None])


def _visible(segments: Int[Array, "B T"], cache: Cache | None):
    """Which keys each query may see (B, T, S), and how many slots back each key is (1, T, S)."""
    first = 0 if cache is None else cache.index
    keys = segments if cache is None else _write(cache, segments)
    queries = first + jnp.arange(segments.shape[1])
    back = (queries[:, None] - jnp.arange(keys.shape[1])[None])[None]
    return (segments[:, :, None] == keys[:, None]) & (back >= 0), back


def _write(cache: Cache, segments: Int[Array, "B T"]) -> Int[Array, "B S"]:
    return jax.lax.dynamic_update_slice_in_dim(cache.segments, segments, cache.index, axis=1)
