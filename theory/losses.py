"""Imitation losses L_S(z, y) of student logits z and teacher logits y, with their matrix M.

M_ij = -∂²L_S / ∂y_j ∂z_i at z = y is what a teacher's change of logits becomes in the student's
update (arXiv 2507.14805, appendix C). It is symmetric positive semidefinite for every loss
here, which is the whole reason for the sign in Lemma 1. M is never built, only multiplied.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Logits = Float[Array, "*batch outputs"]
PerExample = Float[Array, "*#batch"]
Side = Float[Array, "*#batch outputs"]  # logits of one network, broadcast against another's


@dataclasses.dataclass(frozen=True)
class ImitationLoss:
    """One imitation loss, acting on the last axis.

    Attributes:
        name: for tables and error messages.
        value: L_S(z, y) per example; minimal at z = y if the theorem is to cover it.
        mixed_hessian: the product (y, v) -> M(y) v.
    """

    name: str
    value: Callable[[Side, Side], PerExample]
    mixed_hessian: Callable[[Logits, Logits], Logits]


def from_value(name: str, value: Callable[[Side, Side], PerExample]) -> ImitationLoss:
    """Any twice differentiable loss; M v by differentiating ∂L_S/∂z along v in y, at z = y."""

    def mixed_hessian(y: Logits, v: Logits) -> Logits:
        def gradient(targets: Logits) -> Logits:
            return jax.grad(lambda z: jnp.sum(value(z, targets)))(y)

        return -jax.jvp(gradient, (y,), (v,))[1]

    return ImitationLoss(name, value, mixed_hessian)


def squared_error(weights: Sequence[float | int] | None = None) -> ImitationLoss:
    """Σ_i w_i (z_i - y_i)² with w ≥ 0, all ones if omitted; M = 2 diag(w).

    Raises:
        ValueError: for a negative weight, or when called on another number of outputs.
    """
    if weights is not None and min(weights) < 0:
        raise ValueError(f"weights of the squared error must be at least 0, got {min(weights)}")

    def weight(y: Logits) -> Logits:
        if weights is None:
            return jnp.ones_like(y)
        if len(weights) != y.shape[-1]:
            raise ValueError(f"{len(weights)} weights for {y.shape[-1]} outputs")
        return jnp.broadcast_to(jnp.asarray(weights, y.dtype), y.shape)

    return ImitationLoss(
        "squared error" if weights is None else "weighted squared error",
        lambda z, y: jnp.sum(weight(y) * (z - y) ** 2, axis=-1),
        lambda y, v: 2 * weight(y) * v,
    )


def softmax_mixed_hessian(y: Logits, v: Logits, temperature: float | int) -> Logits:
    """T⁻² (diag(p) - p pᵀ) v with p = softmax(y / T); the all-ones vector is in the null space."""
    p = jax.nn.softmax(y / temperature, axis=-1)
    centred = v - jnp.sum(p * v, axis=-1, keepdims=True)
    return p * centred / temperature**2


def cross_entropy(temperature: float | int = 1.0) -> ImitationLoss:
    """-Σ_i p_i(y) log p_i(z) in nats, p = softmax(· / T); M = T⁻² (diag(p) - p pᵀ)."""
    require_positive(temperature)

    def value(z: Side, y: Side) -> PerExample:
        p = jax.nn.softmax(y / temperature, axis=-1)
        return -jnp.sum(p * jax.nn.log_softmax(z / temperature, axis=-1), axis=-1)

    name = "cross-entropy" + at_temperature(temperature)
    return ImitationLoss(name, value, lambda y, v: softmax_mixed_hessian(y, v, temperature))


def kl(temperature: float | int = 1.0) -> ImitationLoss:
    """KL(teacher ‖ student) = Σ_i p_i(y) log(p_i(y) / p_i(z)) in nats; M as for cross-entropy."""
    require_positive(temperature)
    name = "KL(teacher‖student)" + at_temperature(temperature)
    return ImitationLoss(
        name,
        lambda z, y: divergence(y / temperature, z / temperature),
        lambda y, v: softmax_mixed_hessian(y, v, temperature),
    )


def reverse_kl(temperature: float | int = 1.0) -> ImitationLoss:
    """KL(student ‖ teacher) = Σ_i p_i(z) log(p_i(z) / p_i(y)) in nats; M as for cross-entropy.

    Its gradient in z is M(z) (z - y) at any distance, so the first-order prediction of the
    student's update is exact for models linear in their parameters, as for squared error.
    """
    require_positive(temperature)
    name = "KL(student‖teacher)" + at_temperature(temperature)
    return ImitationLoss(
        name,
        lambda z, y: divergence(z / temperature, y / temperature),
        lambda y, v: softmax_mixed_hessian(y, v, temperature),
    )


def argmax_labels() -> ImitationLoss:
    """Cross-entropy against the teacher's argmax; not covered: M = 0 and z = y is no minimum."""

    def value(z: Side, y: Side) -> PerExample:
        label = jnp.argmax(y, axis=-1, keepdims=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(z, axis=-1), label, axis=-1)[..., 0]

    return ImitationLoss("argmax labels", value, lambda y, v: jnp.zeros_like(v))


def on_outputs(loss: ImitationLoss, outputs: Sequence[int]) -> ImitationLoss:
    """The same loss on a fixed subset of the outputs; M is zero elsewhere.

    The subset is sliced out before the loss, so a softmax normalises over it alone, as the
    auxiliary logits of the MNIST experiment do.

    Raises:
        ValueError: for an empty subset or repeated outputs; when called, for an output that
            the network does not have.
    """
    index = np.asarray(outputs, dtype=int)
    if index.size == 0 or len(set(index.tolist())) != index.size:
        raise ValueError(f"outputs must be distinct and at least one, got {index.tolist()}")

    def pick(logits: Logits) -> Float[Array, "*batch subset"]:
        if index.min() < 0 or index.max() >= logits.shape[-1]:
            raise ValueError(
                f"outputs {index.tolist()} are out of range: the network has "
                f"{logits.shape[-1]} outputs, numbered from 0"
            )
        return logits[..., index]

    def mixed_hessian(y: Logits, v: Logits) -> Logits:
        return jnp.zeros_like(v).at[..., index].set(loss.mixed_hessian(pick(y), pick(v)))

    name = f"{loss.name} on {index.size} outputs"
    return ImitationLoss(name, lambda z, y: loss.value(pick(z), pick(y)), mixed_hessian)


def one_of(index: Array, candidates: Sequence[ImitationLoss]) -> ImitationLoss:
    """The loss of that number; under vmap over numbers one compiled program serves them all."""
    values = [loss.value for loss in candidates]
    products = [loss.mixed_hessian for loss in candidates]
    return ImitationLoss(
        "one of " + ", ".join(loss.name for loss in candidates),
        lambda z, y: jax.lax.switch(index, values, z, y),
        lambda y, v: jax.lax.switch(index, products, y, v),
    )


def divergence(a: Side, b: Side) -> PerExample:
    """KL(softmax(a) ‖ softmax(b)) in nats; a probability of exactly 0 in a contributes 0."""
    log_p, log_q = jax.nn.log_softmax(a, axis=-1), jax.nn.log_softmax(b, axis=-1)
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0), axis=-1)


def require_positive(temperature: float | int) -> None:
    """Raise ValueError for a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")


def at_temperature(temperature: float | int) -> str:
    """Suffix for names: empty at T = 1."""
    return "" if temperature == 1 else f" at T = {temperature:g}"
