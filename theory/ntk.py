"""Many steps, in closed form for the linearised (tangent-kernel) student.

Freeze the Jacobian at θ⁰. Under squared error the student's gradient flow towards a teacher at
displacement d = θ_T - θ⁰ has displacement

    s(t) = (I - e^{-G t}) d,     G = E_x[Jᵀ M J],

so ⟨s(t), d⟩ ≥ 0, grows with t, and tends to ‖Π d‖² with Π the projector on the row space of J
over the student's inputs. k steps of gradient descent at learning rate η give I - (I - η G)^k.
Both are functions of G applied to d, which a Krylov space finds from products G v alone. How far
from the truth it is with the products it has, `share_bounds` and `flow_error` say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from . import alignment, losses
from .base import Apply, Params, require_same_tree

SQUARED_ERROR = losses.squared_error()


class Krylov(NamedTuple):
    """G seen from d: its Ritz values and vectors in span{d, G d, G² d, ...}."""

    eigenvalues: Float[Array, "k"]  # ascending; of G per unit t
    vectors: Float[Array, "k num_params"]  # orthonormal rows, flattened parameters
    weights: Float[Array, "k"]  # components of d; Σ weights² = ‖d‖²
    coupling: Float[Array, "k"]  # G leads out of the space by this; 0 once it is exhausted


def krylov(
    apply: Apply,
    params: Params,
    *,
    displacement: Params,
    inputs: Any,
    num_products: int,
    loss: losses.ImitationLoss = SQUARED_ERROR,
) -> Krylov:
    """Lanczos with full reorthogonalisation: `num_products` times G v, and as many copies of θ.

    f(G) d is then exact for polynomials f of degree below `num_products`, so gradient descent
    of that many steps is exact; once the space is exhausted, everything is.

    Raises:
        ValueError: if the displacement is not a tree of the same shapes as `params`.
    """
    require_same_tree(params, displacement, "params and displacement")
    start, unravel = ravel_pytree(displacement)
    norm = jnp.linalg.norm(start)
    tiny = 1e3 * jnp.finfo(start.dtype).eps

    def product(vector: Array) -> Array:
        image = alignment.curvature_product(
            apply, params, direction=unravel(vector), inputs=inputs, loss=loss
        )
        return ravel_pytree(image)[0]

    def step(basis: Array, index: Array) -> tuple[Array, tuple[Array, Array]]:
        image = product(basis[index])
        diagonal = jnp.vdot(basis[index], image)
        rest = image
        for _ in range(2):  # once is not enough in finite precision
            rest = rest - basis.T @ (basis @ rest)
        size = jnp.linalg.norm(rest)
        # An exhausted space continues with zero vectors, which carry no weight.
        size = jnp.where(size > tiny * (jnp.linalg.norm(image) + jnp.abs(diagonal)), size, 0)
        new = rest / jnp.where(size == 0, 1, size) * (size > 0)
        return basis.at[index + 1].set(new, mode="drop"), (diagonal, size)

    basis = jnp.zeros((num_products, start.size), start.dtype).at[0].set(start / norm)
    basis, (diagonal, off) = jax.lax.scan(step, basis, jnp.arange(num_products))
    tridiagonal = jnp.diag(diagonal) + jnp.diag(off[:-1], 1) + jnp.diag(off[:-1], -1)
    eigenvalues, rotation = jnp.linalg.eigh(tridiagonal)
    return Krylov(eigenvalues, rotation.T @ basis, norm * rotation[0], off[-1] * rotation[-1])


def student_displacement(space: Krylov, params: Params, gain: Callable[[Array], Array]) -> Params:
    """gain(G) d as a tree: `flow_gain(t)` or `descent_gain(lr, steps)`."""
    _, unravel = ravel_pytree(params)
    return unravel((gain(space.eigenvalues) * space.weights) @ space.vectors)


def arrived_share(space: Krylov, gain: Callable[[Array], Array]) -> Array:
    """⟨s, d⟩ / ‖d‖², in [0, 1] for gradient flow.

    For a one-step teacher, d = -ε ∇L_T, it is the share of the first-order trait gain
    -⟨∇L_T, d⟩ that has arrived at the student.
    """
    return jnp.vdot(space.weights**2, gain(space.eigenvalues)) / jnp.sum(space.weights**2)


def flow_gain(time: float | Array) -> Callable[[Array], Array]:
    """λ -> 1 - e^{-λ t}; t is learning rate times steps of the loss Σ_i (z_i - y_i)²."""
    return lambda eigenvalues: -jnp.expm1(-jnp.maximum(eigenvalues, 0) * time)


def descent_gain(learning_rate: float | Array, num_steps: int) -> Callable[[Array], Array]:
    """λ -> 1 - (1 - η λ)^k, plain gradient descent; diverges for η λ > 2 as the real one does."""
    return lambda eigenvalues: 1 - (1 - learning_rate * eigenvalues) ** num_steps


def limit_gain(eigenvalues: Float[Array, "k"]) -> Float[Array, "k"]:
    """1 on the row space of J and 0 off it: t → ∞, s = Π d, once `share_bounds` meet there.

    Eigenvalues up to 10 u of the largest, u machine epsilon, are round-off and count as 0.
    """
    floor = 10 * jnp.finfo(eigenvalues.dtype).eps * jnp.max(eigenvalues)
    return (eigenvalues > floor).astype(eigenvalues.dtype)


def share_bounds(space: Krylov, time: float | Array) -> tuple[Array, Array]:
    """Lower and upper bound of the share ⟨s(t), d⟩ / ‖d‖² of gradient flow; `time` may be inf.

    `arrived_share` is a Gauss quadrature over the spectrum of G as d sees it. As even derivatives
    of 1 - e^{-λ t} are negative it lies above the truth, and the Gauss-Radau rule with one more
    node at λ = 0 below (Golub and Meurant, Matrices, Moments and Quadrature, 2010, chapter 6).
    At t = ∞, where all that is not at λ = 0 arrives, the upper bound is 1 unless the space holds
    what is at λ = 0 (`limit_gain` draws the line).
    """
    total = jnp.sum(space.weights**2)
    # The space and one vector more, with the corner that puts an eigenvalue at 0.
    linked = space.coupling != 0
    corner = jnp.sum(
        jnp.where(linked, space.coupling**2 / jnp.where(linked, space.eigenvalues, 1), 0)
    )
    arrow = jnp.diag(jnp.append(space.eigenvalues, corner))
    arrow = arrow.at[-1, :-1].set(space.coupling).at[:-1, -1].set(space.coupling)
    nodes, rotation = jnp.linalg.eigh(arrow)
    arrived = jnp.where(limit_gain(nodes) > 0, -jnp.expm1(-jnp.maximum(nodes, 0) * time), 0)
    low = jnp.vdot((space.weights @ rotation[:-1]) ** 2, arrived) / total
    forever = arrived_share(space, limit_gain)
    return low, jnp.where(jnp.isinf(time), forever, arrived_share(space, flow_gain(time)))


def flow_error(space: Krylov, time: float | Array, num_points: int = 400) -> Array:
    """Bound of ‖s_k(t) - s(t)‖ / ‖d‖ for the displacement s_k(t) found in the space.

    ds/dt = G (d - s) holds for s_k up to |Σ_i c_i w_i e^{-λ_i t}|, c the coupling, and G ≥ 0 never
    lets an error grow: the bound is the integral of that residual, by trapezes in log t.
    """
    first = 1e-3 / jnp.max(space.eigenvalues)
    times = jnp.append(0, jnp.geomspace(jnp.minimum(first, time / 2), time, num_points))
    pieces = jnp.exp(-jnp.maximum(space.eigenvalues, 0) * times[:, None]) * space.coupling
    residual = jnp.abs(pieces @ space.weights)
    return jnp.trapezoid(residual, times) / jnp.linalg.norm(space.weights)
