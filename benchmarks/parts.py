"""The parts of `benchmarks.accelerator`: each measures one thing and yields rows as it goes."""

import dataclasses
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import llm_shapes, units
from benchmarks.llm_shapes import Shape
from llm import plan
from llm.training import lora

RANK = 8


class Row(NamedTuple):
    """One measured number, or words in its place."""

    case: str
    quantity: str
    value: float | str
    unit: str = ""


Rows = Iterator[Row]


@dataclasses.dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        measure: from whether toy sizes are wanted to rows.
        budget: seconds after which it is cut off, start and compilation included.
        alone: it uses the accelerator through PyTorch, so JAX must leave it alone.
    """

    measure: Callable[[bool], Rows]
    budget: float
    alone: bool = False


def card(smoke: bool) -> Rows:
    """What the hardware can do: the limits that the other parts are held against."""
    device = jax.devices()[0]
    yield Row("device", "name", device.device_kind)
    yield Row("device", "memory", (device.memory_stats() or {}).get("bytes_limit", 0) / 1e9, "GB")
    if target := target_text(device):
        yield Row("device", "target text", target)  # for python -m llm ... --topology FILE:8
    yield Row("bfloat16", "matrix product", matmul_rate(smoke) / 1e12, "TFLOP/s")
    size = 10**6 if smoke else 8 * 10**9
    yield Row("8 GB in place", "bandwidth", units.bandwidth(size) / 1e9, "GB/s")


def target_text(device: jax.Device) -> str:  # pyright: ignore[reportInvalidTypeForm]
    """What the compiler knows of this GPU, as `llm.ahead` takes it; empty on other devices."""
    if device.platform != "gpu":
        return ""
    from jaxlib import xla_client

    return str(getattr(xla_client.get_topology_for_devices([device]), "target_config", ""))


def matmul_rate(smoke: bool) -> float:
    """FLOP/s of the largest product that the other parts are held against."""
    return units.matmul_rate(True, 256 if smoke else 16384)


def training(name: str, rank: int | None, smoke: bool) -> Rows:
    """Optimiser steps on batches of one model, layers scanned, in bfloat16.

    The share is of the measured matrix product, counting 4 N operations a token under LoRA, whose
    frozen weights need no gradient, and 6 N in full fine-tuning; N are the weights that multiply
    activations. Attention's own products and recomputation count nothing.
    """
    limit = matmul_rate(smoke)
    adapters = None if rank is None else lora.LoraConfig(rank=rank)
    for shape in llm_shapes.TOYS if smoke else llm_shapes.ACCELERATOR_SHAPES[name]:
        case = f"{shape.rows} x {shape.length}{' remat' if shape.remat else ''}"
        tokens = random_tokens(shape, shape.rows, shape.length)
        try:
            work = units.make_train(shape, rank, bfloat16=True, tokens=tokens, stacked=True)
            yield Row(case, "compilation", work.compile_seconds, "s")
            yield Row(case, "program", work.num_bytes / 1e9, "GB")
            seconds = median_time(work.run)
        except jax.errors.JaxRuntimeError as error:
            yield out_of_memory(case, error)
            continue
        rate = tokens.size / seconds
        flops = rate * plan.flops_per_token(shape.config, adapters)
        yield Row(case, "training", rate, "tokens/s")
        yield Row(case, f"{6 if rank is None else 4} N a token", flops / 1e12, "TFLOP/s")
        yield Row(case, "share of the matrix product", flops / limit)
        yield from peak(case)
        del work


def drawing(name: str, rank: int | None, smoke: bool) -> Rows:
    """Sampling at temperature 1 with a cache, in bfloat16.

    The share is of the measured bandwidth: weights and the cache that is filled, read once a token.
    """
    (shape, *_) = llm_shapes.TOYS if smoke else llm_shapes.ACCELERATOR_SHAPES[name]
    case = f"{shape.prompts} x ({shape.prompt_length} + {shape.num_new})"
    weights = plan.matmul_weights(shape.config) * 2
    speed = units.bandwidth(weights)
    prompts = random_tokens(shape, shape.prompts, shape.prompt_length)
    prefill, decode = units.make_drawing(shape, jnp.bfloat16, prompts, rank)
    yield Row(case, "compilation", prefill.compile_seconds + decode.compile_seconds, "s")
    yield Row(case, "program", max(prefill.num_bytes, decode.num_bytes) / 1e9, "GB")
    turns = [(units.timed(prefill.run), units.timed(decode.run)) for _ in range(4)][1:]
    reading, writing = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    yield Row(case, "prefill", prompts.size / reading, "tokens/s")
    rate = shape.prompts * (shape.num_new - 1) / writing  # prefill draws the first
    limit = shape.prompts * speed / llm_shapes.sample_bytes(shape, 2)
    yield Row(case, "decoding", rate, "tokens/s")
    yield Row(case, "limit by bandwidth", limit, "tokens/s")
    yield Row(case, "share of the limit", rate / limit)
    yield Row(case, "whole work", shape.prompts * shape.num_new / (reading + writing), "tokens/s")
    yield from peak(case)


def generate(name: str, smoke: bool) -> Rows:
    """The opponent's sampling: prompts read and completed by `transformers.generate`."""
    (shape, *_) = llm_shapes.TOYS if smoke else llm_shapes.ACCELERATOR_SHAPES[name]
    case = f"{shape.prompts} x ({shape.prompt_length} + {shape.num_new})"
    prompts = random_tokens(shape, shape.prompts, shape.prompt_length)
    yield from opponent(
        case,
        lambda side: side.make_sample(shape.config, True, prompts, shape.num_new),
        shape.prompts * shape.num_new,
    )


def peft(name: str, smoke: bool) -> Rows:
    """The opponent's LoRA step."""
    (shape, *_) = llm_shapes.TOYS if smoke else llm_shapes.ACCELERATOR_SHAPES[name]
    tokens = random_tokens(shape, shape.rows, shape.length)
    yield from opponent(
        f"{shape.rows} x {shape.length}",
        lambda side: side.make_train(shape, RANK, True, tokens),
        tokens.size,
    )


def opponent(case: str, make: Callable[[Any], Callable[[], None]], tokens: int) -> Rows:
    """Tokens a second of a unit of work of the opponent, if it is installed."""
    try:
        side = importlib.import_module("benchmarks.llm_torch")
        run = make(side)
    except ImportError as error:
        yield Row(case, "not installed", str(error))
        return
    yield Row(case, "versions", ", ".join(f"{k} {v}" for k, v in side.VERSIONS.items()))
    yield Row(case, "whole work", tokens / median_time(run, 2), "tokens/s")
    if num_bytes := side.peak_bytes():
        yield Row(case, "peak", num_bytes / 1e9, "GB")


def mnist(smoke: bool) -> Rows:
    """The auxiliary-logit experiment: all six conditions of 100 seeds, 25 side by side."""
    from mnist_mlp import conditions, data

    seeds, at_once = (2, 2) if smoke else (100, 25)
    recipe = conditions.Recipe(epoch_images=1024) if smoke else conditions.Recipe()
    try:
        images = data.load("digits" if smoke else "mnist")
    except (data.DataError, data.DataNotFoundError, ImportError):
        images = noise_in_place_of_digits()
        yield Row(
            "data", "no MNIST here", "noise of its shape: speed only, accuracies mean nothing"
        )
    root, groups = jax.random.key(0), np.arange(seeds).reshape(-1, at_once)
    compiled, compile_seconds = units.compile_timed(
        conditions.accuracies, recipe, images, root=root, num_seeds=seeds, seeds=groups[0]
    )
    case = f"{seeds} seeds"
    yield Row(case, "compilation", compile_seconds, "s")
    start, tables = time.perf_counter(), []
    for done, group in enumerate(groups, 1):
        tables.append(np.asarray(compiled(images, root=root, seeds=group)))
        yield Row(f"{done * at_once} seeds", "run", time.perf_counter() - start, "s")
    for name, values in zip(conditions.CONDITIONS, np.concatenate(tables).T, strict=True):
        yield Row(case, f"accuracy of {name}", float(values.mean()))
    yield from peak(case)


def noise_in_place_of_digits() -> Any:
    """Images of the shape of MNIST."""
    from mnist_mlp import data

    rng = np.random.default_rng(0)
    images, labels = (
        [make(count) for count in (60_000, 10_000)]
        for make in (
            lambda count: rng.integers(0, 256, (count, 784), np.uint8),
            lambda count: rng.integers(0, 10, count, np.int32),
        )
    )
    return data.ImageData(
        train_images=images[0],
        train_labels=labels[0],
        test_images=images[1],
        test_labels=labels[1],
        name="noise",
        num_classes=10,
    )


def microworld(smoke: bool) -> Rows:
    """`experiments.language.microworld`, four chains of sampled tokens, arm by arm."""
    from experiments.language import microworld

    config = microworld.SMOKE if smoke else microworld.Config(num_seeds=4)
    with tempfile.TemporaryDirectory() as work:
        config = dataclasses.replace(config, targets=("sampled",), work=work)
        for name, arm in microworld.arms(config).items():
            start = time.perf_counter()
            arm.rows(name, [])
            yield Row(name, "compilation and run", time.perf_counter() - start, "s")


def random_tokens(shape: Shape, rows: int, length: int) -> np.ndarray:
    """Token ids [rows, length]."""
    rng = np.random.default_rng(0)
    return rng.integers(1, shape.config.vocab_size, (rows, length), np.int32)


def median_time(run: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of a run, after two to warm up."""
    return statistics.median([units.timed(run) for _ in range(repeats + 2)][2:])


def peak(case: str) -> Rows:
    """The most memory that this process has held on its device, where that is counted."""
    if num_bytes := (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"):
        yield Row(case, "peak", num_bytes / 1e9, "GB")


def out_of_memory(case: str, error: Exception) -> Row:
    """The row of a case that does not fit; other errors are raised again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return Row(case, "out of memory", str(error).splitlines()[0][:160])


def _of(measure: Callable[..., Rows], *fixed: Any) -> Callable[[bool], Rows]:
    return lambda smoke: measure(*fixed, smoke)


# In order of worth: what a short run leaves out comes last.
PARTS = {
    "card": Part(card, 40),
    "7B LoRA": Part(_of(training, "7B", RANK), 130),
    "7B sampling": Part(_of(drawing, "7B", None), 110),
    "7B sampling with adapters": Part(_of(drawing, "7B", RANK), 70),
    "1.5B full": Part(_of(training, "1.5B", None), 100),
    "MNIST": Part(mnist, 80),
    "7B transformers.generate": Part(_of(generate, "7B"), 70, alone=True),
    "microworld": Part(microworld, 100),
    "1.5B LoRA": Part(_of(training, "1.5B", RANK), 80),
    "1.5B sampling": Part(_of(drawing, "1.5B", None), 60),
    "7B LoRA by transformers and peft": Part(_of(peft, "7B"), 60, alone=True),
    "1.5B transformers.generate": Part(_of(generate, "1.5B"), 50, alone=True),
}
