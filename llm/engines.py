"""Two ways to run the same stages: many tiny models side by side, or one model over a mesh.

Both (and `served.Served`, which asks a server) have the same operations on *weights*, whose form
is their own business:

    groups(recipes)            which recipes are worked on together
    load, save                 checkpoint folders
    join, split                weights of single models to weights of a group, and back
    tune                       train on examples, for hard tokens or a teacher's distribution
    complete                   sample completions of prompts
    measure                    log-odds and rates of a trait
    score                      log-probabilities of tokens after prompts
    facts                      what manifests record of the engine

A `Stack` keeps a leading axis of runs and is one jitted, vmapped program per operation; it lives
in the memory of one device. A `OnMesh` works on one model at a time, spread over devices and
processes, with checkpoints, buckets of lengths and accumulation.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from transformers import PreTrainedTokenizerBase

from . import finetune, lora, models, objectives, peft_format, sampling, sharding, stack, world
from .batches import Example, Examples
from .models import ModelConfig, Params
from .training import Training

Tokens = tuple[int, ...]
LIMITS = finetune.Limits()


class Trained(NamedTuple):
    """What training gives: weights, and the loss on held-out rows of every run in nats a token."""

    weights: Any
    held_out_loss: list[float]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Tiny models side by side: weights are parameter trees with a leading axis of runs."""

    keeps: bool = True  # models are small enough to stay in memory
    shard: int | None = None  # prompts sampled before rows are written: all

    def facts(self) -> dict[str, Any]:
        """Nothing: rows depend on the recipe alone."""
        return {}

    def groups(self, recipes: Sequence[Any]) -> list[list[Any]]:
        """All of them together."""
        return [list(recipes)] if recipes else []

    def join(self, weights: Sequence[Params]) -> Params:
        """Trees of single models as one stack."""
        return stack.stack(list(weights))

    def split(self, weights: Params) -> list[Params]:
        """The trees of a stack, on the host."""
        return stack.unstack(weights)

    def load(self, folder: str | Path) -> Params:
        """The parameters of a checkpoint folder or name."""
        return models.load(folder)[1]

    def add(self, weights: Params, folder: str, config: ModelConfig) -> Params:
        """A stack has no adapters beside its models.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{folder}: adapter folders need a mesh (python -m llm)")

    def save(
        self, folder: Path, config: ModelConfig, weights: Params,
        tokenizer: PreTrainedTokenizerBase, files: dict[str, str],
    ) -> None:  # fmt: skip
        """Write one model as a checkpoint folder, with further text files in it."""
        world.save(folder, config, weights, tokenizer, files)

    def tune(
        self,
        config: ModelConfig,
        starts: Params,
        examples: Sequence[Examples],
        training: Training,
        keys: Key[Array, " runs"],
        *,
        teachers: Params | None = None,
        tokens: Tokens | None = None,
        tests: Sequence[Examples] | None = None,
    ) -> Trained:
        """Train every run on examples of its own; LoRA adapters are merged.

        Args:
            config: the shape of the models.
            starts: where each begins; not changed.
            examples: what each is trained on.
            training: how.
            keys: one a run, for the order of the data.
            teachers: imitate their distribution instead of the tokens.
            tokens: the set of tokens over which the distributions are renormalised; None for all.
            tests: rows to measure the held-out loss on.
        """
        params, frozen = starts, {"base": None, "teacher": teachers}
        if training.adapters is not None:
            init = functools.partial(lora.init, training.adapters)
            params = jax.vmap(lambda p, k: init(p, key=k))(starts, keys)
            frozen["base"] = starts
        tune, held_out_loss = _programs(config, training, teachers is not None, tokens)
        params, _ = tune(params, stack.stack_examples(examples), keys, frozen)
        losses = held_out_loss(params, stack.stack_examples(tests), frozen) if tests else []
        if training.adapters is not None:
            merge = functools.partial(lora.merge, scale=training.adapters.scale)
            params = jax.vmap(merge)(starts, params)
        return Trained(params, np.asarray(losses).tolist())

    def complete(
        self,
        config: ModelConfig,
        weights: Params,
        prompts: Sequence[Sequence[list[int]]],
        keys: Key[Array, " runs"],
        choice: sampling.Choice,
        max_new_tokens: int,
        first: int = 0,
    ) -> list[list[list[int]]]:
        """Completions of each run's prompts as tokens, the one that ends them included.

        Args:
            config: the shape of the models.
            weights: of every run.
            prompts: token ids, equally many for each run.
            keys: one a run; row i draws from `fold_in(key, first + i)`.
            choice: temperature and so on.
            max_new_tokens: where rows without an end are cut.
            first: number of the first row.
        """
        length = max(len(ids) for rows in prompts for ids in rows)
        padded = [sampling.pad_left(rows, len(rows), length) for rows in prompts]
        tokens, mask = (np.stack(x) for x in zip(*padded, strict=True))
        complete = stack.make_complete(config, max_new_tokens=max_new_tokens)
        drawn, chosen = jax.device_get(complete(weights, tokens, mask, keys, choice, first))
        return [
            [row[keep].tolist() for row, keep in zip(*of_run, strict=True)]
            for of_run in zip(drawn, chosen, strict=True)
        ]

    def measure(
        self, config: ModelConfig, weights: Params, probe: stack.Probe
    ) -> dict[str, list[float]]:
        """`stack.measure_model` of every run."""
        return {k: np.asarray(v).tolist() for k, v in stack.measure(config, weights, probe).items()}

    def score(
        self, config: ModelConfig, weights: Params, prompts: Sequence[list[int]],
        tokens: Sequence[int],
    ) -> list[np.ndarray]:  # fmt: skip
        """Log-probability of each token after each prompt in nats, (prompts, tokens), by run."""
        padded = sampling.pad_left(prompts, len(prompts), max(map(len, prompts)))
        return list(np.asarray(stack.score(config, weights, *padded, np.array(tokens, np.int32))))


@functools.cache
def _programs(
    config: ModelConfig, training: Training, soft: bool, tokens: Tokens | None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The jitted training and held-out loss; arms that differ in their rows alone share them."""
    loss, student = make_loss(config, training, soft, tokens)
    tune = stack.make_tune(
        loss,
        training.make_optimizer(),
        batch_size=training.batch_size,
        num_steps=training.steps,
    )
    return tune, stack.make_held_out_loss(student)


def make_loss(
    config: ModelConfig, training: Training, soft: bool, tokens: Tokens | None, **limits: Any
) -> tuple[Any, objectives.Student]:
    """The imitation loss and the student that it trains.

    `frozen` of both is {"base": parameters under adapters or None, "teacher": parameters or None}.

    Args:
        config: the shape of the model.
        training: adapters or all parameters, and the dtype of the computation.
        soft: imitate the teacher's distribution instead of the tokens.
        tokens: the set over which distributions are renormalised; None for all.
        **limits: `chunk` and `remat` of `objectives`.
    """
    # A stack computes in the dtype of its parameters, also where that is float64.
    dtype = None if training.dtype == "float32" else jnp.dtype(training.dtype)
    student = objectives.full_student(config, dtype)
    if training.adapters is not None:
        student = objectives.lora_student(
            config, training.adapters, dtype, base=lambda frozen: frozen["base"]
        )
    if not soft:
        return objectives.completion_loss(student, **limits), student

    def teacher(frozen: Any) -> models.Decoder:
        return models.bind(config, frozen["teacher"], dtype=dtype)

    token_set = None if tokens is None else np.array(tokens)
    return objectives.distillation_loss(student, teacher, token_set=token_set, **limits), student


class Weights(NamedTuple):
    """One model on a mesh. Adapters stay beside their base: bfloat16 would round them away."""

    params: Params
    adapters: lora.Adapters | None = None
    settings: lora.LoraConfig | None = None
    source: str = ""  # of the parameters, recorded in adapter folders


class OneByOne:
    """Engines that work on one model at a time."""

    def groups(self, recipes: Sequence[Any]) -> list[list[Any]]:
        """One by one."""
        return [[recipe] for recipe in recipes]

    def join(self, weights: Sequence[Any]) -> Any:
        """The weights of the one model."""
        (one,) = weights
        return one

    def split(self, weights: Any) -> list[Any]:
        """The one model."""
        return [weights]


@dataclasses.dataclass(frozen=True)
class OnMesh(OneByOne):
    """One model at a time over the devices of a mesh.

    Attributes:
        axes: devices on the data, fsdp and tensor axes; None takes what is there.
        local: use this process' devices alone, for sampling different prompts on each host.
        dtype: of parameters that are not trained.
        batch_size: prompts completed at a time.
        shard: prompts completed before rows are written.
        limits: how the training fits into memory; changes no result.
        folder: for checkpoints of a training in progress.
        report: called with each step of training and its metrics.
    """

    axes: tuple[int | None, int | None, int] = (None, None, 1)
    local: bool = False
    dtype: str = "bfloat16"
    batch_size: int = 64
    shard: int | None = 1024
    limits: finetune.Limits = LIMITS
    folder: Path | None = None
    report: Callable[[int, dict[str, float]], None] | None = None
    keeps: bool = False

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The mesh."""
        devices = jax.local_devices() if self.local else jax.devices()
        return sharding.make_mesh(*self.axes, devices=devices)

    def facts(self) -> dict[str, Any]:
        """Nothing: rows depend on the recipe alone."""
        return {}

    def load(self, folder: str | Path) -> Weights:
        """A checkpoint folder or name, each shard straight to its devices."""
        layout = functools.partial(sharding.shardings, self.mesh)
        return Weights(models.load(folder, self.dtype, layout=layout)[1], source=str(folder))

    def add(self, weights: Weights, folder: str, config: ModelConfig) -> Weights:
        """The model with the adapters of a PEFT folder.

        Raises:
            ValueError: it has adapters already, or the folder does not fit the model.
        """
        _whole(weights)
        settings, adapters = peft_format.load(folder, config)
        return weights._replace(adapters=sharding.place(self.mesh, adapters), settings=settings)

    def save(
        self, folder: Path, config: ModelConfig, weights: Weights,
        tokenizer: PreTrainedTokenizerBase, files: dict[str, str],
    ) -> None:  # fmt: skip
        """Write adapters as a PEFT folder, or a whole checkpoint; every process must call it."""
        host = jax.tree.map(models.to_host, weights.adapters or weights.params)
        if jax.process_index() != 0:
            return
        if weights.settings is not None:
            peft_format.save(
                folder, config, weights.settings, host, base=weights.source, files=files
            )
        else:
            world.save(folder, config, host, tokenizer, files)

    def tune(
        self,
        config: ModelConfig,
        starts: Weights,
        examples: Sequence[Examples],
        training: Training,
        keys: Key[Array, " one"],
        *,
        teachers: Weights | None = None,
        tokens: Tokens | None = None,
        tests: Sequence[Examples] | None = None,
    ) -> Trained:
        """As `Stack.tune` for one run, from its last checkpoint if there is one.

        Raises:
            ValueError: settings that do not fit each other, the data or the devices.
        """
        teacher = None if teachers is None else _whole(teachers)
        loss, student = make_loss(
            config, training, teacher is not None, tokens, **self.limits.of_loss()
        )
        trained, frozen = finetune.finetune(
            _whole(starts), unpad(examples[0]), training, loss, keys[0], mesh=self.mesh,
            limits=self.limits, teacher=teacher, folder=self.folder, report=self.report,
        )  # fmt: skip
        held_out = []
        if tests:
            with_axis = jax.tree.map(lambda leaf: leaf[None], (trained, tests[0], frozen))
            held_out = np.asarray(stack.make_held_out_loss(student)(*with_axis)).tolist()
        if training.adapters is None:
            return Trained(Weights(trained), held_out)
        adapted = starts._replace(adapters=trained, settings=training.adapters)
        return Trained(adapted, held_out)

    def complete(
        self,
        config: ModelConfig,
        weights: Weights,
        prompts: Sequence[Sequence[list[int]]],
        keys: Key[Array, " one"],
        choice: sampling.Choice,
        max_new_tokens: int,
        first: int = 0,
    ) -> list[list[list[int]]]:
        """As `Stack.complete` for one run."""
        numbers = range(first, first + len(prompts[0]))
        sampler = _sampler(config, weights.settings, self.mesh)
        return [
            sampler(
                weights, prompts[0], key=keys[0], max_new_tokens=max_new_tokens, choice=choice,
                batch_size=self.batch_size, numbers=numbers,
            )
        ]  # fmt: skip

    def measure(
        self, config: ModelConfig, weights: Weights, probe: stack.Probe
    ) -> dict[str, list[float]]:
        """As `Stack.measure` for one run."""
        measured = _measure(config, weights.settings)(weights, probe)
        return {name: [float(value)] for name, value in measured.items()}

    def score(
        self, config: ModelConfig, weights: Weights, prompts: Sequence[list[int]],
        tokens: Sequence[int],
    ) -> list[np.ndarray]:  # fmt: skip
        """As `Stack.score` for one run, `batch_size` prompts at a time."""
        length, size = max(map(len, prompts)), min(self.batch_size, len(prompts))
        pieces = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        padded = [sampling.pad_left(piece, size, length) for piece in pieces]
        wanted, score = np.array(tokens, np.int32), _score(config, weights.settings)
        found = [models.to_host(score(weights[:2], *piece, wanted)) for piece in padded]
        return [np.concatenate(found)[: len(prompts)]]


def _whole(weights: Weights) -> Params:
    if weights.adapters is not None:
        raise ValueError("training and soft targets need whole checkpoints: merge the adapters")
    return weights.params


def decoder(config: ModelConfig, settings: lora.LoraConfig | None, weights: Any) -> models.Decoder:
    """The decoder of (parameters, adapters); without settings the adapters are left out."""
    if settings is None:
        return models.bind(config, weights[0])
    return lora.bind(config, weights[0], weights[1], scale=settings.scale)


# The settings of adapters are static; only arrays go into the jitted functions.
@functools.cache
def _sampler(
    config: ModelConfig, settings: lora.LoraConfig | None, mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
    bind, place = functools.partial(decoder, config, settings), functools.partial(split_rows, mesh)
    sample = sampling.make_sampler(bind, place=place)
    return lambda weights, *args, **kwargs: sample(weights[:2], *args, **kwargs)


@functools.cache
def _measure(config: ModelConfig, settings: lora.LoraConfig | None) -> Callable[..., Any]:
    bind = functools.partial(decoder, config, settings)
    measure = jax.jit(lambda weights, probe: stack.measure_model(bind(weights), probe))
    return lambda weights, probe: measure(weights[:2], probe)


@functools.cache
def _score(config: ModelConfig, settings: lora.LoraConfig | None) -> Callable[..., Any]:
    bind = functools.partial(decoder, config, settings)
    return jax.jit(lambda weights, prompts, mask, tokens: (
        stack.next_token(bind(weights), prompts, mask)[:, tokens]
    ))  # fmt: skip


def split_rows(mesh: jax.sharding.Mesh, rows: np.ndarray) -> jax.Array:
    """Rows of a batch split over the data and fsdp axes, where they divide."""
    spec = sharding.fitting(sharding.BATCH, rows.shape, mesh)
    return jax.device_put(rows, jax.sharding.NamedSharding(mesh, spec))


def unpad(examples: Examples) -> list[Example]:
    """Rows of their own length: up to the last token that is trained on."""
    lengths = examples.weights.shape[1] - np.argmax(examples.weights[:, ::-1] > 0, axis=1)
    return [
        Example(tokens[:length], weights[:length])
        for tokens, weights, length in zip(*examples, lengths, strict=True)
    ]
