"""The shape of a decoder as one hashable record."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding (arXiv:2104.09864) with its optional frequency scaling."""

    theta: float = 10_000.0
    dim: int = 64  # leading entries of each head that rotate; the rest pass through
    scaling: str = "default"  # or "linear", "llama3"
    factor: float = 1.0
    low_freq_factor: float = 1.0  # the last three are used by "llama3" only
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192

    def inverse_frequencies(self) -> np.ndarray:
        """Angle per position of each rotated pair, θ^(-2i/dim) before scaling; shape (dim/2,)."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        frequencies = (1.0 / np.float32(self.theta) ** exponents).astype(np.float32)
        if self.scaling == "default":
            return frequencies
        slowed = frequencies / np.float32(self.factor)
        if self.scaling == "linear":
            return slowed
        # Llama 3.1: long wavelengths are stretched, short ones kept, a linear ramp between.
        turns = self.original_max_positions * frequencies / np.float32(2 * math.pi)
        ramp = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = np.clip(ramp, 0.0, 1.0).astype(np.float32)
        return (1 - kept) * slowed + kept * frequencies


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the computation of a decoder; hashable, so it can key a cache.

    The family only says how the model is read and written (`families/`); what its decoders have
    in common stands here field by field.
    """

    family: str = "llama"
    vocab_size: int = 256
    width: int = 32
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 8
    mlp_width: int = 128
    max_positions: int = 2048
    rope: Rope = Rope(dim=8)
    local_rope: Rope | None = None  # for layers with a window, where they differ (Gemma 3)
    windows: tuple[int | None, ...] = ()  # tokens that a query sees, per layer; None: all
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    activation: str = "silu"  # or "gelu", "gelu_tanh"
    attention_scale: float | None = None  # None: head_dim^-1/2
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    scale_embeddings: bool = False  # by √width (Gemma)
    layer_norm: bool = False  # LayerNorm with bias instead of RMS norm (GPT-NeoX)
    norm_offset: float = 0.0  # norm scales are stored minus this (Gemma)
    fused_qkv: bool = False  # one matrix, head by head (query, key, value) (GPT-NeoX)
    gated_mlp: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMS norm of each query and key head (Qwen3, Gemma 3)
    post_norms: bool = False  # norms after attention and MLP too (Gemma 2 and 3)
    parallel: bool = False  # attention and MLP read the same residual (GPT-NeoX)
    init_std: float = 0.02
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) is not a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(
                f"windows has {len(self.windows)} entries for {self.num_layers} layers"
            )
