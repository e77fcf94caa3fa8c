"""Theorem 1 and Lemma 1 as numbers: what is measured, and what first order predicts.

With the shared start θ⁰, teacher θ⁰ + ε Δ_T and student θ⁰ + α Δ_S (arXiv 2507.14805, section
6.1 and appendix C):

    Δ_S = ε G Δ_T + O(ε²),     G = E_x[J(x)ᵀ M(x) J(x)],
    ⟨Δ_S, Δ_T⟩ = ε Δ_Tᵀ G Δ_T + O(ε²) ≥ 0 to leading order,
    L_T(student) - L_T(θ⁰) = -α ⟨Δ_S, Δ_T⟩ + O(ε²) if Δ_T = -∇L_T(θ⁰),

J the Jacobian of the logits at θ⁰ and M the matrix of the imitation loss. G is as large as the
parameters squared and never formed: G v is one jvp, one product with M and one vjp.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from . import steps, stream
from .base import Apply, LossFn, Params, require_same_tree
from .losses import ImitationLoss, Logits

Scalar = jax.Array
Weight = bool | float | jax.Array


def inner_product(left: Params, right: Params) -> Scalar:
    """⟨Δ, Δ'⟩ over all parameters."""
    return jnp.asarray(optax.tree.vdot(left, right))


def cosine(left: Params, right: Params) -> Scalar:
    """⟨Δ, Δ'⟩ / (‖Δ‖ ‖Δ'‖), and 0 if either update is zero."""
    norms = optax.tree.norm(left) * optax.tree.norm(right)
    return inner_product(left, right) / jnp.where(norms == 0, 1, norms)


def without_parallel_part(
    gradient: Params, trait: Params, positive: Weight, negative: Weight
) -> Params:
    """The gradient less its part along the trait gradient, where that part has a wanted sign.

    Only where the gradient is not zero: Adam would turn the faintest entry of parameters that the
    loss does not reach, such as an idle class head, into steps of full size.

    Args:
        gradient: what is changed.
        trait: a tree of the same shapes.
        positive: 1 to remove the part where it points along the trait's, 0 to keep it.
        negative: the same where it points against it.
    """
    reached = jax.tree.map(lambda g, t: jnp.where(g == 0, 0, t), gradient, trait)
    along = inner_product(gradient, reached)
    along = jnp.maximum(along, 0) * positive + jnp.minimum(along, 0) * negative
    return steps.moved(gradient, reached, -along / inner_product(reached, reached))


def curvature_product(
    apply: Apply, params: Params, *, direction: Params, inputs: Any, loss: ImitationLoss
) -> Params:
    """G v = E_x[Jᵀ M J v] at `params`, by one jvp, one product with M and one vjp.

    For the softmax losses G is the Fisher, or generalised Gauss-Newton, matrix of the outputs.
    """
    require_same_tree(params, direction, "params and direction")
    return stream.mean_over(
        batch_curvature_product, inputs, params, direction, apply=apply, loss=loss
    )


def batch_curvature_product(
    batch: Any, params: Params, direction: Params, *, apply: Apply, loss: ImitationLoss
) -> Params:
    """G v of one batch."""
    logits, pullback = jax.vjp(lambda p: apply(p, batch), params)
    _, tangent = logits_and_tangent(apply, params, direction, batch)
    num_examples = logits.size // logits.shape[-1]
    return pullback(loss.mixed_hessian(logits, tangent) / num_examples)[0]


def quadratic_form(
    apply: Apply, params: Params, *, direction: Params, inputs: Any, loss: ImitationLoss
) -> Scalar:
    """Δᵀ G Δ = E_x[(J Δ)ᵀ M (J Δ)] ≥ 0: ⟨Δ_S, Δ_T⟩ per unit ε as ε → 0 (Lemma 1)."""
    require_same_tree(params, direction, "params and direction")
    return stream.mean_over(batch_quadratic_form, inputs, params, direction, apply=apply, loss=loss)


def batch_quadratic_form(
    batch: Any, params: Params, direction: Params, *, apply: Apply, loss: ImitationLoss
) -> Scalar:
    """Δᵀ G Δ of one batch."""
    logits, tangent = logits_and_tangent(apply, params, direction, batch)
    return jnp.mean(jnp.sum(tangent * loss.mixed_hessian(logits, tangent), axis=-1))


def logits_and_tangent(
    apply: Apply, params: Params, direction: Params, batch: Any
) -> tuple[Logits, Logits]:
    """f_θ(x) and J(x) v."""
    return jax.jvp(lambda p: apply(p, batch), (params,), (direction,))


def excess_loss(
    apply: Apply, params: Params, *, teacher_params: Params, inputs: Any, loss: ImitationLoss
) -> Scalar:
    """E_x[L_S(f_θ⁰, y) - L_S(y, y)], y the teacher's outputs; for KL, KL(teacher ‖ reference).

    How far the teacher's outputs moved on the student's inputs, seen by the student's loss; no
    label is needed. (2/ε) times it is ⟨Δ_S, Δ_T⟩ (1 + O(ε)), as both expand from ε Δ_Tᵀ G Δ_T:
    L_S is minimal at z = y for every y, so there its Hessian in z equals M.
    """
    return stream.mean_over(
        batch_excess_loss, inputs, params, teacher_params, apply=apply, loss=loss
    )


def batch_excess_loss(
    batch: Any, params: Params, teacher: Params, *, apply: Apply, loss: ImitationLoss
) -> Scalar:
    """Excess loss of one batch."""
    logits, targets = apply(params, batch), apply(teacher, batch)
    return jnp.mean(loss.value(logits, targets) - loss.value(targets, targets))


def coverage_cosine(
    apply: Apply, params: Params, *, teacher_params: Params, inputs: Any, loss: ImitationLoss
) -> Scalar:
    """Cosine of the student's first update with θ_T - θ⁰, a predictor (arXiv 2606.22019).

    Unlike the theorem it takes a teacher of any number of steps.
    """
    update = steps.student_update(
        apply, params, teacher_params=teacher_params, inputs=inputs, loss=loss
    )
    return cosine(update, optax.tree.sub(teacher_params, params))


def roundoff(
    apply: Apply,
    params: Params,
    *,
    direction: Params,
    inputs: Any,
    loss: ImitationLoss | None = None,
) -> Scalar:
    """Noise of ⟨Δ_S, Δ_T⟩: 8 u E_x[Σ_i |J Δ_T|_i δ_i], u machine epsilon, δ_i = 1 + |f|_i.

    The student sees teacher outputs rounded to u |f| and a softmax rounded to u, and both reach
    the inner product through J Δ_T. On the families of `toys` the noise is below a quarter of it.

    Args:
        apply: logits from parameters and a batch.
        params: θ⁰.
        direction: Δ_T.
        inputs: a batch, or a `stream.Stream`.
        loss: whose M says how much of an output's rounding reaches the gradient: δ, each entry of
            random sign, becomes |M δ|. Without it all of it does, which is a bound where M is at
            most 1, and far too high for a vocabulary, of which few tokens have any probability.
    """
    level = stream.mean_over(batch_scale, inputs, params, direction, apply=apply, loss=loss)
    return 8 * jnp.finfo(level.dtype).eps * level


DRAWS = 4  # of signs: fewer may cancel where there are two outputs


def batch_scale(
    batch: Any, params: Params, direction: Params, *, apply: Apply, loss: ImitationLoss | None
) -> Scalar:
    """E_x[Σ_i |J v|_i δ_i] of one batch."""
    logits, tangent = logits_and_tangent(apply, params, direction, batch)
    rounded = 1 + jnp.abs(logits)
    if loss is not None:
        signs = jax.random.rademacher(jax.random.key(0), (DRAWS, *logits.shape), logits.dtype)
        through = jax.vmap(lambda sign: loss.mixed_hessian(logits, sign * rounded))(signs)
        rounded = jnp.abs(through).mean(axis=0)
    return jnp.mean(jnp.sum(jnp.abs(tangent) * rounded, axis=-1))


class Alignment(NamedTuple):
    """Both sides of every claim at one ε; scalars, or arrays under vmap."""

    inner_product: Scalar  # ⟨Δ_S, Δ_T⟩
    cosine: Scalar  # the same over the norms
    predicted: Scalar  # ε Δ_Tᵀ G Δ_T
    remainder: Scalar  # |⟨Δ_S, Δ_T⟩ - ε Δ_Tᵀ G Δ_T|, of order ε²
    update_residual: Scalar  # ‖Δ_S - ε G Δ_T‖ / ‖ε G Δ_T‖, of order ε
    excess_form: Scalar  # (2/ε) E_x[L_S(f_θ⁰, y) - L_S(y, y)]
    trait_loss_change: Scalar  # L_T(θ⁰ + α Δ_S) - L_T(θ⁰)


def measure(
    apply: Apply,
    params: Params,
    *,
    trait_loss: LossFn,
    inputs: Any,
    loss: ImitationLoss,
    eps: float | Scalar,
    alpha: float | Scalar = 1.0,
    student_params: Params | None = None,
) -> Alignment:
    """One teacher step, one student step, and the comparison with first order.

    Pure in all arrays, so it can be jitted and vmapped over networks, teachers and ε.

    Args:
        apply: logits from parameters and a batch.
        params: θ⁰, the start of the teacher and, by the hypothesis, of the student.
        trait_loss: L_T.
        inputs: a batch drawn from D_S, or a `stream.Stream`.
        loss: L_S.
        eps: the teacher's step.
        alpha: the student's step; fixed as ε → 0.
        student_params: another start for the student, to remove the hypothesis. Predictions
            are still made at `params`, as the theorem would.

    Raises:
        ValueError: if trees differ or a leaf is not floating point.
    """
    start = params if student_params is None else student_params
    delta_t = steps.teacher_update(trait_loss, params)
    teacher = steps.moved(params, delta_t, eps)
    delta_s = steps.student_update(apply, start, teacher_params=teacher, inputs=inputs, loss=loss)

    predicted_update = optax.tree.scale(
        eps, curvature_product(apply, params, direction=delta_t, inputs=inputs, loss=loss)
    )
    predicted = eps * quadratic_form(apply, params, direction=delta_t, inputs=inputs, loss=loss)
    residual = optax.tree.norm(optax.tree.sub(delta_s, predicted_update))
    predicted_norm = optax.tree.norm(predicted_update)
    inner = inner_product(delta_s, delta_t)
    return Alignment(
        inner_product=inner,
        cosine=cosine(delta_s, delta_t),
        predicted=predicted,
        remainder=jnp.abs(inner - predicted),
        update_residual=jnp.where(residual == 0, 0, residual / predicted_norm),
        excess_form=2
        / eps
        * excess_loss(apply, start, teacher_params=teacher, inputs=inputs, loss=loss),
        trait_loss_change=trait_loss(steps.moved(start, delta_s, alpha)) - trait_loss(start),
    )
