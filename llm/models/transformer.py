"""One decoder for every supported family: the config decides which parts are present.

Shapes: B rows, T tokens, S key slots, D head width, V tokens of the vocabulary.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from .. import sharding
from . import attention
from .attention import PRODUCT, Attend, Cache, Sight, soft_cap, wide
from .config import ModelConfig, Rope
from .stacking import layer_of


class Linear(nnx.Module):
    """x W + b. `delta`, where set, is a module of x whose output is added (LoRA)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, std: float, rngs, dtype):
        kernel = std * jax.random.normal(rngs.params(), (inputs, outputs), dtype)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros((outputs,), dtype)) if bias else None
        self.delta = None

    def __call__(self, x: Float[Array, "B T inputs"]) -> Float[Array, "B T outputs"]:
        """The affine map, in the dtype of x."""
        y = flat_matmul(x, self.kernel[...])
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None, None]
        return checkpoint_name(y if self.delta is None else y + self.delta(x), PRODUCT)


class Norm(nnx.Module):
    """RMS norm, or LayerNorm with bias, over the last axis in float32 or wider."""

    def __init__(self, config: ModelConfig, width: int, *, dtype):
        self.eps = config.norm_eps
        self.offset = config.norm_offset
        self.scale = nnx.Param(jnp.full((width,), 1.0 - self.offset, dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype)) if config.layer_norm else None

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """The normalised x, in its own dtype."""
        z = x.astype(wide(x.dtype))
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
            self.qkv = linear(config.width, q_width + 2 * kv_width, bias=config.qkv_bias)
        else:
            self.q = linear(config.width, q_width, bias=config.qkv_bias)
            self.k = linear(config.width, kv_width, bias=config.qkv_bias)
            self.v = linear(config.width, kv_width, bias=config.qkv_bias)
        self.o = linear(q_width, config.width, bias=config.out_bias)
        if config.qk_norm:
            self.q_norm = Norm(config, config.head_dim, dtype=dtype)
            self.k_norm = Norm(config, config.head_dim, dtype=dtype)

    def __call__(self, x: Float[Array, "B T width"], sight: Sight, attend: Attend, cache=None):
        """Output and `(keys, values)`; given the layer's `(keys, values, index)`, these grow."""
        config = self.config
        heads = (*x.shape[:2], -1, config.head_dim)
        if config.fused_qkv:
            fused = sharding.to_attention(self.qkv(x), config.num_kv_heads)
            fused = fused.reshape(*x.shape[:2], config.num_heads, 3 * config.head_dim)
            q, k, v = jnp.split(fused, 3, axis=-1)
        else:
            q, k, v = (
                sharding.to_attention(linear(x), config.num_kv_heads).reshape(heads)
                for linear in (self.q, self.k, self.v)
            )
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = attention.rotate(q, sight.rotation), attention.rotate(k, sight.rotation)
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if cache is not None:
            keys, values, index = cache
            k = jax.lax.dynamic_update_slice_in_dim(keys, k, index, axis=2)
            v = jax.lax.dynamic_update_slice_in_dim(values, v, index, axis=2)
        attended = attend(q, k, v=v, visible=sight.visible)
        return self.o(sharding.constrain(attended, sharding.FEATURES)), (k, v)


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
    """Attention and MLP around a residual stream, one after the other or in parallel.

    `drop`, where set, is a module of what a branch adds and of the branch's number (dropout).
    """

    def __init__(self, config: ModelConfig, *, rngs, dtype):
        norm = functools.partial(Norm, config, config.width, dtype=dtype)
        self.parallel = config.parallel
        self.attn_norm = norm()
        self.attn = Attention(config, rngs=rngs, dtype=dtype)
        self.mlp_norm = norm()
        self.mlp = MLP(config, rngs=rngs, dtype=dtype)
        self.post_attn_norm = norm() if config.post_norms else _identity
        self.post_mlp_norm = norm() if config.post_norms else _identity
        self.drop = None

    def __call__(self, x: Float[Array, "B T width"], sight: Sight, attend: Attend, cache=None):
        """The residual stream after this block, and the layer's `(keys, values)`."""
        attended, cache = self.attn(self.attn_norm(x), sight, attend, cache)
        drop = _first if self.drop is None else self.drop
        attended = drop(self.post_attn_norm(attended), 0)
        if self.parallel:
            return x + attended + drop(self.mlp(self.mlp_norm(x)), 1), cache
        x = x + attended
        return x + drop(self.post_mlp_norm(self.mlp(self.mlp_norm(x))), 1), cache


class Decoder(nnx.Module):
    """Token ids to next-token logits.

    Args:
        config: the shape of the model.
        rngs: randomness of the initial weights, N(0, init_std²); biases start at zero.
        dtype: of activations and matrix products; norms, softmax and logits are float32 or wider.
        param_dtype: of the parameters.
        stacked: hold one block whose parameters have a leading axis of layers (`stacking`).
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        stacked: bool = False,
    ):
        self.config, self.dtype = config, jnp.dtype(dtype)
        shape = (config.vocab_size, config.width)
        normal = config.init_std * jax.random.normal(rngs.params(), shape, param_dtype)
        self.embedding = nnx.Param(normal)
        block = functools.partial(Block, config, rngs=rngs, dtype=param_dtype)
        self.layers = block() if stacked else nnx.List([block() for _ in range(config.num_layers)])
        self.norm = Norm(config, config.width, dtype=param_dtype)
        head = functools.partial(Linear, *shape[::-1], bias=False, std=config.init_std)
        self.head = None if config.tie_embeddings else head(rngs=rngs, dtype=param_dtype)

    def __call__(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        mask: Bool[Array | np.ndarray, "B T"] | Int[Array | np.ndarray, "B T"] | None = None,
        cache: Cache | None = None,
        remat: bool = False,
        implementation: str | None = None,
    ):
        """Logits `Float[B, T, V]`, or `(logits, cache)` when a cache is given; see `hidden`."""
        x = self.hidden(
            tokens,
            positions=positions,
            mask=mask,
            cache=cache,
            remat=remat,
            implementation=implementation,
        )
        return self.unembed(x) if cache is None else (self.unembed(x[0]), x[1])

    def hidden(
        self,
        tokens: Int[Array | np.ndarray, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        mask: Bool[Array | np.ndarray, "B T"] | Int[Array | np.ndarray, "B T"] | None = None,
        cache: Cache | None = None,
        remat: bool = False,
        implementation: str | None = None,
    ):
        """Final hidden states `Float[B, T, width]`, the input of `unembed`.

        Args:
            tokens: token ids.
            positions: rotary positions; by default they count from 0 in each segment.
            mask: true for real tokens, false for padding on either side. Integers mark several
                examples packed in a row: a token attends to earlier ones of its own number only.
            cache: earlier keys and values; the tokens are appended and `(hidden, cache)` returned.
            remat: recompute each block in the backward pass instead of storing its activations.
            implementation: of attention, see `attention.attend`.

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
            positions = attention.token_positions(segments, cache)
        visible, back = attention.visible_keys(segments, cache)
        kinds = _kinds(config)
        sights = {
            (rope, window): Sight(
                attention.rotation(rope, positions),
                visible & (back < window) if window else visible,
            )
            for rope, window in dict.fromkeys(kinds)
        }
        attend = functools.partial(
            attention.attend,
            scale=config.attention_scale,
            softcap=config.attention_softcap,
            causal=mask is None and cache is None and not config.windows,
            implementation=implementation,
        )
        x = sharding.constrain(self.embedding[...][tokens].astype(self.dtype))
        if config.scale_embeddings:
            x = x * jnp.asarray(config.width**0.5, self.dtype)
        if cache is None and isinstance(self.layers, Block):
            order = [list(sights).index(kind) for kind in kinds]
            return self.norm(
                self._scan(x, list(sights.values()), order=order, attend=attend, remat=remat)
            )
        layers = []
        for i, (block, kind) in enumerate(zip(self._blocks(), kinds, strict=True)):
            layer = None if cache is None else (cache.keys[i], cache.values[i], cache.index)
            run = functools.partial(block, attend=attend)
            x, layer = (jax.checkpoint(run) if remat else run)(x, sights[kind], cache=layer)
            x = sharding.constrain(x)
            layers.append(layer)
        x = self.norm(x)
        if cache is None:
            return x
        keys, values = zip(*layers, strict=True)
        return x, Cache(
            keys,
            values,
            attention.write_segments(cache, segments),
            cache.lengths + jnp.sum(segments > 0, axis=1),
            cache.index + tokens.shape[1],
        )

    def _scan(
        self,
        x: Float[Array, "B T width"],
        sights: list[Sight],
        *,
        order: list[int],
        attend: Attend,
        remat: bool,
    ) -> Float[Array, "B T width"]:
        """The residual stream after all stacked layers; layer l has the sight `order[l]`."""
        graphdef, stacked = nnx.split(self.layers)

        def layer(x, inputs):
            state, kind = inputs
            sight = jax.tree.map(lambda *options: jax.lax.select_n(kind, *options), *sights)
            x = nnx.merge(graphdef, state)(sharding.constrain(x), sight, attend)[0]
            return sharding.constrain(x), None

        run = jax.checkpoint(layer, prevent_cse=False, policy=None if remat else _keeps)
        return jax.lax.scan(run, x, (stacked, jnp.asarray(order)))[0]

    def _blocks(self) -> list[Block]:
        """One module per layer, however they are held."""
        if not isinstance(self.layers, Block):
            return list(self.layers)
        graphdef, stacked = nnx.split(self.layers)
        return [nnx.merge(graphdef, layer_of(stacked, i)) for i in range(self.config.num_layers)]

    def table(self) -> Float[Array, "first second"]:
        """The weights of `unembed` as they are held, gathered once for many calls of it."""
        if self.head is None:
            return sharding.gathered(self.embedding[...], P("tensor"))
        return sharding.gathered(self.head.kernel[...], P(None, "tensor"))

    def unembed(
        self, x: Float[Array, "*rows width"], table: Float[Array, "first second"] | None = None
    ) -> Float[Array, "*rows V"]:
        """Logits of hidden states, accumulated and returned in float32 or wider.

        Args:
            x: hidden states.
            table: `self.table()`, if it is called many times.
        """
        if table is None:
            table = self.embedding[...] if self.head is None else self.head.kernel[...]
        table = table.T if self.head is None else table
        logits = (flat_matmul if x.dtype == wide(x.dtype) else _wide_product)(x, table)
        if self.head is not None and self.head.delta is not None:
            logits = logits + self.head.delta(x).astype(logits.dtype)
        return soft_cap(logits, self.config.logit_softcap)


def flat_matmul(x: Float[Array, "*rows inputs"], kernel: Float[Array, "inputs outputs"], **kwargs):
    """Product x W with all rows in one axis; the gradient of W is then one plain product.

    With two row axes XLA for CPUs transposes the incoming gradient first, which made the backward
    pass of an MLP take 1.7 times as long.
    """
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel.astype(x.dtype), **kwargs)
    return y.reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _wide_product(x: Float[Array, "*rows width"], table: Float[Array, "width V"]):
    """X W of a narrow dtype, accumulated in float32; gradients are products of the narrow one."""
    return flat_matmul(x, table, preferred_element_type=wide(x.dtype))


def _wide_product_forward(x, table):
    return _wide_product(x, table), (x, table)


def _wide_product_backward(kept, gradient):
    x, table = kept
    narrow = gradient.astype(x.dtype)
    flat, rows = (y.reshape(-1, y.shape[-1]) for y in (x, narrow))
    of_table = jnp.matmul(flat.T, rows, preferred_element_type=table.dtype)
    return flat_matmul(narrow, table.T), of_table


_wide_product.defvjp(_wide_product_forward, _wide_product_backward)


def _keeps(primitive, *_, **params) -> bool:
    """What the backward pass of a layer keeps: results of products; all else is made again.

    What lies between two products is cheap to make and twice as large as they are: the MLP keeps
    two arrays in the place of six, norms none. It costs no product.
    """
    if primitive.name == "name":
        return params["name"] == PRODUCT
    return "attention_fwd" in primitive.name


def _identity(x):
    return x


def _first(x, _):
    return x


def _activate(name: str, x: Array) -> Array:
    return jax.nn.silu(x) if name == "silu" else jax.nn.gelu(x, approximate=name == "gelu_tanh")


def _kinds(config: ModelConfig) -> list[tuple[Rope, int | None]]:
    """Rotary embedding and window of each layer."""
    windows = config.windows or (None,) * config.num_layers
    return [(config.rope if w is None else config.local_rope or config.rope, w) for w in windows]
