"""One pure training step for full, LoRA and many-seed training, and the loop around it.

`make_train_step` gives `(state, batch, key, frozen) -> (state, metrics)`. Jitted with the state
donated it serves `fit`; inside `lax.scan` under `vmap` it trains many small models at once.
Only `state.params` is differentiated and optimised; `frozen` (a LoRA base, a teacher) is an
argument, so full and LoRA fine-tuning share the step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

Params = Any
Batch = Any
Metrics = dict[str, Array]
# loss(params, frozen, batch, key) -> (sum of weighted token losses, sum of weights)
Loss = Callable[[Params, Any, Batch, Array], tuple[Float[Array, ""], Float[Array, ""]]]
TrainStep = Callable[..., tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """What training changes: trainable parameters, optimiser state, number of steps taken."""

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became infinite or not a number."""


class OutOfMemoryError(MemoryError):
    """The device ran out of memory; the message names the settings to lower."""


def make_schedule(
    learning_rate: float, num_steps: int, warmup_steps: int = 0, decay: str = "linear"
) -> optax.Schedule:
    """Linear warm-up from 0 over `warmup_steps`, then decay to 0 at `num_steps` (or constant).

    Raises:
        ValueError: unknown decay, or a warm-up longer than the run.
    """
    after = num_steps - warmup_steps
    if not 0 <= warmup_steps <= num_steps:
        raise ValueError(f"warmup_steps {warmup_steps} is not within 0..num_steps = {num_steps}")
    decays = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, max(after, 1)),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, max(after, 1)),
    }
    if decay not in decays:
        raise ValueError(f"unknown decay {decay!r}: choose one of {', '.join(decays)}")
    warmup = optax.linear_schedule(0.0, learning_rate, max(warmup_steps, 1))
    return optax.join_schedules([warmup, decays[decay]()], [warmup_steps])


def make_optimizer(
    name: str,
    schedule: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """An optimiser by name, after clipping the gradient to global norm `clip_norm`.

    "momentum" is SGD with momentum b1. Adam steps by m / (√v + eps). A parameter whose gradients
    are all far below eps hardly moves; with a tiny eps it drifts by full steps, however little the
    data says about it.

    Weight decay is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101) and spares norms and
    biases; only "adamw" takes it.

    Raises:
        ValueError: unknown name, or weight decay with another optimiser than adamw.
    """
    if weight_decay and name != "adamw":
        raise ValueError(f"weight_decay = {weight_decay} needs adamw, not {name!r}")
    optimizers = {
        "adamw": lambda: optax.adamw(
            schedule, b1, b2, eps, weight_decay=weight_decay, mask=decayed
        ),
        "adam": lambda: optax.adam(schedule, b1, b2, eps),
        "sgd": lambda: optax.sgd(schedule),
        "momentum": lambda: optax.sgd(schedule, momentum=b1),
    }
    if name not in optimizers:
        raise ValueError(f"unknown optimizer {name!r}: choose one of {', '.join(optimizers)}")
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(clip, optimizers[name]())


def decayed(params: Params) -> Any:
    """Tree of booleans: which leaves weight decay applies to (all but norms and biases)."""

    def decays(path, _leaf) -> bool:
        name = jax.tree_util.keystr(path).lower()
        return "norm" not in name and "bias" not in name

    return jax.tree_util.tree_map_with_path(decays, params)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step."""
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation, accumulate: int = 1
) -> TrainStep:
    """Pure step that minimises the mean loss per unit of token weight over the whole batch.

    With `accumulate` = A the batch is cut into A microbatches; their gradient *sums* are added
    and divided once by the total weight, so microbatches with different numbers of completion
    tokens give the gradient of the large batch. A batch of weight zero has gradient zero.

    Returns:
        `train_step(state, batch, key, frozen=None) -> (state, metrics)` with metrics `loss`
        (nats per token), `weight` (tokens) and `grad_norm`, all before the update. Raises
        ValueError when traced with a batch that does not divide into `accumulate` parts.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def summed(params, frozen, batch, key):
        if accumulate == 1:
            return value_and_grad(params, frozen, batch, key)
        rows = len(jax.tree.leaves(batch)[0])
        if rows % accumulate:
            raise ValueError(f"a batch of {rows} rows does not divide into {accumulate} parts")
        # Microbatch i takes rows i, i+A, ...: a batch axis sharded over devices stays sharded.
        micro = jax.tree.map(
            lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1),
            batch,
        )

        def add(carry, indexed):
            index, microbatch = indexed
            out = value_and_grad(params, frozen, microbatch, jax.random.fold_in(key, index))
            return jax.tree.map(lambda x, part: x + part.astype(x.dtype), carry, out), None

        zero = jnp.zeros(())
        start = ((zero, zero), jax.tree.map(jnp.zeros_like, params))
        return jax.lax.scan(add, start, (jnp.arange(accumulate), micro))[0]

    def train_step(
        state: TrainState, batch: Batch, key: Array, frozen: Any = None
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        (total, weight), grads = summed(state.params, frozen, batch, step_key)
        scale = 1 / jnp.where(weight > 0, weight, 1)
        mean = jax.tree.map(lambda g: g * scale, grads)
        updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": total * scale,
            "weight": weight,
            # Of the sum: a compiler that also has the mean writes all its squares down first.
            "grad_norm": optax.tree.norm(grads) * scale,
        }
        return TrainState(params, opt_state, state.step + 1), metrics

    return train_step


def jit_step(train_step: TrainStep, layout: Any) -> Any:
    """The step jitted: the new state lies where the old one lay, whose memory it takes over.

    Left to itself a compiler moves some of it, and the second step is then another program.
    """
    return jax.jit(train_step, donate_argnums=0, out_shardings=(layout, None))


def fit(
    train_step: TrainStep,
    state: TrainState,
    *,
    batches: Callable[[int], Batch],
    num_steps: int,
    key: Array,
    frozen: Any = None,
    put: Callable[[Batch], Batch] = jax.device_put,
    report: Callable[[int, dict[str, float]], None] | None = None,
    checkpoints: Any = None,
) -> tuple[TrainState, list[dict[str, float]]]:
    """Run `train_step` from `state.step` to `num_steps`; the given state is donated.

    Metrics of step t are fetched after step t+1 is dispatched, so the device never waits for
    Python. A checkpoint is written only after the loss of every step before it proved finite.

    Args:
        train_step: from `make_train_step`.
        state: start, fresh or restored: the step also says where in the data to go on.
        batches: host batch of a step, e.g. `batches.Batches`.
        num_steps: last step.
        key: root of the dropout keys; step t uses fold_in(key, t).
        frozen: passed on to the loss.
        put: host batch to device arrays (`distributed.make_put` on a mesh).
        report: called with the step (from 1) and its metrics.
        checkpoints: a `checkpoint.Checkpoints`, or None.

    Raises:
        NonFiniteLossError: naming step, batch rows and last checkpoint.
        OutOfMemoryError: naming the settings to lower.
    """
    placed = all(x.committed for x in jax.tree.leaves(state))
    jitted = jit_step(train_step, jax.tree.map(lambda x: x.sharding, state) if placed else None)
    history: list[dict[str, float]] = []
    pending: tuple[int, Metrics] | None = None

    def settle() -> None:
        if pending is None:
            return
        step, metrics = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not np.isfinite([values["loss"], values["grad_norm"]]).all():
            raise NonFiniteLossError(_non_finite(step, values, batches, checkpoints))
        history.append(values)
        if report is not None:
            report(step + 1, values)

    with explain_out_of_memory():
        for step in range(int(state.step), num_steps):
            state, metrics = jitted(state, put(batches(step)), key, frozen)
            settle()
            pending = (step, metrics)
            if checkpoints is not None and checkpoints.due(step + 1, num_steps):
                settle()
                pending = None
                checkpoints.save(state, key)
        settle()
    return state, history


def _non_finite(step: int, values: dict[str, float], batches: Any, checkpoints: Any) -> str:
    rows = f" (dataset rows {batches.rows(step).tolist()})" if hasattr(batches, "rows") else ""
    last = "none" if checkpoints is None else checkpoints.describe_last()
    return (
        f"loss {values['loss']} with gradient norm {values['grad_norm']} at step {step + 1}, "
        f"batch {step}{rows}; last checkpoint: {last}. Lower the learning rate or clip_norm, "
        "or look at these rows"
    )


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn the device's RESOURCE_EXHAUSTED into an OutOfMemoryError that names what to lower.

    Raises:
        OutOfMemoryError: in place of the runtime's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        first_line = str(error).splitlines()[0]
        raise OutOfMemoryError(
            f"the device is out of memory ({first_line}). Lower the batch size (raise accumulate "
            "to keep the same update) or the sequence length; or use remat, LoRA, "
            "or more devices on the fsdp axis"
        ) from error
