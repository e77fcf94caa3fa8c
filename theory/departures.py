"""The hypotheses of Theorem 1 removed one at a time: what is then measured on one network.

Each function takes a random `toys.Case` (network, inputs, teacher loss) and returns numbers whose
sign the theorem would fix; steps of the teacher are relative, ‖ε Δ_T‖ / ‖θ⁰‖. All are pure, for
jit and for vmap over networks. arXiv 2507.14805, section 6.1, says where its guarantee ends.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from . import alignment, losses, ntk, steps, toys
from .base import Apply, LossFn, Params

SOFT = losses.cross_entropy()


def teacher_of(case: toys.Case, apply: Apply) -> tuple[LossFn, Params, Array]:
    """The trait loss, Δ_T, and the ε of relative size 1."""
    trait = toys.trait_loss(case, apply)
    delta_t = steps.teacher_update(trait, case.params)
    return trait, delta_t, steps.unit_step(case.params, delta_t)


def other_start(
    apply: Apply, case: toys.Case, *, other: Params, eps: Array, angles: Array
) -> Float[Array, "eps angles"]:
    """⟨Δ_S, Δ_T⟩ for students that start at cos φ θ⁰ + sin φ θ', θ' an independent network.

    The start differs from θ⁰ by φ, the teacher by ε: imitation points at the teacher while
    φ is well below ε and at the *untrained* teacher, whatever Δ_T, once it is well above.
    """
    _, delta_t, unit = teacher_of(case, apply)

    def at(step, angle):
        def rotated(a, b):
            return jnp.cos(angle) * a + jnp.sin(angle) * b

        start = jax.tree.map(rotated, case.params, other)
        teacher = steps.moved(case.params, delta_t, step * unit)
        delta_s = steps.student_update(
            apply, start, teacher_params=teacher, inputs=case.inputs, loss=SOFT
        )
        return alignment.inner_product(delta_s, delta_t)

    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(eps, angles)


def optimisers(key: Array, params: Params) -> dict[str, tuple[Callable, Callable]]:
    """What teacher and student do to their descent direction, by name.

    P is a random positive diagonal. With gradient g of L_T and a first-order student update
    ε G Δ_T, the change of L_T is proportional to -gᵀ P G g for P in the student alone, of either
    sign, and to -gᵀ P G P g ≤ 0 for the same P in both.
    """
    flat, unravel = ravel_pytree(params)
    scale = unravel(jnp.exp(2 * jax.random.normal(key, flat.shape)))
    adam = optax.adam(1.0)

    def plain(update: Params) -> Params:
        return update

    def precondition(update: Params) -> Params:
        return jax.tree.map(jnp.multiply, scale, update)

    def first_adam_step(update: Params) -> Params:
        gradient = jax.tree.map(jnp.negative, update)
        return adam.update(gradient, adam.init(params))[0]

    def sign(update: Params) -> Params:
        return jax.tree.map(jnp.sign, update)

    return {
        "gradient descent": (plain, plain),
        "P in both": (precondition, precondition),
        "P in student": (plain, precondition),
        "Adam in student": (plain, first_adam_step),
        "sign in student": (plain, sign),
        "Adam in both": (first_adam_step, first_adam_step),
    }


def first_order_change(
    apply: Apply, case: toys.Case, pair: tuple[Callable, Callable], eps: float
) -> Float[Array, ""]:
    """⟨∇L_T, student's step⟩ when (teacher, student) transform their descent directions."""
    of_teacher, of_student = pair
    _, descent, _ = teacher_of(case, apply)
    direction = of_teacher(descent)
    unit = steps.unit_step(case.params, direction)
    teacher = steps.moved(case.params, direction, eps * unit)
    delta_s = steps.student_update(
        apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=SOFT
    )
    return -alignment.inner_product(of_student(delta_s), descent)


def sampled(observed: Float[Array, "*batch outputs"]) -> losses.ImitationLoss:
    """Cross-entropy against observed frequencies of labels: the teacher's logits are not used."""
    return losses.from_value(
        "sampled labels",
        lambda z, y: -jnp.sum(observed * jax.nn.log_softmax(z, axis=-1), axis=-1),
    )


def frequencies(
    key: Array, logits: Float[Array, "*batch outputs"], counts: Sequence[int]
) -> Float[Array, "counts *batch outputs"]:
    """Frequencies of labels drawn from softmax(logits), after each number of draws."""
    labels = jax.random.categorical(key, logits, shape=(max(counts), *logits.shape[:-1]))
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.stack([one_hot[:n].mean(axis=0) for n in counts])


LABELS = ("soft", "argmax", "one sample")


def labels(apply: Apply, case: toys.Case, key: Array, eps: Array) -> Float[Array, "labels eps"]:
    """⟨Δ_S, Δ_T⟩ for each of LABELS: the teacher's softmax, its argmax, one label drawn from it."""
    _, delta_t, unit = teacher_of(case, apply)

    def at(step):
        teacher = steps.moved(case.params, delta_t, step * unit)
        drawn = sampled(frequencies(key, apply(teacher, case.inputs), (1,))[0])

        def inner(loss):
            delta_s = steps.student_update(
                apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=loss
            )
            return alignment.inner_product(delta_s, delta_t)

        return jnp.stack([inner(loss) for loss in (SOFT, losses.argmax_labels(), drawn)])

    return jax.vmap(at, out_axes=1)(eps)


def sampling_error(
    apply: Apply, case: toys.Case, *, key: Array, eps: Array, counts: Sequence[int]
) -> Float[Array, "eps counts"]:
    """‖Δ_S from n sampled labels per input - Δ_S from soft labels‖ over ‖Δ_S from soft labels‖.

    Labels are drawn from the teacher's softmax, so the expectation of the difference is 0 and
    its size falls as 1/√n; it does not shrink with ε, while Δ_S does.
    """
    _, delta_t, unit = teacher_of(case, apply)

    def at(step):
        teacher = steps.moved(case.params, delta_t, step * unit)

        def update(loss):
            return steps.student_update(
                apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=loss
            )

        soft = update(SOFT)

        def error(observed):
            miss = optax.tree.sub(update(sampled(observed)), soft)
            return optax.tree.norm(miss) / optax.tree.norm(soft)

        return jax.vmap(error)(frequencies(key, apply(teacher, case.inputs), counts))

    return jax.vmap(at)(eps)


def finite_steps(
    apply: Apply, case: toys.Case, eps: Array, alphas: Array
) -> Float[Array, "alphas eps"]:
    """L_T(student) - L_T(θ⁰) at finite ε and α."""
    trait, delta_t, unit = teacher_of(case, apply)

    def at(alpha, step):
        teacher = steps.moved(case.params, delta_t, step * unit)
        delta_s = steps.student_update(
            apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=SOFT
        )
        return trait(steps.moved(case.params, delta_s, alpha)) - trait(case.params)

    return jax.vmap(jax.vmap(at, (None, 0)), (0, None))(alphas, eps)


def many_steps(
    apply: Apply, case: toys.Case, eps: Array, counts: Sequence[int]
) -> Float[Array, "eps counts"]:
    """L_T(student) - L_T(θ⁰) after numbers of full-batch descent steps on the squared error.

    At a quarter of the learning rate where descent diverges. The linearised student never
    leaves the half space of Δ_T (`ntk`), so for small ε its trait loss only falls.
    """
    trait, delta_t, unit = teacher_of(case, apply)
    loss = losses.squared_error()
    space = ntk.krylov(
        apply, case.params, displacement=delta_t, inputs=case.inputs, num_products=8, loss=loss
    )
    learning_rate = 0.5 / jnp.max(space.eigenvalues)

    def at(step):
        teacher = steps.moved(case.params, delta_t, step * unit)

        def descend(params, _):
            update = steps.student_update(
                apply, params, teacher_params=teacher, inputs=case.inputs, loss=loss
            )
            params = steps.moved(params, update, learning_rate)
            return params, trait(params) - trait(case.params)

        _, changes = jax.lax.scan(descend, case.params, length=max(counts))
        return changes[jnp.array(counts) - 1]

    return jax.vmap(at)(eps)
