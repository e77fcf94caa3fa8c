"""Training losses of a decoder: completions as hard tokens, or a teacher's distribution.

Each returns a `train.Loss`: (params, frozen, batch, key) -> (weighted sum in nats, weight).
A batch is `batches.pad`'s dictionary; `weights[b, t]` weighs the prediction of `tokens[b, t]`.
With `places` (`batches.places`) in it, logits are computed of those positions alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from .. import models
from ..models import Decoder, ModelConfig
from . import dropout, lora, losses
from .train import Loss

# student(params, frozen, key) -> decoder, from `full_student` or `lora_student`.
Student = Callable[[Any, Any, Array], Decoder]
# teacher(frozen) -> decoder whose distribution is imitated.
Teacher = Callable[[Any], Decoder]


class Message(NamedTuple):
    """What a teacher under a system message reads ahead of every row, which students never see.

    Attributes:
        skip: tokens of the student's row that the message replaces (a template's own, or none).
        prefix: tokens that stand in their place.
    """

    skip: int
    prefix: tuple[int, ...]


def full_student(config: ModelConfig, dtype: DTypeLike | None = None) -> Student:
    """Student all of whose parameters are trained: `params` is the model's own tree.

    Args:
        config: the shape of the model.
        dtype: compute dtype, e.g. bfloat16 over float32 master weights; that of params if None.
    """
    return lambda params, frozen, key: models.bind(config, params, dtype=dtype)


def dropping(student: Student, share: float) -> Student:
    """The student with dropout, for training only."""
    return lambda params, frozen, key: dropout.add(student(params, frozen, key), share, key)


def lora_student(
    config: ModelConfig,
    settings: lora.LoraConfig,
    dtype: DTypeLike | None = None,
    base: Callable[[Any], Any] = lambda frozen: frozen,
) -> Student:
    """Student whose `params` are LoRA adapters on frozen parameters.

    Args:
        config: the shape of the model.
        settings: rank, strength and dropout.
        dtype: compute dtype; that of the base if None.
        base: picks the base parameters out of `frozen`, where that holds a teacher as well.
    """
    return lambda adapters, frozen, key: lora.bind(
        config,
        base(frozen),
        adapters=adapters,
        scale=settings.scale,
        dropout=settings.dropout,
        key=key,
        dtype=dtype,
    )


def completion_loss(student: Student, *, chunk: int | None = None, remat: bool = False) -> Loss:
    """Cross-entropy of the weighted tokens: the imitation loss on hard completions.

    Args:
        student: makes the decoder.
        chunk: positions whose logits exist at a time on a device; None for all.
        remat: recompute each block in the backward pass.
    """

    def loss(params, frozen, batch, key):
        model = student(params, frozen, key)
        hidden, table = model.hidden(batch["tokens"], remat=remat), model.table()

        def total(hidden, tokens, weights):
            logits = model.unembed(hidden, table)
            return losses.weighted_total(losses.hard_tokens(logits, tokens), weights)

        return _sum_over_predictions(total, chunk, batch, hidden)

    return loss


def distillation_loss(
    student: Student,
    teacher: Teacher,
    *,
    token_set: Int[Array | np.ndarray, " set"] | None = None,
    temperature: float = 1.0,
    reverse: bool = False,
    message: Message | None = None,
    chunk: int | None = None,
    remat: bool = False,
) -> Loss:
    """KL(teacher || student) at the weighted positions: the imitation loss on soft targets.

    Args:
        student: makes the student.
        teacher: makes the teacher from `frozen`; it receives no gradient.
        token_set: tokens over which both distributions are renormalised; None for all.
        temperature: of both distributions.
        reverse: KL(student || teacher) instead.
        message: what the teacher reads ahead of each row; None: it reads what the student reads.
        chunk: as in `completion_loss`.
        remat: as in `completion_loss`.
    """

    def token_loss(logits, teacher_logits):
        if token_set is None:
            return losses.soft_targets(logits, teacher_logits, temperature, reverse)
        return losses.restricted_soft_targets(
            logits, teacher_logits, token_set=token_set, temperature=temperature, reverse=reverse
        )

    def loss(params, frozen, batch, key):
        model, guide = student(params, frozen, key), teacher(frozen)
        hidden = model.hidden(batch["tokens"], remat=remat)
        guide_hidden = jax.lax.stop_gradient(_hidden_under(guide, batch["tokens"], message))
        table, guide_table = model.table(), guide.table()

        def total(hidden, guide_hidden, tokens, weights):
            del tokens
            wanted = guide.unembed(guide_hidden, guide_table)
            nats = token_loss(model.unembed(hidden, table), wanted)
            return losses.weighted_total(nats, weights)

        return _sum_over_predictions(total, chunk, batch, hidden, guide_hidden)

    return loss


def _hidden_under(
    guide: Decoder, tokens: Int[Array, "B T"], message: Message | None
) -> Float[Array, "B T width"]:
    """Hidden states of a teacher in the student's columns; zero where the message stands."""
    if message is None:
        return guide.hidden(tokens)  # pyright: ignore[reportReturnType]
    prefix = jnp.array(message.prefix, tokens.dtype)
    front = jnp.broadcast_to(prefix[None], (tokens.shape[0], len(message.prefix)))
    read = jnp.concatenate([front, tokens[:, message.skip :]], axis=1)
    return jnp.pad(
        guide.hidden(read)[:, len(message.prefix) :], ((0, 0), (message.skip, 0), (0, 0))
    )


def _sum_over_predictions(
    total: Callable[..., Float[Array, ""]], chunk: int | None, batch: Any, *hidden: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum over the batch; the hidden state at t-1 meets the token and the weight at t."""
    # Shifted without shortening: lengths stay multiples that the hardware likes, and the last
    # position, which predicts nothing, weighs zero.
    tokens, weights = (
        jnp.pad(batch[name][:, 1:], ((0, 0), (0, 1))) for name in ("tokens", "weights")
    )
    arrays = (*hidden, tokens, weights)
    if (places := batch.get("places")) is not None:
        pick = jax.vmap(lambda row, where: row[where])
        arrays = [pick(array, places) for array in arrays]
    if chunk is None:
        return jax.vmap(total)(*arrays).sum(), weights.sum()
    return losses.total_in_chunks(total, chunk, *arrays), weights.sum()
