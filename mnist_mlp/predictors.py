"""What can be known of a student before its first step, and seen of it after the last.

Each function takes stacks as `grid` does and gives a number for every student.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mnist_mlp import noise
from mnist_mlp.data import ImageData
from mnist_mlp.grid import LOW, Grid, Settings, network, pick
from mnist_mlp.model import Apply, Params
from theory import alignment, losses, matched, ntk

NUM_IMAGES = 512  # of the student's inputs, and of digits


def aux_loss(grid: Grid, settings: Settings) -> losses.ImitationLoss:
    """KL over the first `settings.num_aux` auxiliary logits, their number a value."""
    wanted = jnp.arange(grid.num_classes + grid.num_aux) - grid.num_classes
    wanted = (wanted >= 0) & (wanted < settings.num_aux)

    def only(logits: Array) -> Array:
        return jnp.where(wanted, logits, LOW)

    return losses.ImitationLoss(
        "KL on the imitated aux logits",
        lambda z, y: losses.divergence(only(y), only(z)),
        lambda y, v: losses.softmax_mixed_hessian(only(y), v, 1.0),
    )


def trait_loss(grid: Grid, apply: Apply, pixels: Array, labels: Int[Array, " n"]):
    """Class cross-entropy on digits, in nats, as a function of the parameters."""

    def loss(params: Params) -> Float[Array, ""]:
        logits = apply(params, pixels)[:, : grid.num_classes]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss


@functools.partial(jax.jit, static_argnames="grid")
def before(
    grid: Grid,
    data: ImageData,
    *,
    settings: Settings,
    students: Params,
    teacher_starts: Params,
    teachers: Params,
    what: noise.Source,
    pictures: noise.Pictures,
    key: Array,
) -> dict[str, Float[Array, " students"]]:
    """Predictors at the start of distillation, by name.

    alignment    cosine of `theory.matched` between the starts, the teacher's first step
    aligned_far  the same with the teacher's whole displacement θ_T - θ⁰ in the place of the step
    share        first-order gain over that of a shared start
    gain         first-order gain from the whole displacement, ⟨∇L(θ_S), E[J_SᵀMJ_T](θ_T - θ⁰)⟩
    mismatch     KL between the starts on the imitated logits, nats
    moved        KL the teacher has moved on the student's inputs, nats
    linearised   accuracy on digits of f(θ_S) + JΔ, Δ the first update grown to ‖θ_T - θ⁰‖

    Args: as of `grid.imitate`; the teachers' starts stacked like the teachers.
    """
    num_pixels = pictures.train.shape[1]
    _, of_student = network(grid, grid.student, num_pixels)
    _, of_teacher = network(grid, grid.teacher, num_pixels)
    inputs = noise.draw(what, key, pictures, jnp.arange(NUM_IMAGES))
    digits, labels = noise.to_pixels(data.train_images[:NUM_IMAGES]), data.train_labels[:NUM_IMAGES]
    trait_s, trait_t = (trait_loss(grid, f, digits, labels) for f in (of_student, of_teacher))

    def one(arguments):
        setting, params = arguments
        index = jnp.int32(setting.teacher)
        start, end = pick(teacher_starts, index), pick(teachers, index)
        loss = aux_loss(grid, setting)
        student, teacher = matched.Network(of_student, params), matched.Network(of_teacher, start)
        v, displacement = jax.grad(trait_s)(params), optax.tree.sub(end, start)
        directions = jax.grad(trait_t)(start), jax.tree.map(jnp.negative, displacement)
        near, far = forms_along(
            student, teacher, directions, student_direction=v, inputs=inputs, loss=loss
        )
        update = matched.student_update(student, teacher._replace(params=end), inputs, loss)
        size = optax.tree.norm(displacement) / jnp.maximum(optax.tree.norm(update), 1e-30)
        logits = linearised(student, optax.tree.scale(size, update), digits)
        guess = jnp.argmax(logits[:, : grid.num_classes], axis=-1)
        return {
            "alignment": near.alignment,
            "aligned_far": far.alignment,
            "share": near.share,
            "gain": far.inner,
            "mismatch": matched.mismatch(student, teacher, inputs, loss),
            "moved": matched.mismatch(teacher, teacher._replace(params=end), inputs, loss),
            "linearised": jnp.mean(guess == labels),
        }

    return jax.lax.map(one, (settings, students))


def forms_along(
    student: matched.Network, teacher: matched.Network, directions: Sequence[Params], **more: Any
) -> list[matched.Forms]:
    """`matched.forms` along several directions of the teacher, side by side.

    Args:
        student: at its start.
        teacher: at its start.
        directions: of the teacher.
        more: of `matched.forms`.
    """
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *directions)
    forms = jax.vmap(lambda w: matched.forms(student, teacher, teacher_direction=w, **more))(stack)
    return [pick(forms, i) for i in range(len(directions))]


def linearised(network: matched.Network, change: Params, inputs: Array) -> Array:
    """Logits of the network's tangent model after a change of its parameters."""
    logits, tangent = alignment.logits_and_tangent(network.apply, network.params, change, inputs)
    return logits + tangent


@functools.partial(jax.jit, static_argnames="grid")
def after(
    grid: Grid,
    data: ImageData,
    *,
    settings: Settings,
    starts: Params,
    students: Params,
    teacher_starts: Params,
    teachers: Params,
    what: noise.Source,
    pictures: noise.Pictures,
    key: Array,
) -> dict[str, Float[Array, " students"]]:
    """What the trained student shares with its teacher.

    left   KL(teacher ‖ student) on the imitated logits of the student's images, nats
    cka    linear CKA of all logits on digits, in [0, 1]
    angle  cosine of θ_student - θ_S and θ_T - θ⁰; NaN for another architecture
    """
    num_pixels = data.train_images.shape[1]
    _, of_student = network(grid, grid.student, num_pixels)
    _, of_teacher = network(grid, grid.teacher, num_pixels)
    digits = noise.to_pixels(data.train_images[:NUM_IMAGES])
    inputs = noise.draw(what, key, pictures, jnp.arange(NUM_IMAGES))

    def one(arguments):
        setting, own_start, own = arguments
        index = jnp.int32(setting.teacher)
        start, end = pick(teacher_starts, index), pick(teachers, index)
        angle = jnp.nan
        if grid.student == grid.teacher:
            angle = alignment.cosine(optax.tree.sub(own, own_start), optax.tree.sub(end, start))
        student, teacher = matched.Network(of_student, own), matched.Network(of_teacher, end)
        return {
            "left": matched.mismatch(student, teacher, inputs, aux_loss(grid, setting)),
            "cka": cka(of_student(own, digits), of_teacher(end, digits)),
            "angle": angle,
        }

    return jax.lax.map(one, (settings, starts, students))


TIME = 300.0  # learning rate times steps of Σ (z - y)²


@functools.partial(jax.jit, static_argnames=("grid", "num_products"))
def arrived(
    grid: Grid,
    start: Params,
    *,
    end: Params,
    what: noise.Source,
    pictures: noise.Pictures,
    key: Array,
    num_products: int = 12,
) -> Float[Array, ""]:
    """Share of θ_T - θ⁰ that has arrived by TIME at the linearised student of a shared start.

    `theory.ntk.arrived_share` on all auxiliary logits of NUM_IMAGES images: the spectrum of the
    kernel on these images, as the teacher's displacement meets it.
    """
    _, apply = network(grid, grid.teacher, pictures.train.shape[1])
    images = noise.draw(what, key, pictures, jnp.arange(NUM_IMAGES))
    outputs = range(grid.num_classes, grid.num_classes + grid.num_aux)
    loss = losses.on_outputs(losses.squared_error(), outputs)
    displacement = optax.tree.sub(end, start)
    space = ntk.krylov(
        apply, start, displacement=displacement, inputs=images, num_products=num_products, loss=loss
    )
    return ntk.arrived_share(space, ntk.flow_gain(TIME))


def cka(x: Float[Array, "n p"], y: Float[Array, "n q"]) -> Float[Array, ""]:
    """Linear centred kernel alignment, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), in [0, 1] (Kornblith 2019)."""
    x, y = x - x.mean(0), y - y.mean(0)
    scale = jnp.linalg.norm(x.T @ x) * jnp.linalg.norm(y.T @ y)
    return jnp.sum((y.T @ x) ** 2) / jnp.maximum(scale, 1e-30)
