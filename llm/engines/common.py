"""What engines share: the loss that training minimises, and what it gives."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import models
from ..models import ModelConfig
from ..training import Training, lora, objectives
from ..training.batches import Example, Examples

Tokens = tuple[int, ...]


class Trained(NamedTuple):
    """What training gives: weights, and the loss on held-out rows of every run in nats a token."""

    weights: Any
    held_out_loss: list[float]


@functools.cache  # the same function again, so that JAX compiles what it does once
def make_student(
    config: ModelConfig, adapters: lora.LoraConfig | None, dtype: str
) -> objectives.Student:
    """The student on `frozen` = {"base": parameters under adapters or None, ...}."""
    if adapters is None:
        return objectives.full_student(config, _dtype(dtype))
    return objectives.lora_student(config, adapters, _dtype(dtype), lambda frozen: frozen["base"])


def _dtype(name: str) -> Any:
    # A stack computes in the dtype of its parameters, also where that is float64.
    return None if name == "float32" else jnp.dtype(name)


@functools.lru_cache(maxsize=8)  # as above
def make_loss(
    config: ModelConfig,
    training: Training,
    *,
    soft: bool,
    tokens: Tokens | None,
    message: objectives.Message | None = None,
    **limits: Any,
) -> tuple[Any, objectives.Student]:
    """The imitation loss, and the student that it trains as it is afterwards, without dropout.

    `frozen` of both is {"base": parameters under adapters or None, "teacher": parameters or None}.

    Args:
        config: the shape of the model.
        training: adapters or all parameters, and the dtype of the computation.
        soft: imitate the teacher's distribution instead of the tokens.
        tokens: the set over which distributions are renormalised; None for all.
        message: what the teacher reads ahead of each row.
        **limits: `chunk` and `remat` of `objectives`.
    """
    dtype = _dtype(training.dtype)
    student = make_student(config, training.adapters, training.dtype)
    trained = objectives.dropping(student, training.dropout) if training.dropout else student
    if not soft:
        return objectives.completion_loss(trained, **limits), student

    def teacher(frozen: Any) -> models.Decoder:
        return models.bind(config, frozen["teacher"], dtype=dtype)

    token_set = None if tokens is None else np.array(tokens)
    loss = objectives.distillation_loss(
        trained, teacher, token_set=token_set, reverse=training.reverse, message=message, **limits
    )
    return loss, student


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


def unpad(examples: Examples) -> list[Example]:
    """Rows of their own length: up to the last token that is trained on."""
    lengths = examples.weights.shape[1] - np.argmax(examples.weights[:, ::-1] > 0, axis=1)
    return [
        Example(tokens[:length], weights[:length])
        for tokens, weights, length in zip(*examples, lengths, strict=True)
    ]
