"""One model at a time over the devices of a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key
from transformers import PreTrainedTokenizerBase

from .. import finetune, lora, models, objectives, peft_format, sampling, sharding, stack, world
from ..batches import Examples
from ..models import ModelConfig, Params
from ..training import Training
from .common import OneByOne, Tokens, Trained, make_loss, unpad

LIMITS = finetune.Limits()


class Weights(NamedTuple):
    """One model on a mesh. Adapters stay beside their base: bfloat16 would round them away.

    Attributes:
        params: None for those of the checkpoint `source`, which each operation reads in the form
            that suits it: layers stacked to train, by number to sample.
        adapters: by number.
        settings: of the adapters.
        source: a checkpoint folder or name, recorded in adapter folders.
    """

    params: Params | None = None
    adapters: lora.Adapters | None = None
    settings: lora.LoraConfig | None = None
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
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
        """The dtype that it computes in; memory and devices change no result."""
        return {"engine": {"dtype": self.dtype}}

    def load(self, folder: str | Path) -> Weights:
        """A checkpoint folder or name; it is read when it is needed."""
        return Weights(source=str(folder))

    def loaded(self, weights: Weights, stacked: bool = False) -> Weights:
        """The same with its parameters on the devices, each tensor straight to where it belongs.

        Args:
            weights: a model.
            stacked: layers as one stack (`models.stacking`).
        """
        if weights.params is not None:
            form = models.stack_layers if stacked else models.unstack_layers
            return weights._replace(params=form(weights.params))
        key = weights.source, stacked
        if key not in self._held:
            self._held.clear()  # before the next large model is read
            layout = functools.partial(sharding.shardings, self.mesh)
            _, self._held[key] = models.load(
                weights.source, self.dtype, layout=layout, stacked=stacked
            )
        return weights._replace(params=self._held[key])

    @functools.cached_property
    def _held(self) -> dict[tuple[str, bool], Params]:
        """The parameters read last."""
        return {}

    def add(self, weights: Weights, folder: str, config: ModelConfig) -> Weights:
        """The model with the adapters of a PEFT folder.

        Raises:
            ValueError: it has adapters already, or the folder does not fit the model.
        """
        _whole(weights)
        settings, adapters = peft_format.load(folder, config)
        return weights._replace(adapters=sharding.place(self.mesh, adapters), settings=settings)

    def save(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        weights: Weights,
        tokenizer: PreTrainedTokenizerBase,
        files: dict[str, str],
    ) -> None:
        """Write adapters as a PEFT folder, or a whole checkpoint; every process must call it."""
        host = jax.tree.map(models.to_host, weights.adapters or self.loaded(weights).params)
        if jax.process_index() != 0:
            return
        if weights.settings is not None:
            peft_format.save(
                folder,
                config,
                settings=weights.settings,
                adapters=host,
                base=weights.source,
                files=files,
                wrapped=bool(weights.source) and models.is_wrapped(weights.source),
            )
        else:
            world.save(folder, config, params=host, spoken=tokenizer, files=files)

    def tune(
        self,
        config: ModelConfig,
        starts: Weights,
        *,
        examples: Sequence[Examples],
        training: Training,
        keys: Key[Array, " one"],
        teachers: Weights | None = None,
        tokens: Tokens | None = None,
        told: objectives.Told | None = None,
        tests: Sequence[Examples] | None = None,
    ) -> Trained:
        """As `Stack.tune` for one run, from its last checkpoint if there is one.

        Raises:
            ValueError: settings that do not fit each other, the data or the devices.
        """
        stacked = stackable(config, training.adapters)
        teacher = None if teachers is None else _whole(self.loaded(teachers, stacked))
        loss, student = make_loss(
            config,
            training,
            soft=teacher is not None,
            tokens=tokens,
            told=told,
            **self.limits.of_loss(),
        )
        trained, frozen = finetune.finetune(
            _whole(self.loaded(starts, stacked)),
            unpad(examples[0]),
            training=training,
            loss=loss,
            key=keys[0],
            mesh=self.mesh,
            limits=self.limits,
            teacher=teacher,
            folder=self.folder,
            report=self.report,
        )
        held_out = [self._held_out_loss(student, trained, frozen, tests[0])] if tests else []
        numbered = models.unstack_layers(trained)
        if training.adapters is None:
            return Trained(Weights(numbered), held_out)
        adapted = starts._replace(adapters=numbered, settings=training.adapters)
        return Trained(adapted, held_out)

    def _held_out_loss(
        self, student: objectives.Student, trained: Any, frozen: Any, tests: Examples
    ) -> float:
        """Cross-entropy in nats a token, `batch_size` rows at a time."""
        loss = _hard_loss(student, self.limits.chunk)
        total = weight = 0.0
        for first in range(0, len(tests.tokens), self.batch_size):
            rows = (x[first : first + self.batch_size] for x in tests)
            tokens, weights = (split_rows(self.mesh, x) for x in rows)
            batch = {"tokens": tokens, "weights": weights}
            found = jax.device_get(loss(trained, frozen, batch, jax.random.key(0)))
            total, weight = total + float(found[0]), weight + float(found[1])
        return total / weight

    def complete(
        self,
        config: ModelConfig,
        weights: Weights,
        *,
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
                self.loaded(weights),
                prompts[0],
                key=keys[0],
                max_new_tokens=max_new_tokens,
                choice=choice,
                batch_size=self.batch_size,
                numbers=numbers,
            )
        ]

    def measure(
        self, config: ModelConfig, weights: Weights, probe: stack.Probe
    ) -> dict[str, list[float]]:
        """As `Stack.measure` for one run."""
        measured = _measure(config, weights.settings)(self.loaded(weights), probe)
        return {name: [float(value)] for name, value in measured.items()}

    def score(
        self,
        config: ModelConfig,
        weights: Weights,
        prompts: Sequence[list[int]],
        tokens: Sequence[int],
    ) -> list[np.ndarray]:
        """As `Stack.score` for one run, `batch_size` prompts at a time."""
        length, size = sampling.bucket(max(map(len, prompts))), min(self.batch_size, len(prompts))
        pieces = [prompts[first : first + size] for first in range(0, len(prompts), size)]
        padded = [sampling.pad_left(piece, size, length) for piece in pieces]
        wanted, score = np.array(tokens, np.int32), _score(config, weights.settings)
        arrays = self.loaded(weights)[:2]
        found = [models.to_host(score(arrays, *piece, wanted)) for piece in padded]
        return [np.concatenate(found)[: len(prompts)]]


def _whole(weights: Weights) -> Params:
    if weights.adapters is not None:
        raise ValueError("training and soft targets need whole checkpoints: merge the adapters")
    return weights.params


def stackable(config: ModelConfig, adapters: lora.LoraConfig | None) -> bool:
    """Whether what is trained has the same form in every layer."""
    if adapters is None:
        return True
    key = jax.random.key(0)
    tree = jax.eval_shape(lambda: lora.init(adapters, models.init(config, key=key), key=key))
    return models.is_uniform(tree) and len(tree["layers"]) == config.num_layers


def decoder(config: ModelConfig, settings: lora.LoraConfig | None, weights: Any) -> models.Decoder:
    """The decoder of (parameters, adapters); without settings the adapters are left out."""
    if settings is None:
        return models.bind(config, weights[0])
    return lora.bind(config, weights[0], adapters=weights[1], scale=settings.scale)


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
    return jax.jit(
        lambda weights, prompts, mask, tokens: stack.next_token(bind(weights), prompts, mask)[
            :, tokens
        ]
    )


@functools.lru_cache(maxsize=8)
def _hard_loss(student: objectives.Student, chunk: int | None) -> Callable[..., Any]:
    return jax.jit(objectives.completion_loss(student, chunk=chunk))


def split_rows(mesh: jax.sharding.Mesh, rows: np.ndarray) -> jax.Array:
    """Rows of a batch split over the data and fsdp axes, where they divide."""
    spec = sharding.fitting(sharding.BATCH, rows.shape, mesh)
    return jax.device_put(rows, jax.sharding.NamedSharding(mesh, spec))
