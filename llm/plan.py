"""Memory, operations and hours of a model, from its config alone: before anything is loaded.

    memory = plan.training(config, how, rows=66, length=192)
    memory.total / 1e9, memory.fits(80e9)
    plan.train_flops(config, how) * tokens / rates.flops

The counts are those of the programs here: layers scanned, logits in chunks, float32 masters. What
XLA needs beyond them for a short time is in `SPARE`.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import lora, models
from .finetune import Limits
from .models import ModelConfig
from .settings import RunError
from .training import Training

CARDS = (24e9, 80e9, 141e9)  # bytes of one device: a workstation, an H100, an H200
SPARE = 0.92  # share of a device's memory that a program can have


class Memory(NamedTuple):
    """Bytes on the devices together.

    Attributes:
        parameters: of the model, and adapters.
        optimiser: moments of what is trained.
        gradients: of what is trained.
        activations: kept for the backward pass, or of one layer where nothing is.
        cache: keys and values.
        logits: as many as exist at a time, with their gradients in training.
    """

    parameters: float
    optimiser: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)

    def fits(self, num_bytes: float | int) -> bool:
        """Whether a device of that memory takes it."""
        return self.total <= SPARE * num_bytes


class Rates(NamedTuple):
    """What a machine achieves, not what its maker promises."""

    flops: float  # operations a second in training, counted as 4 N or 6 N a token
    bandwidth: float  # bytes a second of weights and cache in sampling


@functools.lru_cache
def _shapes(config: ModelConfig) -> Any:
    """The tree of parameters as shapes; traced for one layer, the others are like it."""
    one = dataclasses.replace(config, num_layers=1, windows=config.windows[:1])
    tree = jax.eval_shape(lambda: models.init(one, key=jax.random.key(0)))
    return tree | {"layers": dict.fromkeys(range(config.num_layers), tree["layers"][0])}


def count(config: ModelConfig) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(_shapes(config)))


def matmul_weights(config: ModelConfig) -> int:
    """Weights that multiply activations, N: all kernels, and the head (tied or not)."""
    layers = jax.tree.leaves(_shapes(config)["layers"])
    kernels = sum(leaf.size for leaf in layers if leaf.ndim == 2)
    return kernels + config.vocab_size * config.width


@functools.lru_cache
def adapter_count(config: ModelConfig, settings: lora.LoraConfig) -> int:
    """Number of trained parameters of LoRA."""
    init = functools.partial(lora.init, settings, key=jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, _shapes(config))))


def flops_per_token(config: ModelConfig, adapters: lora.LoraConfig | None) -> float:
    """Training by the usual count: 6 N a token, or 4 N where N frozen weights get no gradient."""
    return (6.0 if adapters is None else 4.0) * matmul_weights(config)


def kept_bytes(config: ModelConfig, item: int, length: int, fused: bool) -> float:
    """Bytes a token that the backward pass of one layer keeps, as JAX lists them under LoRA.

    Each of two norms its input in float32 and its output; attention the rotated queries and keys,
    the values, its output, and that in float32 before the division; without a fused kernel also
    the mask, the scores and their exponentials of every head; the MLP six arrays, three for SiLU.
    """
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    norms = 2 * config.width * (4 + item)
    attention = item * (2 * queries + 2 * keys) + 4 * queries
    scores = 0 if fused else config.num_heads * length * (1 + 4 + 4)
    return float(norms + attention + scores + 6 * config.mlp_width * item)


def training(
    config: ModelConfig,
    how: Training,
    *,
    length: int,
    limits: Limits | None = None,
    fused: bool = True,
    base: str = "bfloat16",
) -> Memory:
    """Memory of a training step.

    Args:
        config: the shape of the model.
        how: batch size, optimiser, adapters and dtype of the computation.
        length: tokens of a row.
        limits: how it is fitted into memory.
        fused: attention by a kernel that stores no scores.
        base: dtype of parameters under adapters.
    """
    limits = limits or Limits()
    item, rows = jnp.dtype(how.dtype).itemsize, how.batch_size // limits.accumulate
    trained = count(config) if how.adapters is None else adapter_count(config, how.adapters)
    frozen = 0 if how.adapters is None else count(config) * jnp.dtype(base).itemsize
    moments = {"sgd": 0}.get(how.optimizer, 2)
    kept = kept_bytes(config, item, length, fused)
    layers = config.num_layers * (config.width * item if limits.remat else kept)
    positions = rows * min(limits.chunk or length, length)
    # The sum over microbatches is a second gradient.
    gradients = 4.0 * trained * (1 if limits.accumulate == 1 else 2)
    return Memory(
        parameters=frozen + 4.0 * trained,
        optimiser=4.0 * moments * trained,
        gradients=gradients,
        activations=rows * length * (layers + (kept if limits.remat else 0)),
        logits=2 * 4.0 * positions * config.vocab_size,
    )


def sampling(
    config: ModelConfig, rows: int, *, slots: int, dtype: str = "bfloat16", prompt: int = 1
) -> Memory:
    """Memory of sampling `rows` completions side by side.

    Args:
        config: the shape of the model.
        rows: of a batch.
        slots: of the cache: longest prompt and completion.
        dtype: of parameters and cache.
        prompt: tokens of the longest prompt, which is read at once.
    """
    item = jnp.dtype(dtype).itemsize
    return Memory(
        parameters=float(count(config) * item),
        activations=float(rows * prompt * item * (3 * config.mlp_width + 2 * config.width)),
        cache=float(rows * slots * cache_bytes_per_token(config, item)),
        logits=3 * 4.0 * rows * config.vocab_size,
    )


def cache_bytes_per_token(config: ModelConfig, item: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * item


def sampling_seconds(
    config: ModelConfig,
    rates: Rates,
    *,
    prompts: float | int,
    drawn: float | int,
    rows: int,
    length: float | int,
) -> float:
    """Seconds of reading prompts and drawing tokens.

    Args:
        config: the shape of the model.
        rates: of the machine.
        prompts: tokens read.
        drawn: tokens drawn.
        rows: side by side; each step reads all weights and the cache once.
        length: tokens of a row that a step finds in the cache, on average.
    """
    weights = matmul_weights(config)
    step = 2 * weights + rows * length * cache_bytes_per_token(config, 2)
    return prompts * 2 * weights / rates.flops + drawn / rows * step / rates.bandwidth


def measured(path: str | Path) -> Rates:
    """The rates in a file of `benchmarks.accelerator`.

    Raises:
        RunError: it lacks a training or a sampling that ran to its end.
    """
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    of = {"training": [], "bandwidth": [], "share of the limit": []}
    for row in lines:
        name = "training" if row["quantity"].endswith("N a token") else row["quantity"]
        if name in of:
            of[name].append(float(row["value"]))
    if not all(of.values()):
        missing = ", ".join(name for name, values in of.items() if not values)
        raise RunError(f"{path} has no {missing}: run python -m benchmarks.accelerator longer")
    share = max(of["share of the limit"]) * max(of["bandwidth"])
    return Rates(max(of["training"]) * 1e12, share * 1e9)


def rates_of(text: str) -> Rates:
    """Rates from "4e14,3e12" (operations, bytes a second) or from a benchmark's file.

    Raises:
        RunError: it is neither.
    """
    if Path(text).is_file():
        return measured(text)
    try:
        flops, bandwidth = map(float, text.split(","))
        if not (0 < flops < math.inf and 0 < bandwidth < math.inf):
            raise ValueError
    except ValueError:
        raise RunError(
            f"rates {text!r}: neither a file of benchmarks.accelerator nor two numbers, operations "
            "and bytes a second, as in 4e14,3e12"
        ) from None
    return Rates(flops, bandwidth)


def describe(memory: Memory) -> str:
    """The parts in GB, and which cards take them."""
    parts = [f"{name} {size / 1e9:.2f}" for name, size in memory._asdict().items() if size]
    cards = ", ".join(
        f"{size / 1e9:.0f} GB {'yes' if memory.fits(size) else 'no'}" for size in CARDS
    )
    return f"{memory.total / 1e9:.2f} GB ({', '.join(parts)}); fits {cards}"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What is still to be done.

    Attributes:
        tokens: trained on, read or drawn.
        flops: operations.
        seconds: at given rates; None without them.
        memory: on the devices together.
    """

    tokens: float = 0.0
    flops: float = 0.0
    seconds: float | None = None
    memory: Memory | None = None
