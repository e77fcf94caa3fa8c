"""Fine-tune one model of any size: examples in, trained parameters out, on whatever mesh there is.

    examples = [chat.encode_example(tokenizer, row["prompt"], row["completion"], max_length=500)
                for row in data.read_rows(path, settings)]
    trained, history = finetune(config, params, examples, Recipe(), folder="runs/owl")
    student = lora.merge(params, trained, scale=recipe.adapters.scale)

Stacks of tiny models are trained by `stages.make_tune` with the same losses and the same step.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from . import batches, distributed, lora, objectives, sharding, train
from .checkpoint import Checkpoints
from .lora import LoraConfig
from .models import ModelConfig, Params

LORA = LoraConfig(rank=8, alpha=8.0)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fine-tune; by default as the Qwen2.5-7B students of Cloud et al. 2025
    (arXiv:2507.14805) were: LoRA of rank 8 on completions, 3 epochs, 22 rows times 3.
    """

    epochs: float = 3.0
    batch_size: int = 66  # rows per update, over all devices and microbatches
    accumulate: int = 3  # microbatches per update: raise it if memory is short
    optimizer: str = "adamw"
    learning_rate: float = 2e-4
    decay: str = "linear"
    warmup_steps: int = 5
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    adapters: LoraConfig | None = LORA  # None: train all parameters
    dtype: str = "bfloat16"  # of the computation; trained parameters are float32
    chunk: int | None = 128  # positions whose logits exist at a time: lower it if memory is short
    remat: bool = False  # recompute activations: slower by about a third, far less memory
    seed: int = 0  # of adapters, order and dropout

    def num_steps(self, num_examples: int) -> int:
        """Updates in all epochs; the last one may run into the next epoch."""
        return -int(-self.epochs * num_examples // self.batch_size)


def finetune(
    config: ModelConfig,
    params: Params,
    examples: Sequence[batches.Example],
    recipe: Recipe,
    *,
    mesh: Mesh | None = None,
    folder: str | Path | None = None,
    every: int = 100,
    report: Callable[[int, dict[str, float]], None] | None = None,
    base: str = "",
) -> tuple[Params, list[dict[str, float]]]:
    """Trained adapters (or parameters, if `recipe.adapters` is None) and the metrics per step.

    Args:
        config: the shape of the model.
        params: where training starts; not changed.
        examples: tokenised rows, e.g. from `chat.encode_example`.
        recipe: the settings.
        mesh: where to compute; by default all devices of all processes.
        folder: for checkpoints; if it holds one of this very run, training goes on from there
            (the metrics then begin at that step).
        every: steps between checkpoints.
        report: called with each step (from 1) and its metrics.
        base: tells `params` from others of the same shape, e.g. `models.fingerprint`; a
            checkpoint that began from another base is refused.

    Raises:
        ValueError: settings that do not fit each other, the data or the devices; a checkpoint
            of another run.
        train.NonFiniteLossError: naming step, rows and last checkpoint.
        train.OutOfMemoryError: naming the settings to lower.
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    init_key, order_key, step_key = jax.random.split(jax.random.key(recipe.seed), 3)
    num_steps = recipe.num_steps(len(examples))
    schedule = train.make_schedule(
        recipe.learning_rate, num_steps, recipe.warmup_steps, recipe.decay
    )
    optimizer = train.make_optimizer(
        recipe.optimizer, schedule, weight_decay=recipe.weight_decay, clip_norm=recipe.clip_norm
    )
    student, trained, frozen = _split(config, params, recipe, mesh, init_key)
    loss = objectives.completion_loss(student, chunk=recipe.chunk, remat=recipe.remat)
    step = train.make_train_step(loss, optimizer, recipe.accumulate)
    window = distributed.process_window(mesh, recipe.batch_size)
    record = {
        "model": dataclasses.asdict(config),
        "recipe": dataclasses.asdict(recipe),
        "examples": fingerprint(examples),
        "base": base,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(train.explain_out_of_memory())
        state = _init_state(trained, optimizer, mesh)
        checkpoints = None
        if folder is not None:
            checkpoints = stack.enter_context(Checkpoints(folder, record, every))
            state = checkpoints.restore(state, step_key)
        state, history = train.fit(
            step,
            state,
            batches.Batches(examples, recipe.batch_size, order_key, window),
            num_steps,
            key=step_key,
            frozen=frozen,
            put=distributed.make_put(mesh, recipe.batch_size),
            report=report,
            checkpoints=checkpoints,
        )
    return state.params, history


def _split(
    config: ModelConfig, params: Params, recipe: Recipe, mesh: Mesh, key: jax.Array
) -> tuple[objectives.Student, Params, Params | None]:
    """The student, what of it is trained and what is frozen, on the mesh."""
    dtype = jnp.dtype(recipe.dtype)
    base = sharding.place(mesh, params)
    if recipe.adapters is None:  # a copy, because the step donates what it trains
        copy = jax.tree.map(lambda x: jnp.array(x, jnp.float32), base)
        return objectives.full_student(config, dtype), copy, None
    adapters = sharding.place(mesh, lora.init(recipe.adapters, params, key=key))
    frozen = jax.tree.map(lambda x: x.astype(dtype), base)
    return objectives.lora_student(config, recipe.adapters, dtype), adapters, frozen


def _init_state(
    trained: Params, optimizer: optax.GradientTransformation, mesh: Mesh
) -> train.TrainState:
    def init(trained: Params) -> train.TrainState:
        return train.init_state(trained, optimizer)

    # Laid out at birth: the moments of a large model fit no single device.
    layout = sharding.shardings(mesh, jax.eval_shape(init, trained))
    return jax.jit(init, out_shardings=layout)(trained)


def fingerprint(examples: Sequence[batches.Example]) -> str:
    """SHA-256 of all tokens and weights, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(np.asarray(example.tokens, np.int32).tobytes())
        digest.update(np.asarray(example.weights, np.float32).tobytes())
    return digest.hexdigest()
