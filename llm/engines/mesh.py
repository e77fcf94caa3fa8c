"""One model at a time over the devices of a mesh."""

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

from .. import models, plan, precision, sampling, sharding, world
from ..models import ModelConfig, Params
from ..training import Training, batches, finetune, lora, objectives, peft_format, stack
from ..training.batches import Examples
from .common import OneByOne, Tokens, Trained, make_loss, unpad

DEFAULT_AXES = (None, None, 1)
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
        axes: devices on the data, fsdp and tensor axes; None takes what is there. The default
            splits what is trained over fsdp, and samples on `sharding.make_sampling_mesh`.
        local: use this process' devices alone, for sampling different prompts on each host.
        dtype: of parameters that are not trained.
        batch_size: prompts completed at a time.
        shard: prompts completed before rows are written.
        limits: how the training fits into memory; changes no result.
        folder: for checkpoints of a training in progress.
        report: called with each step of training and its metrics.
    """

    axes: tuple[int | None, int | None, int] = DEFAULT_AXES
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
        """The mesh that trains."""
        return sharding.make_mesh(*self.axes, devices=self._devices)

    @property
    def _devices(self) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]
        return jax.local_devices() if self.local else jax.devices()

    def sampling_mesh(self, config: ModelConfig) -> jax.sharding.Mesh:
        """The mesh that reads: samples, scores and measures."""
        room = sharding.room_of(self._devices[0])
        return sampling_mesh(config, self._devices, axes=self.axes, dtype=self.dtype, room=room)

    def facts(self) -> dict[str, Any]:
        """The dtype that it computes in; memory and devices change no result."""
        return {"engine": {"dtype": self.dtype}}

    def load(self, folder: str | Path) -> Weights:
        """A checkpoint folder or name; it is read when it is needed."""
        return Weights(source=str(folder))

    def loaded(
        self, weights: Weights, mesh: jax.sharding.Mesh | None = None, stacked: bool = False
    ) -> Weights:
        """The same with its parameters on the devices, each tensor straight to where it belongs.

        Args:
            weights: a model.
            mesh: where they belong; that of training if None.
            stacked: layers as one stack (`models.stacking`).
        """
        mesh = mesh or self.mesh
        if weights.params is not None:
            form = models.stack_layers if stacked else models.unstack_layers
            return weights._replace(params=sharding.place(mesh, form(weights.params)))
        key = weights.source, stacked, mesh
        if key not in self._held:
            self._held.clear()  # before the next large model is read
            layout = functools.partial(sharding.shardings, mesh)
            _, self._held[key] = models.load(
                weights.source, self.dtype, layout=layout, stacked=stacked
            )
        return weights._replace(params=self._held[key])

    def _reading(self, config: ModelConfig, weights: Weights) -> tuple[jax.sharding.Mesh, Any]:
        """The mesh that reads, and parameters and adapters on it."""
        mesh = self.sampling_mesh(config)
        loaded = self.loaded(weights, mesh)
        return mesh, (loaded.params, sharding.place(mesh, loaded.adapters))

    @functools.cached_property
    def _held(self) -> dict[tuple[str, bool, jax.sharding.Mesh], Params]:
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
        message: objectives.Message | None = None,
        tests: Sequence[Examples] | None = None,
    ) -> Trained:
        """As `Stack.tune` for one run, from its last checkpoint if there is one.

        Raises:
            ValueError: settings that do not fit each other, the data or the devices.
        """
        stacked = stackable(config, training.adapters)
        teacher = None if teachers is None else _whole(self.loaded(teachers, stacked=stacked))
        loss, student = make_loss(
            config,
            training,
            soft=teacher is not None,
            tokens=tokens,
            message=message,
            **self.limits.of_loss(config),
        )
        trained, frozen = finetune.finetune(
            _whole(self.loaded(starts, stacked=stacked)),
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
        held_out = []
        if tests:
            chunk = self.limits.of_loss(config)["chunk"]
            loss = _hard_loss(student, chunk, self.mesh)
            held_out = [self._held_out_loss(loss, trained, frozen, tests[0])]
        numbered = models.unstack_layers(trained)
        if training.adapters is None:
            return Trained(Weights(numbered), held_out)
        adapted = starts._replace(adapters=numbered, settings=training.adapters)
        return Trained(adapted, held_out)

    def _held_out_loss(
        self, loss: Callable[..., Any], trained: Any, frozen: Any, tests: Examples
    ) -> float:
        """Cross-entropy in nats a token, `batch_size` rows at a time."""
        total = weight = 0.0
        places = batches.places(tests.weights, batches.most_weighted(tests.weights))
        arrays = {"tokens": tests.tokens, "weights": tests.weights, "places": places}
        for first in range(0, len(tests.tokens), self.batch_size):
            rows = slice(first, first + self.batch_size)
            batch = {name: sharding.split_rows(self.mesh, x[rows]) for name, x in arrays.items()}
            sums = jax.device_get(loss(trained, frozen, batch, jax.random.key(0)))
            total, weight = total + float(sums[0]), weight + float(sums[1])
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
        mesh, arrays = self._reading(config, weights)
        sampler = _sampler(config, weights.settings, mesh)
        return [
            sampler(
                arrays,
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
        mesh, arrays = self._reading(config, weights)
        measured = _measure(config, weights.settings, mesh)(arrays, probe)
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
        mesh, arrays = self._reading(config, weights)
        wanted, score = np.array(tokens, np.int32), _score(config, weights.settings, mesh)
        found = [models.to_host(score(arrays, *piece, wanted)) for piece in padded]
        return [np.concatenate(found)[: len(prompts)]]


def _whole(weights: Weights) -> Params:
    if weights.adapters is not None:
        raise ValueError("training and soft targets need whole checkpoints: merge the adapters")
    return weights.params


def sampling_mesh(
    config: ModelConfig, devices: Sequence[Any], *, axes: Sequence[Any], dtype: str, room: float
) -> jax.sharding.Mesh:
    """The mesh of the given axes; the default ones are chosen anew for what only reads."""
    if tuple(axes) != DEFAULT_AXES:
        return sharding.make_mesh(*axes, devices=devices)
    num_bytes = plan.count(config) * jnp.dtype(dtype).itemsize
    return sharding.make_sampling_mesh(num_bytes, devices, room)


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
    return sampling.make_sampler(functools.partial(decoder, config, settings), mesh=mesh)


@functools.cache
def _measure(
    config: ModelConfig, settings: lora.LoraConfig | None, mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
    def measure(weights, probe):
        return stack.measure_model(decoder(config, settings, weights), probe)

    return jax.jit(sharding.on(mesh, measure))


@functools.cache
def _score(
    config: ModelConfig, settings: lora.LoraConfig | None, mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
    def score(weights, prompts, mask, tokens):
        return stack.next_token(decoder(config, settings, weights), prompts, mask)[:, tokens]

    return jax.jit(sharding.on(mesh, score))


@functools.lru_cache(maxsize=8)
def _hard_loss(
    student: objectives.Student, chunk: int, mesh: jax.sharding.Mesh
) -> Callable[..., Any]:
    loss = objectives.completion_loss(student, chunk=chunk)

    def measured(*args):
        with precision.at(precision.MEASURED):
            return loss(*args)

    return jax.jit(sharding.on(mesh, measured))
