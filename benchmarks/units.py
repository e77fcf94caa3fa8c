"""Units of work of our side, compiled and ready to be timed, and what the hardware can do."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from benchmarks.llm_shapes import Shape
from llm import engines, models, sampling
from llm.training import batches, finetune, lora, objectives, train


class Work(NamedTuple):
    """A function that does one unit of work and waits for it; what its programs cost to have."""

    run: Callable[[], Any]
    num_bytes: int  # of weights, state, batch and temporaries
    compile_seconds: float


def random_params(config: models.ModelConfig, dtype: Any, stacked: bool = False) -> models.Params:
    """Random weights made on the device leaf by leaf, without a program of the whole model."""
    form = models.stack_layers if stacked else lambda tree: tree
    abstract = jax.eval_shape(lambda: form(models.init(config, key=jax.random.key(0))))
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    made = [
        _scale(leaf.shape, dtype)
        if keystr(path).endswith("['scale']")
        else _normal(jax.random.key(i), leaf.shape, dtype)
        for i, (path, leaf) in enumerate(leaves)
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract), made)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scale(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.ones(shape, dtype)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return 0.02 * jax.random.normal(key, shape, dtype)


def make_train(
    shape: Shape, rank: int | None, *, bfloat16: bool, tokens: np.ndarray, stacked: bool = False
) -> Work:
    """One optimiser step on `tokens` [rows, length]: full fine-tuning, or LoRA of that rank."""
    config, dtype = shape.config, jnp.bfloat16 if bfloat16 else jnp.float32
    weights = dtype if rank else jnp.float32  # a LoRA base needs no master copy
    params = random_params(config, weights, stacked)
    settings = lora.LoraConfig(rank=rank or 1, alpha=float(rank or 1))
    if rank:
        student = objectives.lora_student(config, settings, dtype)
        frozen, params = params, lora.init(settings, params, key=jax.random.key(1))
    else:
        student, frozen = objectives.full_student(config, dtype), None
    optimizer = train.make_optimizer("adamw", 1e-4, clip_norm=1.0)
    limits = finetune.Limits(chunk=shape.chunk, remat=shape.remat)
    loss = objectives.completion_loss(student, **limits.of_loss(config))
    init = functools.partial(train.init_state, optimizer=optimizer)
    state = jax.jit(init, donate_argnums=0)(params)
    weighted = shape.weights()
    batch = {"tokens": jnp.asarray(tokens), "weights": jnp.asarray(weighted)}
    if shape.weighted:
        count = batches.most_weighted(weighted)
        batch["places"] = jnp.asarray(batches.places(weighted, count))
    key = jax.random.key(2)
    step = jax.jit(train.make_train_step(loss, optimizer), donate_argnums=0)
    compiled, seconds = compile_timed(step, state, batch, key, frozen)
    held = [state]

    def run() -> None:
        held[0], metrics = compiled(held[0], batch, key, frozen)
        float(metrics["loss"])

    return Work(run, program_bytes(compiled), seconds)


class Drawing(NamedTuple):
    """Sampling cut in two: reading all prompts, then one token after the other."""

    prefill: Work  # makes the state that `decode` uses up
    decode: Work


def make_drawing(shape: Shape, dtype: Any, prompts: np.ndarray, rank: int | None = None) -> Drawing:
    """The two programs of `sampling` on `prompts` [rows, length], with nothing that ends a row.

    Args:
        shape: the model and how much is drawn.
        dtype: of weights and computation.
        prompts: token ids.
        rank: of adapters beside the weights; None: there are none.
    """
    config, params = shape.config, random_params(shape.config, dtype)
    settings = None if rank is None else lora.LoraConfig(rank=rank, alpha=float(rank))
    adapters = settings and lora.init(settings, params, key=jax.random.key(1))
    weights = (params, adapters)
    programs = sampling.make_programs(functools.partial(engines.decoder, config, settings))
    choice = sampling.Choice(1.0, stop_tokens=np.full(1, -1, np.int32))
    tokens, mask = jnp.asarray(prompts), jnp.ones(prompts.shape, bool)
    keys = jax.random.split(jax.random.key(3), len(prompts))

    given = (weights, tokens, mask, keys, choice)
    first, first_seconds = compile_timed(programs.start, *given, shape.num_new, shape.num_new)
    state = first(*given)
    rest, rest_seconds = compile_timed(programs.proceed, weights, state, choice, np.int32(0))
    held = [state]

    def prefill() -> None:
        held[0] = first(*given)
        jax.block_until_ready(held[0].tokens)

    def decode() -> None:
        held[0] = rest(weights, held[0], choice, np.int32(0))
        if int(held[0].step) != shape.num_new:
            raise ValueError("sampling ended early")

    return Drawing(
        Work(prefill, program_bytes(first), first_seconds),
        Work(decode, program_bytes(rest), rest_seconds),
    )


def compile_timed(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """A jitted function compiled for these arguments, and the seconds that it took."""
    start = time.perf_counter()
    return function.lower(*args, **kwargs).compile(), time.perf_counter() - start


def program_bytes(compiled: Any) -> int:
    """What a compiled program holds at most: arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return used - memory.alias_size_in_bytes


def matmul_rate(bfloat16: bool, size: int) -> float:
    """Measured floating-point operations per second of one large matrix product."""
    # Random numbers: processors clock higher on constants.
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16 if bfloat16 else "float32")
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / best_time(lambda: product(a).block_until_ready())


def bandwidth(num_bytes: int) -> float:
    """Measured bytes per second of reading and writing an array of this size in place."""
    scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
    held = [jnp.ones(int(num_bytes) // 4, jnp.float32)]

    def run() -> None:
        held[0] = scale(held[0])
        held[0].block_until_ready()

    return 2 * num_bytes / best_time(run)


def best_time(run: Callable[[], Any], repeats: int = 10) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    run()
    return min(timed(run) for _ in range(repeats))


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
