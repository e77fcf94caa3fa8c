"""Fine-tune one model of any size: examples in, trained parameters out, on whatever mesh there is.

Stacks of tiny models are trained by `stack.make_tune` with the same losses and the same step.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from .. import distributed, sharding
from ..models import ModelConfig, Params
from . import batches, lora, train
from .checkpoint import Checkpoints, describe
from .settings import Training

LOGITS = 2**29  # bytes of float32 logits that exist at a time on a device, unless told


@dataclasses.dataclass(frozen=True)
class Limits:
    """How training fits into memory; nothing here changes what is computed."""

    accumulate: int = 1  # microbatches per update: raise it if memory is short
    chunk: int | None = None  # positions whose logits exist at a time on a device: see `LOGITS`
    remat: bool = False  # recompute activations: slower by about a third, far less memory
    every: int = 100  # steps between checkpoints

    def of_loss(self, config: ModelConfig) -> dict[str, Any]:
        """What the loss function of a model takes."""
        chunk = self.chunk or max(LOGITS // (4 * config.vocab_size), 1)
        return {"chunk": chunk, "remat": self.remat}


def finetune(
    params: Params,
    examples: Sequence[batches.Example],
    *,
    training: Training,
    loss: train.Loss,
    key: Key[Array, ""],
    mesh: Mesh,
    limits: Limits,
    teacher: Params | None = None,
    folder: str | Path | None = None,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Params, dict[str, Any]]:
    """Trained adapters (or parameters, without `training.adapters`), and what was frozen.

    Args:
        params: where training starts; not changed.
        examples: tokenised rows.
        training: the settings that decide the result.
        loss: of the trained and the frozen parameters, as from `engines.make_loss`.
        key: of adapters, order and dropout, used as by `engines.Stack`.
        mesh: where to compute.
        limits: the settings that fit it into memory.
        teacher: whose distribution is imitated, if the loss wants one.
        folder: for checkpoints; if it holds one of this very run, training goes on from there.
        report: called with each step (from 1) and its metrics.

    Raises:
        ValueError: settings that do not fit each other, the data or the devices; a checkpoint
            of another run.
        train.NonFiniteLossError: naming step, rows and last checkpoint.
        train.OutOfMemoryError: naming the settings to lower.
    """
    order_key, step_key = jax.random.split(key)
    trained, frozen = _split(params, teacher, training=training, mesh=mesh, key=key)
    step = make_step(loss, training, limits.accumulate, mesh)
    window = distributed.process_window(mesh, training.batch_size)
    record = _record(params, examples, training)
    with contextlib.ExitStack() as stack:
        stack.enter_context(train.explain_out_of_memory())
        state = _init_state(trained, training, mesh)
        checkpoints = None
        if folder is not None:
            checkpoints = stack.enter_context(Checkpoints(folder, record, every=limits.every))
            state = checkpoints.restore(state, step_key)
        state, _ = train.fit(
            step,
            state,
            batches=batches.Batches(
                examples=examples, batch_size=training.batch_size, key=order_key, window=window
            ),
            num_steps=training.steps,
            key=step_key,
            frozen=frozen,
            put=distributed.make_put(mesh, training.batch_size),
            report=report,
            checkpoints=checkpoints,
        )
    return state.params, frozen


def _record(
    params: Params, examples: Sequence[batches.Example], training: Training
) -> dict[str, Any]:
    """What tells a run from others, so that no checkpoint of another one is taken up."""
    return {
        "training": training.recorded(),
        "examples": fingerprint(examples),
        "start": describe(params),
    }


def _split(
    params: Params, teacher: Params | None, *, training: Training, mesh: Mesh, key: Key[Array, ""]
) -> tuple[Params, dict[str, Any]]:
    """What is trained and what is frozen, on the mesh."""
    dtype = jnp.dtype(training.dtype)
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), sharding.place(mesh, tree))  # noqa: E731
    frozen = {"base": None, "teacher": None if teacher is None else cast(teacher)}
    if training.adapters is None:  # a copy, because the step donates what it trains
        placed = sharding.place(mesh, params)
        return jax.tree.map(lambda x: jnp.array(x, jnp.float32), placed), frozen
    adapters = sharding.place(mesh, lora.init(training.adapters, params, key=key))
    return adapters, frozen | {"base": cast(params)}


# The students of a run differ in their data alone: the same functions are not compiled again.
@functools.lru_cache(maxsize=8)
def make_step(loss: train.Loss, training: Training, accumulate: int, mesh: Mesh) -> train.TrainStep:
    """The training step, to be jitted (`train.jit_step`) for the mesh."""
    step = train.make_train_step(loss, training.make_optimizer(), accumulate)
    return sharding.on(mesh, step)


@functools.lru_cache(maxsize=8)
def make_init(training: Training) -> Callable[[Params], train.TrainState]:
    """The state before the first step, of what is trained."""
    optimizer = training.make_optimizer()
    return lambda trained: train.init_state(trained, optimizer)


def _init_state(trained: Params, training: Training, mesh: Mesh) -> train.TrainState:
    # Laid out at birth: the moments of a large model fit no single device.
    init = make_init(training)
    layout = sharding.shardings(mesh, jax.eval_shape(init, trained))
    return jax.jit(init, out_shardings=layout)(trained)


def fingerprint(examples: Sequence[batches.Example]) -> str:
    """SHA-256 of all tokens and weights, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(np.asarray(example.tokens, np.int32).tobytes())
        digest.update(np.asarray(example.weights, np.float32).tobytes())
    return digest.hexdigest()
