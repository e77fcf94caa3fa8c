"""A student of another start, even of another architecture, whose outputs match the teacher's.

The student starts at any θ_S with f_S = f_T⁰ on its inputs, the imitated outputs only; the teacher
moves from θ_T to θ_T + ε Δ_T. Expanding ∂L_S/∂z around y = f_T⁰,

    Δ_S = ε E_x[J_S(x)ᵀ M(x) J_T(x)] Δ_T + O(ε²).

Let u_S = J_S ∇L(θ_S) and u_T = J_T ∇L_T(θ_T): how the imitated outputs of each network move when
*it* climbs its trait loss, u(x) = Θ(x, X) r with Θ the tangent kernel between imitated and trait
outputs and r the residual of the trait loss. For Δ_T = -∇L_T(θ_T) and a student step α,

    L(student) - L(θ_S) = -α ε E_x⟨u_S, M u_T⟩ + O(ε²).

With a shared start u_S = u_T: a square, the theorem. Otherwise it is an inner product of two
functions, of either sign but bounded: E_x⟨u_S, M u_T⟩ = cos · √(E_x⟨u_S, M u_S⟩ E_x⟨u_T, M u_T⟩).
The cosine is the *alignment*; over E_x⟨u_T, M u_T⟩, what a student at θ_T itself would gain, the
same inner product is the *transfer share*, alignment · √(E_x⟨u_S, M u_S⟩ / E_x⟨u_T, M u_T⟩).
It is at most 1 if the student's outputs move no more than the teacher's do,
and has no bound otherwise: a student that moves them twice as far gains twice as much.

When the match is not exact the student also moves by Δ_0 = -∇E_x[L_S(f_S, f_T⁰)], of order 1 in ε,
and knows nothing of the trait: it decides the sign of the raw change. What the trait adds is the
difference to a control that imitates the teacher of ε = 0. The line for Δ_S - Δ_0 then has for M
the mixed derivative -∂²L_S/∂z∂y at the *pair* (f_S, f_T⁰). For squared error, cross-entropy and
KL(teacher ‖ student) it does not depend on z, so the line holds as it stands, matched or not; for
KL(student ‖ teacher) it does not depend on y and is M at the student's own outputs; in general it
is neither. A match up to the null space of M (a constant over softmax logits) is exact. Nothing is
said about outputs that were not matched.

Two propositions for starts drawn independently (tested in tests/theory/test_matched.py):

*Exactly chance.* If the student's class head has exchangeable rows, drawn independently of all
else and never trained or matched, its expected accuracy is 1/K for K classes, whatever its other
layers learn, at any width: relabelling its classes changes nothing else.

*Wide limit.* A head weight of variance 1/n meets another in Θ as a sum of n independent terms of
random sign, so u is of order n^-1/2: the gain of a shared start falls as 1/n. For two nets drawn
independently the signs are independent, the alignment has mean 0 and a spread that does not shrink
with n, about 1/√(imitated outputs x classes); matched in the lazy regime they stay so, as θ moves
by a vanishing share. Shared heads over independent bodies keep a positive alignment at any width:
the same products of head weights enter both sums. So in the wide, lazy limit a match by itself
passes nothing on in the mean; it takes feature learning or shared heads. How the transfer of nets
that learn features varies with their width is not derived.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from theory import alignment, steps, stream
from theory.base import Apply, LossFn, Params, require_float_params
from theory.losses import ImitationLoss

Scalar = jax.Array


class Network(NamedTuple):
    """A network at its start: `apply` gives the imitated outputs, `params` is θ_S or θ_T."""

    apply: Apply
    params: Params


def student_update(student: Network, teacher: Network, inputs: Any, loss: ImitationLoss) -> Params:
    """Δ_S = -∇E_x[L_S(f_S(x), f_T(x))] at θ_S; with the teacher at its start, the mismatch Δ_0.

    Raises:
        ValueError: if a leaf of the student is not floating point, or the outputs differ in shape.
    """
    require_float_params(student.params)
    return _mean(_batch_student_update, (student, teacher), inputs, loss)


def _batch_student_update(batch, student_params, teacher_params, *, applies, loss):
    of_student, of_teacher = applies
    targets = of_teacher(teacher_params, batch)
    _require_same_outputs(jax.eval_shape(of_student, student_params, batch), targets)
    return steps.descent(
        lambda p: jnp.mean(loss.value(of_student(p, batch), targets)), student_params
    )


def predicted_update(
    student: Network, teacher: Network, *, direction: Params, inputs: Any, loss: ImitationLoss
) -> Params:
    """E_x[J_Sᵀ M J_T] v by one jvp at the teacher and one vjp at the student; no kernel is formed.

    `direction` is Δ_T, or the displacement θ_T - θ_T⁰ of a teacher after many steps.
    """
    return _mean(_batch_predicted_update, (student, teacher), inputs, loss, direction)


def _batch_predicted_update(batch, student_params, teacher_params, direction, *, applies, loss):
    of_student, of_teacher = applies
    outputs, pullback = jax.vjp(lambda p: of_student(p, batch), student_params)
    targets, tangent = alignment.logits_and_tangent(of_teacher, teacher_params, direction, batch)
    _require_same_outputs(outputs, targets)
    num_examples = targets.size // targets.shape[-1]
    return pullback(loss.mixed_hessian(targets, tangent) / num_examples)[0]


class Forms(NamedTuple):
    """The three inner products of u_S and u_T under M, and what follows from them."""

    inner: Scalar  # E⟨u_S, M u_T⟩
    of_student: Scalar  # E⟨u_S, M u_S⟩, the gain of a student's own shared start
    of_teacher: Scalar  # E⟨u_T, M u_T⟩, the gain at the teacher's start

    @property
    def alignment(self) -> Scalar:
        """Cosine in [-1, 1]; 1 for a shared start, and 0 if either network moves no output."""
        size = jnp.sqrt(self.of_student * self.of_teacher)
        return self.inner / jnp.where(size == 0, 1, size)

    @property
    def share(self) -> Scalar:
        """First-order gain over that of a shared start: of either sign, and above 1 at times."""
        return self.inner / jnp.where(self.of_teacher == 0, 1, self.of_teacher)


def forms(
    student: Network,
    teacher: Network,
    *,
    student_direction: Params,
    teacher_direction: Params,
    inputs: Any,
    loss: ImitationLoss,
) -> Forms:
    """E⟨J_S v, M J_T w⟩ and both squares, by two jvps; for the lemma v = ∇L(θ_S), w = ∇L_T(θ_T)."""
    return _mean(
        _batch_forms, (student, teacher), inputs, loss, student_direction, teacher_direction
    )


def _batch_forms(batch, student_params, teacher_params, v, w, *, applies, loss):
    of_student, of_teacher = applies
    outputs, u_s = alignment.logits_and_tangent(of_student, student_params, v, batch)
    targets, u_t = alignment.logits_and_tangent(of_teacher, teacher_params, w, batch)
    _require_same_outputs(outputs, targets)

    def mean_product(a, b):
        return jnp.mean(jnp.sum(a * loss.mixed_hessian(targets, b), axis=-1))

    return Forms(mean_product(u_s, u_t), mean_product(u_s, u_s), mean_product(u_t, u_t))


def mismatch(student: Network, teacher: Network, inputs: Any, loss: ImitationLoss) -> Scalar:
    """E_x[L_S(f_S, f_T⁰) - L_S(f_T⁰, f_T⁰)] ≥ 0: how far the starts are from matched outputs."""
    return _mean(_batch_mismatch, (student, teacher), inputs, loss)


def _batch_mismatch(batch, student_params, teacher_params, *, applies, loss):
    outputs, targets = (
        f(p, batch) for f, p in zip(applies, (student_params, teacher_params), strict=True)
    )
    return jnp.mean(loss.value(outputs, targets) - loss.value(targets, targets))


class Matched(NamedTuple):
    """Both sides of the lemma at one ε; scalars, or arrays under vmap."""

    forms: Forms
    predicted: Scalar  # -α ε E⟨u_S, M u_T⟩
    trait_change: Scalar  # L(student) - L(control), the control imitates the unmoved teacher
    raw_change: Scalar  # L(student) - L(θ_S), with the mismatch in it
    mismatch_change: Scalar  # α ⟨∇L(θ_S), Δ_0⟩, what the mismatch alone does to first order in α
    remainder: Scalar  # |trait_change - predicted|; O(ε²) if matched, else + O(α² ε |Δ_0|)
    # ‖Δ_S - Δ_0 - ε E[J_Sᵀ M J_T] Δ_T‖, M at the teacher's outputs: O(ε²) if the starts are matched
    # or M does not depend on z, else O(ε), as for unmatched KL(student ‖ teacher).
    update_residual: Scalar


def measure(
    student: Network,
    teacher: Network,
    *,
    student_loss: LossFn,
    teacher_loss: LossFn,
    inputs: Any,
    loss: ImitationLoss,
    eps: float | Scalar,
    alpha: float | Scalar = 1.0,
) -> Matched:
    """One teacher step, one student step, and the comparison with first order.

    Args:
        student: at θ_S.
        teacher: at θ_T⁰; the same imitated outputs, any architecture.
        student_loss: L, the trait loss as a function of the student's parameters.
        teacher_loss: L_T.
        inputs: a batch drawn from D_S, or a `stream.Stream`.
        loss: L_S on the imitated outputs.
        eps: the teacher's step.
        alpha: the student's step; fixed as ε → 0.

    Raises:
        ValueError: if the outputs differ in shape or a leaf is not floating point.
    """
    delta_t = steps.teacher_update(teacher_loss, teacher.params)
    gradient = jax.grad(student_loss)(student.params)
    moved = teacher._replace(params=steps.moved(teacher.params, delta_t, eps))
    delta_0 = student_update(student, teacher, inputs, loss)
    delta_s = student_update(student, moved, inputs, loss)
    first = predicted_update(student, teacher, direction=delta_t, inputs=inputs, loss=loss)
    products = forms(
        student,
        teacher,
        student_direction=gradient,
        teacher_direction=optax.tree.scale(-1, delta_t),
        inputs=inputs,
        loss=loss,
    )

    def loss_after(update: Params) -> Scalar:
        return student_loss(steps.moved(student.params, update, alpha))

    predicted = -alpha * eps * products.inner
    trait_change = loss_after(delta_s) - loss_after(delta_0)
    rest = steps.moved(optax.tree.sub(delta_s, delta_0), first, -eps)
    return Matched(
        forms=products,
        predicted=predicted,
        trait_change=trait_change,
        raw_change=loss_after(delta_s) - student_loss(student.params),
        mismatch_change=alpha * alignment.inner_product(gradient, delta_0),
        remainder=jnp.abs(trait_change - predicted),
        update_residual=optax.tree.norm(rest),
    )


def _mean(fn: Callable, networks: tuple[Network, Network], inputs: Any, loss, *directions):
    """E_x of a function of one batch; the networks' parameters are operands, not constants."""
    applies = tuple(network.apply for network in networks)
    params = (network.params for network in networks)
    return stream.mean_over(fn, inputs, *params, *directions, applies=applies, loss=loss)


def _require_same_outputs(outputs: Any, targets: Any) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"student and teacher must have the same imitated outputs, got shapes {outputs.shape} "
            f"and {targets.shape}; let each `apply` return the imitated outputs only"
        )
