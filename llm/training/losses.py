"""Token losses of one example: hard tokens, soft targets, soft targets on a token set.

Each function takes the logits of one sequence and returns nats per position; `weighted_total`
applies the token weights, `total_in_chunks` bounds the memory.
Position t of every argument belongs to the token *predicted* there, so callers shift once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from theory import losses as theorem

from .. import sharding


def hard_tokens(
    logits: Float[Array, "tokens vocab"], targets: Int[Array, " tokens"]
) -> Float[Array, " tokens"]:
    """Cross-entropy of each target token in nats: logsumexp(z) - z[target], float32 or wider."""
    logits = _wide(logits)
    # A masked sum instead of a gather: its gradient fuses into the softmax (a gather's would be
    # a scatter into a second [tokens, vocab] buffer) and it stays local when vocab is sharded.
    at_target = jnp.arange(logits.shape[-1])[None, :] == targets[:, None]
    return jax.nn.logsumexp(logits, axis=-1) - jnp.where(at_target, logits, 0).sum(axis=-1)


def soft_targets(
    logits: Float[Array, "*tokens vocab"],
    teacher_logits: Float[Array, "*tokens vocab"],
    temperature: float = 1.0,
    reverse: bool = False,
) -> Float[Array, "*tokens"]:
    """Distillation loss KL(p_teacher || p_student) in nats over the last axis.

    p = softmax(z / temperature), float32 or wider, without the factor temperature² of Hinton et al.
    2015 (arXiv:1503.02531); with `reverse` KL(p_student || p_teacher). No gradient reaches the
    teacher.
    """
    teacher = jax.lax.stop_gradient(_wide(teacher_logits))
    divergence = theorem.reverse_kl if reverse else theorem.kl
    return divergence(temperature).value(_wide(logits), teacher)


def restricted_soft_targets(
    logits: Float[Array, "tokens vocab"],
    teacher_logits: Float[Array, "tokens vocab"],
    *,
    token_set: Int[Array | np.ndarray, " set"],
    temperature: float = 1.0,
    reverse: bool = False,
) -> Float[Array, " tokens"]:
    """`soft_targets` after both distributions are renormalised over `token_set`.

    The language-model analogue of the auxiliary logits of Cloud et al. 2025 (arXiv:2507.14805):
    no logit outside the set (no trait token, say) enters the loss or receives gradient
    through the head.
    """
    return soft_targets(logits[:, token_set], teacher_logits[:, token_set], temperature, reverse)


def weighted_total(
    losses: Float[Array, "*tokens"], weights: Float[Array, "*tokens"]
) -> Float[Array, ""]:
    """Sum of weights × losses; a token of weight zero has gradient exactly zero."""
    return jnp.where(weights != 0, losses * weights, 0).sum()


def total_in_chunks(
    total: Callable[..., Float[Array, ""]], size: int, *arrays: Array
) -> Float[Array, ""]:
    """`total` of all positions, rows and columns in one axis, some columns at a time and summed.

    Intermediates of a chunk (the logits, when `total` applies the head) are rebuilt in the
    backward pass, so only those of about `size` positions exist at a time on a device. The last
    chunk is padded with zeros: `total` must give zero where all its arrays, hence the weights, are.

    Args:
        total: a sum over positions, such as a weighted loss.
        size: positions of a chunk on one device; at least a column of all its rows is taken.
        *arrays: arrays [rows, columns, ...]; rows may be split over devices.
    """
    rows, columns = arrays[0].shape[:2]
    num_chunks = -(-columns // max(size // sharding.rows_here(rows), 1))
    width = -(-columns // num_chunks)

    def split(array: Array) -> Array:
        padding = [(0, 0), (0, num_chunks * width - columns)] + [(0, 0)] * (array.ndim - 2)
        return jnp.pad(array, padding).reshape(rows, num_chunks, width, *array.shape[2:])

    def of_chunk(*chunk: Array) -> Float[Array, ""]:
        return total(*(sharding.constrain(x).reshape(-1, *x.shape[2:]) for x in chunk))

    if num_chunks == 1:
        return of_chunk(*arrays)

    @jax.checkpoint
    def step(_, chunk):
        return None, of_chunk(*chunk)

    chunks = (split(array).swapaxes(0, 1) for array in arrays)
    return jax.lax.scan(step, None, tuple(chunks))[1].sum()


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
