"""The whole theorem on one model: a report that says pass or fail per claim, with the numbers.

with jax.enable_x64(True):
    report = check.verify(apply, params, trait_loss, inputs, losses.cross_entropy())
print(report)
assert report.passed
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import alignment, asymptotics, losses, steps, stream
from .base import Apply, LossFn, Params, require_float64, require_float_params, require_logits

# ‖ε Δ_T‖ / ‖θ⁰‖ at which `search` looks first, coarse to fine, so that no model needs its own grid:
# networks of toys show their orders about 2^-14 to 2^-24, 135M parameters about 2^-17 to 2^-26.
COARSE_STEPS = 2.0 ** -np.arange(4, 53, 3)
SLOPE_TOLERANCE = 0.05  # window() keeps each point within 0.02 of the pure power law


@dataclasses.dataclass(frozen=True)
class Finding:
    """One claim about one model."""

    claim: str
    expected: str
    measured: str
    holds: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What `verify` found.

    Attributes:
        findings: one line per claim.
        eps: the teacher's steps, largest first.
        alpha: the student's step.
        measured: both sides of every claim at each of these steps.
        narrow: types narrower than float64 that `apply` computes in, a cause of failure.
    """

    findings: tuple[Finding, ...]
    eps: np.ndarray
    alpha: float
    measured: alignment.Alignment
    narrow: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every claim holds."""
        return all(finding.holds for finding in self.findings)

    def __str__(self) -> str:
        """A table for people."""
        lines = [
            f"{'pass' if f.holds else 'FAIL'}  {f.claim:<36} {f.expected:<16} {f.measured}"
            for f in self.findings
        ]
        verdict = "every claim holds" if self.passed else "NOT every claim holds"
        lines.append(
            f"{verdict}; eps from {self.eps[0]:.1e} to {self.eps[-1]:.1e}, alpha {self.alpha:.1e}"
        )
        if self.narrow and not self.passed:
            lines.append(
                f"cause: apply converts float64 to {' and '.join(self.narrow)} inside, and orders "
                "of eps drown in that rounding; build the module with dtype float64"
            )
        return "\n".join(lines)


def verify(
    apply: Apply,
    params: Params,
    *,
    trait_loss: LossFn,
    inputs: Any,
    loss: losses.ImitationLoss,
    alpha: float | None = None,
    student_params: Params | None = None,
    relative_steps: np.ndarray | None = None,
) -> Report:
    """Measure Lemma 1, Theorem 1 and their orders in ε for one model.

    Args:
        apply: logits, of shape (*batch, outputs), from parameters and a batch.
        params: θ⁰ in float64.
        trait_loss: L_T, a scalar of the parameters.
        inputs: a batch from D_S, or a `stream.Stream` of batches.
        loss: L_S.
        alpha: the student's step α Δ_S; None takes ‖Δ_T‖ / ‖G Δ_T‖, so that it is as long as the
            teacher's, whatever unit the loss has.
        student_params: another start for the student, to see the claims fail without their
            hypothesis.
        relative_steps: teacher steps ‖ε Δ_T‖ / ‖θ⁰‖, decreasing; None looks for those at which the
            orders show.

    Raises:
        ValueError: for parameters that are not float64 or differ between teacher and student,
            an `apply` that returns more than logits, a teacher that does not move, or a loss that
            is not finite.
    """
    require_float_params(params)
    require_float64(params)
    narrow = narrow_types(apply, params, inputs)
    delta_t, unit = first_step(trait_loss, params)

    run = compiled(lambda p, v: scales(apply, p, direction=v, inputs=inputs, loss=loss), inputs)
    noise, equal = map(float, run(params, delta_t))
    alpha = equal if alpha is None else alpha
    at = point_measure(
        apply,
        params,
        trait_loss=trait_loss,
        inputs=inputs,
        loss=loss,
        alpha=alpha,
        student_params=student_params,
    )
    if relative_steps is None:
        relative_steps, points = search(lambda step: at(step * unit), noise)
    else:
        points = [at(step * unit) for step in relative_steps]
    eps = relative_steps * unit
    measured = jax.tree.map(lambda *leaves: np.stack(leaves), *points)
    require_finite(f"the student's update under {loss.name}", measured.inner_product)
    require_finite("the trait loss at the student", measured.trait_loss_change)
    if (np.abs(measured.inner_product) <= noise).all() and (measured.predicted <= noise).all():
        findings = equality_case(measured, noise)
    else:
        findings = general_case(eps, measured, noise, alpha)
    return Report(findings=findings, eps=eps, alpha=alpha, measured=measured, narrow=narrow)


def first_step(trait_loss: LossFn, params: Params) -> tuple[Params, float]:
    """Δ_T, and the step that moves the teacher by the norm of θ⁰.

    Raises:
        ValueError: L_T or its gradient is not finite, or the teacher does not move.
    """

    @jax.jit
    def measured(params: Params) -> tuple[jax.Array, Params, jax.Array, jax.Array]:
        delta = steps.teacher_update(trait_loss, params)
        return trait_loss(params), delta, optax.tree.norm(delta), steps.unit_step(params, delta)

    value, delta_t, size, unit = measured(params)
    require_finite("the trait loss at params", value)
    require_finite("the gradient of the trait loss", size)
    if size == 0:
        raise ValueError("the trait loss has no gradient at params, so the teacher does not move")
    return delta_t, float(unit)


def scales(
    apply: Apply, params: Params, *, direction: Params, inputs: Any, loss: losses.ImitationLoss
) -> tuple[jax.Array, jax.Array]:
    """Before any step: the round-off of ⟨Δ_S, Δ_T⟩, and the α of a step as long as the teacher's.

    α = ‖Δ_T‖ / ‖G Δ_T‖; 1 where the student does not move.
    """
    given = {"direction": direction, "inputs": inputs, "loss": loss}
    length = optax.tree.norm(alignment.curvature_product(apply, params, **given))
    alpha = jnp.where(length > 0, optax.tree.norm(direction) / length, 1.0)
    return alignment.roundoff(apply, params, **given), alpha


def narrow_types(apply: Apply, params: Params, inputs: Any) -> tuple[str, ...]:
    """Names of the floating-point types to which `apply` converts float64 on its way.

    Read from the traced program; a stream on the host is not traced, for that would hold all of it.
    """
    if isinstance(inputs, stream.Stream) and inputs.on_host:
        return ()
    program = jax.make_jaxpr(lambda p: stream.mean_over(batch_mean, inputs, p, apply=apply))(params)
    return tuple(
        sorted({str(eqn.outvars[0].aval.dtype) for eqn in equations(program) if narrows(eqn)})
    )


def batch_mean(batch: Any, params: Params, *, apply: Apply) -> jax.Array:
    """Mean logit of one batch, to see what `apply` computes and returns."""
    logits = apply(params, batch)
    require_logits(logits)
    return jnp.mean(logits)


def equations(program: Any) -> Iterator[Any]:
    """Every equation of a jaxpr, also those of the loops and calls inside it."""
    for eqn in program.eqns:
        yield eqn
        for value in jax.tree.leaves(tuple(eqn.params.values())):
            if hasattr(value, "eqns"):
                yield from equations(value)


def narrows(eqn: Any) -> bool:
    """Whether an equation converts float64 to a narrower floating-point type."""
    if eqn.primitive.name != "convert_element_type":
        return False
    source, target = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    return source == jnp.float64 and jnp.issubdtype(target, jnp.floating) and target != source


def compiled(fn: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
    """`fn` as one program, unless a loop on the host feeds it."""
    return fn if isinstance(inputs, stream.Stream) and inputs.on_host else jax.jit(fn)


def point_measure(
    apply: Apply,
    params: Params,
    *,
    trait_loss: LossFn,
    inputs: Any,
    loss: losses.ImitationLoss,
    alpha: float,
    student_params: Params | None,
) -> Callable[[float], alignment.Alignment]:
    """`alignment.measure` as a function of ε."""

    def measure(step: jax.Array, start: Params, student: Params | None) -> alignment.Alignment:
        return alignment.measure(
            apply,
            start,
            trait_loss=trait_loss,
            inputs=inputs,
            loss=loss,
            eps=step,
            alpha=alpha,
            student_params=student,
        )

    run = compiled(measure, inputs)
    return lambda eps: run(jnp.asarray(eps), params, student_params)


def search(
    at: Callable[[float], alignment.Alignment], noise: float
) -> tuple[np.ndarray, list[alignment.Alignment]]:
    """Relative steps at which both orders can be read, largest first, and what is measured there.

    COARSE_STEPS until both have been legible and round-off hides them again; then every halving
    around the finest legible step of each. Where an order never shows, all coarse steps are looked
    at, and the report says so.

    Args:
        at: measures at a relative step.
        noise: of the inner product.
    """
    by_step: dict[float, alignment.Alignment] = {}
    finest: dict[int, float] = {}  # by quantity, the finest step at which it is legible
    for step in COARSE_STEPS.tolist():
        by_step[step] = at(step)
        now = [which for which, seen in enumerate(legible(by_step[step], noise)) if seen]
        finest |= {which: step for which in now}
        if len(finest) == 2 and not now:
            break
    for middle in finest.values():
        for step in (middle * 2.0 ** -np.arange(-2, 3)).tolist():
            if step not in by_step:
                by_step[step] = at(step)
    steps = sorted(by_step, reverse=True)
    return np.array(steps), [by_step[step] for step in steps]


def legible(point: alignment.Alignment, noise: float) -> list[bool]:
    """Whether the orders of remainder and residual can be read at one ε."""
    scale = max(abs(float(point.inner_product)), np.finfo(float).tiny)
    ratios = (float(point.remainder) / scale, float(point.update_residual))
    return [bool(asymptotics.window([ratio], [noise / scale])[0]) for ratio in ratios]


def equality_case(measured: alignment.Alignment, noise: float) -> tuple[Finding, ...]:
    """Theorem 1's first alternative: the inner product is 0 at every ε."""
    largest = np.abs(measured.inner_product).max()
    shown = "exactly 0" if largest == 0 else f"at most {largest:.1e}"
    return (Finding("Theorem 1: inner product 0 at every eps", f"0 to {noise:.0e}", shown, True),)


def general_case(
    eps: np.ndarray, measured: alignment.Alignment, noise: float, alpha: float
) -> tuple[Finding, ...]:
    """The claims for ⟨Δ_S, Δ_T⟩ ≠ 0, read where first order and round-off can be told apart."""
    inner, change = np.asarray(measured.inner_product), np.asarray(measured.trait_loss_change)
    scale = np.maximum(np.abs(inner), np.finfo(float).tiny)
    floor = noise / scale
    inside = np.flatnonzero(asymptotics.window(measured.update_residual, floor))
    # An exact prediction leaves no window: any ε will do. So will it for one that fails.
    at = inside[len(inside) // 2] if inside.size else len(eps) // 2
    # A loss is rounded to 64 u, and (2/ε) of that drowns a small ε that serves all other claims.
    excess_floor = 128 * np.finfo(float).eps / (eps * scale)
    least = int(np.argmin(measured.update_residual + excess_floor)) if inside.size else at

    def near_one(claim: str, value: np.ndarray, at: int = at) -> Finding:
        ratio = float(value[at] / inner[at]) if inner[at] else float("nan")
        return Finding(claim, "1 ± 0.02", f"{ratio:.4f}", abs(ratio - 1) <= 0.02)

    sign, fall = (f"{values[at]:.3e} at eps {eps[at]:.1e}" for values in (inner, change))
    return (
        Finding("Lemma 1: inner product", "> 0", sign, bool(inner[at] > noise)),
        near_one("  predicted / inner product", measured.predicted),
        near_one("  excess-loss form / inner product", measured.excess_form, least),
        order(
            "  remainder of the inner product",
            2,
            eps=eps,
            values=measured.remainder,
            scale=scale,
            floor=floor,
        ),
        order(
            "  relative residual of the update",
            1,
            eps=eps,
            values=measured.update_residual,
            scale=1.0,
            floor=floor,
        ),
        Finding(
            "Theorem 1: change of the trait loss", "< 0", fall, bool(change[at] < -alpha * noise)
        ),
        near_one("  -change / (alpha inner product)", -change / alpha),
    )


def order(
    claim: str,
    expected: int,
    *,
    eps: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray | float,
    floor: np.ndarray,
) -> Finding:
    """A log-log slope; a value that round-off hides at every ε is of any order."""
    ratio = values / scale
    text = f"order {expected} ± {SLOPE_TOLERANCE}"
    if (ratio <= floor).all():
        return Finding(claim, text, "0 up to round-off", True)
    inside = asymptotics.window(ratio, floor)
    slope = asymptotics.loglog_slope(eps, values, inside)
    if np.isnan(slope):
        return Finding(claim, text, f"no asymptotic range in {len(eps)} steps", False)
    shown = f"order {slope:.3f} over eps {eps[inside].min():.0e} to {eps[inside].max():.0e}"
    return Finding(claim, text, shown, bool(abs(slope - expected) <= SLOPE_TOLERANCE))


def require_finite(name: str, values: Any) -> None:
    """Raise ValueError unless all values are finite."""
    if not np.isfinite(np.asarray(values)).all():
        raise ValueError(f"{name} is not finite: {np.asarray(values)}; look for inf or nan inputs")
