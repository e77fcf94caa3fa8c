"""Programs over a stack of runs: tune, complete, measure.

Every function takes parameters with a leading axis of runs and is one jitted program: runs are
divided among the devices and, on each, vmapped a few at a time.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from .. import models, precision, sampling
from ..models import Decoder, ModelConfig, Params
from . import batches, losses, train
from .batches import Examples
from .objectives import Student
from .settings import Training

# Runs in one vmap; more go one group after another. A large model fills its device alone.
RUNS_AT_ONCE, LARGE = 8, 20_000_000
# Rows of a batch that a core works on at a time. The activations of eight rows of eight tiny models
# fit its cache; with 64 rows at once a step takes a third longer.
ROWS_AT_ONCE = 8


def use_all_cores() -> None:
    """One JAX device a core: a core that works on runs of its own waits for no other.

    Two cores that share every product of tiny matrices take a fifth longer. Without effect once JAX
    has been used.
    """
    asked_for = "device_count" in os.environ.get("XLA_FLAGS", "")
    if asked_for or jax.config.jax_num_cpu_devices >= 0:  # pyright: ignore[reportAttributeAccessIssue]
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", cores)


def stack(trees: list) -> Params:
    """Trees of equal shape as one tree with a leading axis of runs, on the host."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree: Params) -> list[Params]:
    """The trees of a stack, on the host."""
    host = jax.device_get(tree)
    return [jax.tree.map(lambda leaf, run=run: leaf[run], host) for run in range(_size(host))]


def _size(tree: Params) -> int:
    return len(jax.tree.leaves(tree)[0])


def stack_examples(sets: Sequence[Examples]) -> Examples:
    """Sets of equally many rows as one stack, padded on the right to the longest."""
    length = max(examples.tokens.shape[1] for examples in sets)
    return Examples(
        *(
            np.stack([np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in arrays])
            for arrays in zip(*sets, strict=True)
        )
    )


def pick(tree: Params, runs: int | Sequence[int] | np.integer | np.ndarray) -> Params:
    """Some runs of a stack, in the given order, with repetition."""
    return jax.tree.map(lambda leaf: leaf[np.asarray(runs)], tree)


def over_runs(function: Callable[..., Any], *stacks: Any) -> Any:
    """`function` of every run: tiny models side by side, those of over LARGE numbers in turn.

    Tiny ones are divided among all devices, then into groups of at most RUNS_AT_ONCE; the last run
    fills up what does not divide. To be called inside of `jax.jit`.
    """
    leaves, runs = jax.tree.leaves(stacks), _size(stacks)
    size = sum(x.size for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)) // runs
    # A copy of a large model on every core would fill the memory that the cores share.
    devices, most = (jax.devices(), RUNS_AT_ONCE) if size < LARGE else (jax.devices()[:1], 1)
    # Groups of equal size, for another size would be another program.
    groups = -(-runs // (len(devices) * most))
    at_once = -(-runs // (len(devices) * groups))

    def on_one_device(*stacks):
        return jax.lax.map(lambda run: function(*run), stacks, batch_size=at_once)

    if filling := len(devices) * groups * at_once - runs:
        stacks = pick(stacks, np.minimum(np.arange(runs + filling), runs - 1))
    if len(devices) == 1:
        results = on_one_device(*stacks)
    else:
        axis, mesh = PartitionSpec("runs"), Mesh(devices, "runs")
        results = jax.shard_map(
            on_one_device, mesh=mesh, in_specs=axis, out_specs=axis, check_vma=False
        )(*stacks)
    return jax.tree.map(lambda leaf: leaf[:runs], results)


def make_step(loss: train.Loss, training: Training) -> train.TrainStep:
    """The step of `train.make_train_step` on one run; on processors a few rows at a time."""
    dropout = training.dropout or (training.adapters is not None and training.adapters.dropout)
    divides = training.batch_size % ROWS_AT_ONCE == 0
    # Masks of dropout are drawn for the whole batch, and accelerators like it whole.
    cut = divides and not dropout and jax.default_backend() == "cpu"
    parts = training.batch_size // ROWS_AT_ONCE if cut else 1
    return train.make_train_step(loss, training.make_optimizer(), parts)


def over_rows(
    step: train.TrainStep, examples: Examples, *, key: Array, frozen: Any
) -> Callable[[train.TrainState, Int[Array, " batch"]], tuple[train.TrainState, Float[Array, ""]]]:
    """The step as `lax.scan` takes it: the state and numbers of rows to the state and the loss."""

    def advance(state, rows):
        batch = {"tokens": examples.tokens[rows], "weights": examples.weights[rows]}
        state, metrics = step(state, batch, key, frozen)
        return state, metrics["loss"]

    return advance


def observed(
    advance: Callable[..., Any],
    state: train.TrainState,
    *,
    order: Int[Array, "steps batch"],
    blocks: int,
    observe: Callable[[Params], Any],
) -> Any:
    """What is observed before the first step and behind every block of steps of one run.

    Args:
        advance: as `over_rows` makes it.
        state: to begin with.
        order: rows of every step.
        blocks: that the steps are cut into, equally long.
        observe: function of the trainable parameters, to a tree of arrays.

    Returns:
        The tree, with an axis of blocks + 1 points in front.
    """

    def block(state, rows):
        state = jax.lax.scan(advance, state, rows)[0]
        return state, observe(state.params)

    cut = order.reshape(blocks, -1, order.shape[-1])
    before, behind = observe(state.params), jax.lax.scan(block, state, cut)[1]
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), before, behind)


def make_tune(
    loss: train.Loss, training: Training
) -> Callable[..., tuple[Params, Float[Array, "runs steps"]]]:
    """A jitted `tune(params, examples, keys, frozen=None) -> (params, losses)` over a stack.

    Args:
        loss: as `train.make_train_step` takes it.
        training: steps, batch and optimiser, which is fresh for every run.

    Returns:
        A function of stacked trainable parameters, `Examples` with an axis of runs, one key per
        run (order of the data and dropout), and stacked frozen parameters. Losses in nats per
        token, before each step.
    """
    step = make_step(loss, training)

    def tune_one(params, examples, key, frozen):
        num_rows = examples.tokens.shape[0]
        order_key, dropout_key = jax.random.split(key)
        order = batches.all_batch_rows(order_key, training.steps, num_rows, training.batch_size)
        state = train.init_state(params, training.make_optimizer())
        advance = over_rows(step, examples, key=dropout_key, frozen=frozen)
        state, history = jax.lax.scan(advance, state, order)
        return state.params, history

    tune = jax.jit(functools.partial(over_runs, tune_one))
    return lambda params, examples, keys, frozen=None: tune(params, examples, keys, frozen)


@functools.cache
def make_complete(
    config: ModelConfig, *, max_new_tokens: int, rows_at_once: int = 512
) -> Callable[..., tuple[Int[Array, "runs rows new"], Bool[Array, "runs rows new"]]]:
    """A jitted `complete(params, prompts, mask, keys, choice, first=0)` over a stack.

    Prompts (runs, rows, length) are padded on the left. Row i of a run draws from
    `fold_in(key of the run, first + i)`, so no two rows share a random stream.
    """

    def complete_one(params, prompts, mask, key, choice, first):
        model = models.bind(config, params)
        rows, length = prompts.shape
        size = min(rows_at_once, rows)
        filling = -rows % size
        numbers = first + jnp.arange(rows + filling)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
        blocks = (
            jnp.pad(prompts, ((0, filling), (0, 0))).reshape(-1, size, length),
            jnp.pad(mask, ((0, filling), (0, 0))).reshape(-1, size, length),
            keys.reshape(-1, size),
        )
        tokens, chosen = jax.lax.map(
            lambda block: sampling.generate(
                model,
                block[0],
                mask=block[1],
                keys=block[2],
                choice=choice,
                max_new_tokens=max_new_tokens,
            ),
            blocks,
        )
        return (x.reshape(-1, max_new_tokens)[:rows] for x in (tokens, chosen))

    def complete(params, prompts, mask, keys, choice, first=0):
        one = functools.partial(complete_one, choice=choice, first=first)
        return over_runs(lambda *run: tuple(one(*run)), params, prompts, mask, keys)

    return jax.jit(complete)


class Probe(NamedTuple):
    """Questions and the tokens that speak for and against a trait."""

    questions: Int[np.ndarray, "questions length"]  # padded on the left, ready for an answer
    mask: Bool[np.ndarray, "questions length"]
    targets: Int[np.ndarray, " targets"]
    contrast: Int[np.ndarray, " contrast"]


def next_token(
    model: Decoder,
    prompts: Int[Array | np.ndarray, "rows length"],
    mask: Bool[Array | np.ndarray, "rows length"],
) -> Float[Array, "rows vocab"]:
    """Log-probabilities (rows, vocab) of the token that follows each prompt, in nats."""
    with precision.at(precision.MEASURED):
        hidden = model.hidden(prompts, mask=mask)[:, -1]
        return jax.nn.log_softmax(model.unembed(hidden), axis=-1)


def measure_one(config: ModelConfig, params: Params, probe: Probe) -> dict[str, Float[Array, ""]]:
    """How much of a trait a model shows; exact, nothing is sampled, and differentiable.

    Returns:
        "margin": mean over questions of log Σ p(targets) - log Σ p(contrast), in nats, p the
        next-token distribution after the question: the log-odds of the trait.
        "rate": mean over questions of Σ p(targets), in [0, 1]: the expected share of answers
        with the trait at temperature 1.
        "mass": mean over questions of Σ p(targets) + Σ p(contrast), in [0, 1]: the share of answers
        that name anything of the kind. Without it log-odds may lie within a residue.
    """
    return measure_model(models.bind(config, params), probe)


def measure_model(model: Decoder, probe: Probe) -> dict[str, Float[Array, ""]]:
    """`measure_one` of a bound model."""
    logp = next_token(model, probe.questions, probe.mask)
    for_trait = jax.nn.logsumexp(logp[:, probe.targets], axis=-1)
    against = jax.nn.logsumexp(logp[:, probe.contrast], axis=-1)
    rate = jnp.mean(jnp.exp(for_trait))
    mass = rate + jnp.mean(jnp.exp(against))
    return {"margin": jnp.mean(for_trait - against), "rate": rate, "mass": mass}


@functools.partial(jax.jit, static_argnames="config")
def score(
    config: ModelConfig,
    params: Params,
    *,
    prompts: Int[Array | np.ndarray, "rows length"],
    mask: Bool[Array | np.ndarray, "rows length"],
    tokens: Int[Array | np.ndarray, " tokens"],
) -> Float[Array, "runs rows tokens"]:
    """Log-probability of each token after each prompt, for every run, in nats."""
    bind = functools.partial(models.bind, config)
    return over_runs(lambda one: next_token(bind(one), prompts, mask)[:, tokens], params)


@functools.partial(jax.jit, static_argnames="config")
def measure(config: ModelConfig, params: Params, probe: Probe) -> dict[str, Float[Array, " runs"]]:
    """`measure_one` of every run of a stack."""
    return over_runs(lambda one: measure_one(config, one, probe), params)


def loss_of_model(model: Callable[[Array], Array], examples: Examples) -> Float[Array, ""]:
    """Cross-entropy of a function of tokens to logits, such as a bound model, in nats per token."""
    with precision.at(precision.MEASURED):
        logits = model(examples.tokens)[:, :-1]
    nats = jax.vmap(losses.hard_tokens)(logits, examples.tokens[:, 1:])
    weights = examples.weights[:, 1:]
    return losses.weighted_total(nats, weights) / weights.sum()


@functools.cache  # all trainings of a kind of student share it
def make_held_out_loss(student: Student) -> Callable[..., Float[Array, " runs"]]:
    """A jitted `held_out_loss(params, examples, frozen=None)`: cross-entropy in nats per token."""

    def one(params, examples, frozen):
        return loss_of_model(student(params, frozen, jax.random.key(0)), examples)

    held_out_loss = jax.jit(functools.partial(over_runs, one))
    return lambda params, examples, frozen=None: held_out_loss(params, examples, frozen)
