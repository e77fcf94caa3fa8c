"""Memory, operations and hours of a model, from its config alone: before anything is loaded.

    memory = plan.training(config, how, length=192, axes=(1, 8, 1))
    memory.total / 1e9, memory.fits(80e9)
    plan.train_flops(config, how) * tokens / rates.flops

The counts are those of the programs here: layers scanned, logits in chunks, float32 masters. They
are quick; `llm.ahead` asks the compiler.
"""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import models
from .models import ModelConfig
from .settings import RunError
from .training import Training, lora
from .training.finetune import Limits

CARDS = (24e9, 80e9, 141e9)  # bytes of one device: a workstation, an H100, an H200
POOL = 0.75  # share of a GPU's memory that JAX takes, unless told (XLA_CLIENT_MEM_FRACTION)


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
        parameters: of the model, adapters and a teacher.
        optimiser: moments of what is trained.
        gradients: of what is trained.
        activations: kept for the backward pass, or of one layer where nothing is.
        cache: keys and values.
        logits: as many as exist at a time, with their gradients in training.
        gathered: weights of other devices, for as long as they are needed.
        loaded: parameters as they were read, where what is trained is a copy of them.
    """

    parameters: float
    optimiser: float = 0.0
    gradients: float = 0.0
    activations: float = 0.0
    cache: float = 0.0
    logits: float = 0.0
    gathered: float = 0.0
    loaded: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)

    def fits(self, num_bytes: float | int) -> bool:
        """Whether a GPU of that memory takes it, by the share that JAX has of it."""
        return self.total <= POOL * num_bytes


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


def kept_bytes(config: ModelConfig, item: int, *, tensor: int = 1, fused: bool = True) -> float:
    """Bytes a token that the backward pass of one scanned layer keeps: results of its products.

    The residual stream and what attention adds to it, queries, keys and values, gate and up, and
    the output of attention: its own kernel's, or in float32 before the division.
    """
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    attended = queries * item + 4 * config.num_heads if fused else 4 * queries
    # Over the tensor axis heads are split, or rows where heads do not divide.
    split = (
        item * (queries + 2 * keys) + attended + (1 + config.gated_mlp) * config.mlp_width * item
    )
    return float(2 * config.width * item + split / tensor)


def products_bytes(config: ModelConfig, item: int) -> float:
    """Bytes a token of the results of one layer's seven products."""
    attention = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim + config.width
    mlp = (1 + config.gated_mlp) * config.mlp_width + config.width
    return float(item * (attention + mlp))


def training(
    config: ModelConfig,
    how: Training,
    *,
    length: int,
    weighted: int | None = None,
    limits: Limits | None = None,
    axes: tuple[int, int, int] = (1, 1, 1),
    fused: bool = True,
    soft: bool = False,
    base: str = "bfloat16",
) -> Memory:
    """Memory of a training step on one device.

    Args:
        config: the shape of the model.
        how: batch size, optimiser, adapters and dtype of the computation.
        length: tokens of a row.
        weighted: of them, those that are trained on; None for all.
        limits: how it is fitted into memory.
        axes: devices on the data, fsdp and tensor axes.
        fused: as compilers for accelerators do: attention stores no scores, and what an adapter
            adds is not kept beside the product that it is added to. Those for CPUs keep both.
        soft: a teacher's weights lie beside.
        base: dtype of the loaded parameters.
    """
    limits, (data, fsdp, tensor) = limits or Limits(), axes
    item, rows = jnp.dtype(how.dtype).itemsize, how.batch_size // limits.accumulate
    rows = max(rows / (data * fsdp), 1)
    numbers, split = count(config), fsdp * tensor
    trained = numbers if how.adapters is None else adapter_count(config, how.adapters)
    frozen = 0 if how.adapters is None else numbers * item
    moments = {"sgd": 0, "momentum": 1}.get(how.optimizer, 2)
    kept = kept_bytes(config, item, tensor=tensor, fused=fused)
    layers = config.num_layers * (config.width * item if limits.remat else kept)
    scores = 0 if fused else 3 * 4 * config.num_heads * length
    if not fused and how.adapters is not None:
        layers += config.num_layers * products_bytes(config, item)
    head, table = config.vocab_size * config.width, config.vocab_size / tensor
    positions = limits.of_loss(config)["chunk"]
    positions = min(max(positions, rows), rows * min(weighted or length, length))
    # Weights are gathered a layer at a time, the next one beside it, and the head.
    layer = (matmul_weights(config) - head) / config.num_layers
    gathered = 0 if fsdp == 1 else item * (2 * layer + head) / tensor
    # The sum over microbatches is a second gradient.
    gradients = 4.0 * trained * (1 if limits.accumulate == 1 else 2) / split
    teacher = numbers * item if soft else 0
    # Full training changes a copy; adapters are trained beside what was loaded.
    loaded = numbers * jnp.dtype(base).itemsize if how.adapters is None else 0
    return Memory(
        parameters=(frozen + teacher + 4.0 * trained) / split,
        loaded=loaded / split,
        optimiser=4.0 * moments * trained / split,
        gradients=gradients,
        activations=rows * length * (layers + scores + limits.remat * kept),
        gathered=gathered,
        logits=(4.0 + 4.0 + item) * positions * table,
    )


def sampling(
    config: ModelConfig,
    rows: int,
    *,
    slots: int,
    dtype: str = "bfloat16",
    prompt: int = 1,
    axes: tuple[int, int, int] = (1, 1, 1),
) -> Memory:
    """Memory of sampling `rows` completions side by side, on one device.

    Args:
        config: the shape of the model.
        rows: of a batch.
        slots: of the cache: longest prompt and completion.
        dtype: of parameters and cache.
        prompt: tokens of the longest prompt, which is read at once.
        axes: devices on the data, fsdp and tensor axes.
    """
    data, fsdp, tensor = axes
    item, rows_here = jnp.dtype(dtype).itemsize, rows / (data * fsdp)
    working = 3 * config.mlp_width / tensor + 2 * config.width
    return Memory(
        parameters=float(count(config) * item / (fsdp * tensor)),
        activations=float(rows_here * prompt * item * working),
        cache=float(rows_here * slots * cache_bytes_per_token(config, item) / tensor),
        logits=3 * 4.0 * rows_here * config.vocab_size,
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
