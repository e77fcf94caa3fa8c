"""What is compiled ahead: the very functions that training and sampling jit, on shapes alone."""

import dataclasses
import functools
from collections.abc import Generator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from .. import engines, models, plan, sampling, sharding
from ..models import ModelConfig
from ..training import Training, finetune, lora, train

Axes = tuple[int | None, int | None, int]


class Program(NamedTuple):
    """A jitted function and what it is called with.

    Attributes:
        name: for people.
        function: jitted.
        arguments: shapes with their places on the devices.
        useful: operations of matrix products that the task needs, by the usual count.
        unit: what one run of it is, or of the body of its endless loop.
        kept: the argument that comes back, to be given again.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    useful: float
    unit: str
    kept: int | None = None


# Gets each compiled program back before it yields the next.
Programs = Generator[Program, Any, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A training step.

    Attributes:
        config: the shape of the model.
        training: how it is trained.
        limits: how it is fitted into memory.
        axes: of the mesh.
        length: tokens of a row.
        weighted: of them, those that are trained on; None for all.
        soft: a teacher's distribution is imitated.
    """

    config: ModelConfig
    training: Training
    limits: finetune.Limits = finetune.Limits()  # noqa: RUF009
    axes: Axes = (None, None, 1)
    length: int
    weighted: int | None = None
    soft: bool = False
    by_host: ClassVar[bool] = False

    def programs(self, devices: Sequence[Any], room: float) -> Programs:
        """The step on these devices."""
        del room
        mesh, how = sharding.make_mesh(*self.axes, devices=devices), self.training
        loss, _ = engines.make_loss(
            self.config, how, soft=self.soft, tokens=None, **self.limits.of_loss(self.config)
        )
        stacked = engines.stackable(self.config, how.adapters)
        given = functools.partial(_params, self.config, mesh=mesh, stacked=stacked)
        frozen = {"base": None, "teacher": given(how.dtype) if self.soft else None}
        if how.adapters is None:
            trained = given("float32")
        else:
            frozen["base"] = given(how.dtype)
            init = functools.partial(lora.init, how.adapters, key=jax.random.key(0))
            trained = _placed(mesh, jax.eval_shape(init, frozen["base"]))
        state = _placed(mesh, jax.eval_shape(finetune.make_init(how), trained))
        step = finetune.make_step(loss, how, self.limits.accumulate, mesh)
        function = train.jit_step(step, jax.tree.map(lambda x: x.sharding, state))
        rows = functools.partial(_rows, mesh, how.batch_size)
        batch = {
            "tokens": rows(self.length),
            "weights": rows(self.length, dtype=jnp.float32),
            "places": rows(min(self.weighted or self.length, self.length)),
        }
        yield Program(
            "training step",
            function,
            (state, batch, _key(), frozen),
            self.useful,
            "step",
            kept=0,
        )

    @property
    def useful(self) -> float:
        """4 N operations a token under LoRA, 6 N else; the head where it is asked for alone."""
        head = self.config.vocab_size * self.config.width
        blocks = plan.matmul_weights(self.config) - head
        passes = 6.0 if self.training.adapters is None else 4.0
        tokens = self.length * blocks + min(self.weighted or self.length, self.length) * head
        teacher = tokens * 2.0 * self.soft
        return self.training.batch_size * (passes * tokens + teacher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """Sampling: reading the prompts, and the loop that draws tokens.

    Attributes:
        config: the shape of the model.
        adapters: beside its weights, if any.
        axes: of the mesh; the default is `sharding.make_sampling_mesh`.
        rows: drawn side by side.
        prompt: tokens of the longest prompt.
        new: tokens drawn at most.
        dtype: of weights and computation.
    """

    config: ModelConfig
    adapters: lora.LoraConfig | None = None
    axes: Axes = (None, None, 1)
    rows: int = 64
    prompt: int
    new: int
    dtype: str = "bfloat16"
    by_host: ClassVar[bool] = True  # each host draws rows of its own

    def programs(self, devices: Sequence[Any], room: float) -> Programs:
        """Both programs on the devices of one host, which each have so many bytes."""
        mesh = engines.sampling_mesh(
            self.config, devices, axes=self.axes, dtype=self.dtype, room=room
        )
        params = _params(self.config, self.dtype, mesh=mesh, stacked=False)
        adapters = None
        if self.adapters is not None:
            init = functools.partial(lora.init, self.adapters, key=jax.random.key(0))
            adapters = _placed(mesh, jax.eval_shape(init, params))
        weights = (params, adapters)
        bind = functools.partial(engines.decoder, self.config, self.adapters)
        programs = sampling.make_programs(bind, mesh)
        rows = functools.partial(_rows, mesh, self.rows)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self.rows))
        choice = sampling.Choice(1.0, 1.0, np.full(16, -1, np.int32))
        length = sampling.bucket(self.prompt)
        prompts, mask = rows(length), rows(length, dtype=jnp.bool_)
        count = (self.new, sampling.free_slots(self.new))
        useful = 2.0 * (
            plan.matmul_weights(self.config) - self.config.vocab_size * self.config.width
        )
        head = 2.0 * self.config.vocab_size * self.config.width
        compiled = yield Program(
            "prefill",
            programs.start,
            (weights, prompts, mask, keys, choice, *count),
            self.rows * (length * useful + head),
            "batch",
        )
        state = jax.eval_shape(
            lambda *arrays: programs.start(*arrays, *count), weights, prompts, mask, keys, choice
        )
        state = _struct(state, compiled.output_shardings)
        live = jax.ShapeDtypeStruct((), jnp.int32)
        yield Program(
            "drawing",
            programs.proceed,
            (weights, state, choice, live),
            self.rows * (useful + head),
            "token",
            kept=1,
        )


Job = Tuning | Drawing


def _params(config: ModelConfig, dtype: str, *, mesh: Mesh, stacked: bool) -> Any:
    form = models.stack_layers if stacked else lambda tree: tree
    tree = jax.eval_shape(
        lambda: form(models.init(config, key=jax.random.key(0), dtype=jnp.dtype(dtype)))
    )
    return _placed(mesh, tree)


def _placed(mesh: Mesh, tree: Any) -> Any:
    return _struct(tree, sharding.shardings(mesh, tree))


def _struct(tree: Any, layout: Any) -> Any:
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, layout
    )


def _rows(mesh: Mesh, count: int, length: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    spec = sharding.fitting(sharding.BATCH, (count, length), mesh)
    return jax.ShapeDtypeStruct((count, length), dtype, sharding=NamedSharding(mesh, spec))


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
