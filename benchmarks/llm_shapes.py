"""The models that are measured, and what their steps cost at least."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from llm import models, plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A model with the batches it is measured on."""

    name: str
    config: models.ModelConfig
    rows: int  # training batch
    length: int  # tokens per row
    chunk: int | None  # positions whose logits exist at a time in training; None: by their size
    prompts: int  # sampling batch
    prompt_length: int
    num_new: int  # tokens drawn per prompt
    remat: bool = False  # recompute each block in the backward pass
    weighted: int | None = None  # last tokens of a row that are trained on; None: all of them
    stacked: bool = False  # layers as one stack, as `finetune` trains deep models

    def weights(self) -> Float[np.ndarray, "rows length"]:
        """1 for every token that is trained on."""
        last = np.arange(self.length) >= self.length - (self.weighted or self.length)
        return np.tile(last.astype(np.float32), (self.rows, 1))


def _qwen(**sizes: Any) -> models.ModelConfig:
    """The layout of Qwen2.5; the sizes are those of its published config.json files."""
    return models.ModelConfig(
        family="qwen2",
        head_dim=128,
        max_positions=32768,
        rope=models.Rope(theta=1e6, dim=128),
        qkv_bias=True,
        **sizes,
    )


TOY = models.ModelConfig(
    vocab_size=512,
    width=64,
    num_layers=1,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    mlp_width=128,
    rope=models.Rope(dim=16),
)
SMALL = models.ModelConfig(
    vocab_size=8192,
    width=384,
    num_layers=9,
    num_heads=6,
    num_kv_heads=6,
    head_dim=64,
    mlp_width=1536,
    rope=models.Rope(dim=64),
)
# The sizes of SmolLM2-135M's published config.json.
SMOL = models.ModelConfig(
    vocab_size=49152,
    width=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_width=1536,
    rope=models.Rope(theta=1e5, dim=64),
    tie_embeddings=True,
)
LARGE = _qwen(
    vocab_size=151936,
    width=1536,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    mlp_width=8960,
    tie_embeddings=True,
)
LARGER = _qwen(
    vocab_size=152064,
    width=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    mlp_width=18944,
    tie_embeddings=False,
)

TOYS = (
    Shape(
        name="toy",
        config=TOY,
        rows=2,
        length=32,
        chunk=None,
        prompts=4,
        prompt_length=16,
        num_new=8,
    ),
)
CPU_SHAPES = (
    Shape(
        name="25M",
        config=SMALL,
        rows=8,
        length=128,
        chunk=None,
        prompts=32,
        prompt_length=32,
        num_new=64,
    ),
    Shape(  # rows as of number lists behind a template
        name="SmolLM2-135M",
        config=SMOL,
        rows=8,
        length=96,
        chunk=None,
        prompts=64,
        prompt_length=64,
        num_new=32,
        weighted=36,
        stacked=True,
    ),
)
# Training on a GPU: rows as short as those of number lists, then the length of published runs,
# 8192 tokens a step. The last needs less memory, for cards on which the others do not fit.
_BATCHES = ((64, 128, False), (2, 4096, False), (2, 4096, True))
ACCELERATOR_SHAPES = {
    name: tuple(
        Shape(
            name=name,
            config=config,
            rows=rows,
            length=length,
            chunk=None,
            prompts=256,
            prompt_length=128,
            num_new=128,
            remat=remat,
        )
        for rows, length, remat in _BATCHES
    )
    for name, config in (("1.5B", LARGE), ("7B", LARGER))
}


def train_flops(shape: Shape, rank: int | None) -> float:
    """Useful floating-point operations of one step; recomputation counts nothing.

    Per token 2 per weight forward, 2 for the gradient of the input and, in full fine-tuning, 2
    for that of the weight; causal attention adds 2 · length · heads · head_dim per layer and
    pass (Chowdhery et al. 2022, arXiv:2204.02311, appendix B, halved for causality).
    """
    config = shape.config
    attention = 2 * shape.length * config.num_heads * config.head_dim * config.num_layers
    passes = 2 if rank else 3
    head = config.vocab_size * config.width  # at the tokens that are trained on
    per_token = 2 * passes * (plan.matmul_weights(config) - head) + 3 * attention
    per_row = per_token * shape.length + 2 * passes * head * (shape.weighted or shape.length)
    return float(per_row * shape.rows)


def cache_bytes(shape: Shape, item: int, tokens: float | None = None) -> int:
    """Keys and values of the whole batch at `tokens` per row, by default when full."""
    tokens = shape.prompt_length + shape.num_new if tokens is None else tokens
    return int(plan.cache_bytes_per_token(shape.config, item) * tokens * shape.prompts)


def sample_bytes(shape: Shape, item: int) -> float:
    """Memory traffic of one decoding step: all weights once, and the cache half way through."""
    return plan.matmul_weights(shape.config) * item + cache_bytes(
        shape, item, shape.prompt_length + shape.num_new / 2
    )
