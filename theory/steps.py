"""The two steps of the theorem: the teacher's on its trait loss, the student's on the outputs.

Notation of arXiv 2507.14805, section 6.1: an *update* Δ is what is added to the parameters per
unit step, so the teacher is θ⁰ + ε Δ_T and the student θ⁰ + α Δ_S.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from . import stream
from .base import Apply, LossFn, Params, require_float_params, require_same_tree
from .losses import ImitationLoss


def descent(loss_fn: LossFn, params: Params) -> Params:
    """-∇L(θ), the update of one step of gradient descent at learning rate 1."""
    return jax.grad(lambda p: -loss_fn(p))(params)


def moved(params: Params, update: Params, step: float | jax.Array) -> Params:
    """θ + step · Δ."""
    return optax.tree.add_scale(params, step, update)


def unit_step(params: Params, update: Params) -> jax.Array:
    """The step that moves the parameters by their own norm, ‖θ‖ / ‖Δ‖: a scale for ε."""
    return optax.tree.norm(params) / optax.tree.norm(update)


def teacher_update(trait_loss: LossFn, params: Params) -> Params:
    """Δ_T = -∇L_T(θ⁰), for any differentiable scalar L_T of the parameters.

    Raises:
        ValueError: if a leaf of `params` is not floating point, or L_T is not a scalar.
    """
    require_float_params(params)
    shape = jax.eval_shape(trait_loss, params).shape
    if shape != ():
        raise ValueError(f"the trait loss must be a scalar, got shape {shape}; take its mean")
    return descent(trait_loss, params)


def student_update(
    apply: Apply, params: Params, *, teacher_params: Params, inputs: Any, loss: ImitationLoss
) -> Params:
    """Δ_S = -∇_θ E_x[L_S(f_θ(x), f_teacher(x))] at θ = `params`, the outputs of the teacher fixed.

    One full-batch step. The theorem has `params` = θ⁰, the start that teacher and student share;
    nothing here requires it, so that the hypothesis can be removed.

    Args:
        apply: logits, of shape (*batch, outputs), from parameters and a batch.
        params: where the student starts.
        teacher_params: the teacher, a tree of the same shapes.
        inputs: a batch, or a `stream.Stream` of batches.
        loss: the imitation loss.

    Raises:
        ValueError: if the two trees differ, or a leaf is not floating point.
    """
    require_float_params(params)
    require_same_tree(params, teacher_params, "student and teacher params")
    return stream.mean_over(
        batch_student_update, inputs, params, teacher_params, apply=apply, loss=loss
    )


def batch_student_update(
    batch: Any, student: Params, teacher: Params, *, apply: Apply, loss: ImitationLoss
) -> Params:
    """Δ_S of one batch."""
    return descent(
        lambda p: batch_imitation_loss(batch, p, teacher, apply=apply, loss=loss), student
    )


def imitation_loss(
    apply: Apply, params: Params, *, teacher_params: Params, inputs: Any, loss: ImitationLoss
) -> jax.Array:
    """E_x[L_S(f_θ(x), f_teacher(x))], in nats for the softmax losses."""
    require_same_tree(params, teacher_params, "student and teacher params")
    return stream.mean_over(
        batch_imitation_loss, inputs, params, teacher_params, apply=apply, loss=loss
    )


def batch_imitation_loss(
    batch: Any, student: Params, teacher: Params, *, apply: Apply, loss: ImitationLoss
) -> jax.Array:
    """The imitation loss of one batch."""
    return jnp.mean(loss.value(apply(student, batch), apply(teacher, batch)))
