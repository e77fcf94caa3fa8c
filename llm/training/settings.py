"""How to train: the settings that decide the result, for a stack of runs or one large model."""

import dataclasses
from typing import Any

import optax

from ..models import parts
from ..settings import recorded_name
from . import lora, train


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How parameters are trained; with how much memory and on what is the engine's business.

    Attributes:
        steps: optimiser steps.
        batch_size: examples in a step, over all devices and microbatches.
        optimizer: "adam", "adamw", "sgd" or "momentum".
        learning_rate: step size (its largest, under a schedule).
        eps: of Adam; large enough, embeddings that the data never touches stay put.
        decay: "constant", "linear" or "cosine".
        warmup: steps of linear warm-up.
        weight_decay: of "adamw".
        clip_norm: global norm that gradients are clipped to.
        adapters: train LoRA adapters; None trains all parameters.
        held: parts that are not trained, by the names of `parts.parts_of`.
        dtype: of the computation; trained parameters are float32.
        dropout: share of what each block adds to the residual stream that is set to zero.
        reverse: of soft targets, KL(student ‖ teacher) in the place of KL(teacher ‖ student).
    """

    steps: int
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = dataclasses.field(default=1e-3, metadata={"recorded": "rate"})
    eps: float = 1e-8
    decay: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    adapters: lora.LoraConfig | None = None
    held: tuple[str, ...] = ()
    dtype: str = "float32"
    dropout: float = dataclasses.field(default=0.0, metadata={"later": True})
    reverse: bool = dataclasses.field(default=False, metadata={"later": True})

    def recorded(self) -> dict[str, Any]:
        """The settings as files record them."""
        names = {field.name: recorded_name(field) for field in dataclasses.fields(self)}
        return {names[name]: value for name, value in dataclasses.asdict(self).items()}

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimiser with its schedule.

        Raises:
            ValueError: an unknown name, or settings that exclude each other.
        """
        schedule: optax.ScalarOrSchedule = self.learning_rate
        if self.warmup or self.decay != "constant":
            schedule = train.make_schedule(self.learning_rate, self.steps, self.warmup, self.decay)
        optimizer = train.make_optimizer(
            self.optimizer,
            schedule,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            eps=self.eps,
        )
        return parts.hold(optimizer, self.held) if self.held else optimizer


def steps_of(epochs: float, num_examples: int, batch_size: int) -> int:
    """Steps in all epochs; the last one may run into the next epoch."""
    return -int(-epochs * num_examples // batch_size)
