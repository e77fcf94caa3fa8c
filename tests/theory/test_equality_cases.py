"""The exact zeros, each beside the smallest change that removes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import alignment, losses, steps, toys

AUX = losses.on_outputs(losses.kl(), (3, 4))


def head(params):
    """Parameters of the class head: the first three rows of the last layer."""
    return params["kernel_1"][:3], params["bias_1"][:3]


@pytest.fixture
def inner(case):
    """⟨Δ_S, Δ_T⟩ of the tanh net, or of another network on the same inputs."""

    def value(apply, trait, loss, eps=0.3, params=case.params):
        def updates(p):
            delta_t = steps.teacher_update(trait, p)
            teacher = steps.moved(p, delta_t, eps)
            return steps.student_update(
                apply, p, teacher_params=teacher, inputs=case.inputs, loss=loss
            ), delta_t

        return float(alignment.inner_product(*jax.jit(updates)(params)))

    return value


def test_one_softmax_aux_logit_carries_nothing(tanh, case, inner):
    trait = toys.trait_loss(case, tanh.apply)
    assert inner(tanh.apply, trait, losses.on_outputs(losses.kl(), (4,))) == 0
    assert inner(tanh.apply, trait, AUX) > 1e-8
    assert inner(tanh.apply, trait, losses.on_outputs(losses.squared_error(), (4,))) > 1e-8


@pytest.mark.parametrize("eps", [1e-3, 0.3, 30.0])
def test_a_teacher_trained_on_its_class_head_alone_carries_nothing(tanh, case, inner, eps):
    def trait(p):
        kernel, bias = head(p)
        hidden = jax.lax.stop_gradient(
            jnp.tanh(case.trait_inputs @ p["kernel_0"].T + p["bias_0"][None])
        )
        return jnp.mean((hidden @ kernel.T + bias[None] - 1) ** 2)

    delta_s = steps.student_update(
        tanh.apply,
        case.params,
        teacher_params=steps.moved(case.params, steps.teacher_update(trait, case.params), eps),
        inputs=case.inputs,
        loss=losses.on_outputs(losses.squared_error(), (3, 4)),
    )
    assert all(not leaf.any() for leaf in jax.tree.leaves(delta_s))
    assert inner(tanh.apply, trait, losses.squared_error(), eps) > 0  # its own logits show it


def test_a_linear_net_has_disjoint_rows_and_two_layers_do_not(tanh, case, inner):
    w = jax.random.normal(jax.random.key(0), (5, 4))

    def class_loss(p):
        logits = (
            toys.linear(p, case.trait_inputs)
            if isinstance(p, jax.Array)
            else tanh.apply(p, case.trait_inputs)
        )
        return jnp.mean(logits[:, :3] ** 2)

    assert inner(toys.linear, class_loss, AUX, params=w) == 0
    assert inner(tanh.apply, class_loss, AUX) > 1e-8
    assert inner(toys.linear, class_loss, losses.kl(), params=w) > 1e-8


def test_a_constant_shift_of_all_logits_is_invisible_to_softmax_only(tanh, case, inner):
    def trait(p):
        return jnp.sum(p["bias_1"])

    for loss in (losses.kl(), losses.cross_entropy(), losses.reverse_kl()):
        # The logits move, so zero up to the rounding of softmax: u per output, 5 outputs.
        assert abs(inner(tanh.apply, trait, loss)) < 64 * np.finfo(float).eps
    assert inner(tanh.apply, trait, losses.squared_error()) == pytest.approx(0.3 * 5 * 2)


def test_outputs_of_weight_zero_carry_nothing(tanh, case, inner):
    def trait(p):  # moves outputs 3 and 4 alone
        return jnp.sum(p["kernel_1"][3:]) + jnp.sum(p["bias_1"][3:])

    assert inner(tanh.apply, trait, losses.squared_error((1, 1, 1, 0, 0))) == 0
    assert inner(tanh.apply, trait, losses.squared_error((1, 1, 1, 0, 0.1))) > 1e-8


def test_a_trait_that_depends_on_unreachable_parameters_alone(tanh, case, inner):
    assert inner(tanh.apply, lambda p: jnp.sum(head(p)[0] ** 2), AUX) == 0


def test_idle_heads_get_exactly_no_gradient(tanh, case, inner):
    """Why the teacher's aux head and the student's class head stay bit-identical (MNIST)."""

    def class_loss(p):
        return -jnp.mean(jax.nn.log_softmax(tanh.apply(p, case.trait_inputs)[:, :3])[:, 0])

    delta_t = steps.teacher_update(class_loss, case.params)
    assert not delta_t["kernel_1"][3:].any()
    teacher = steps.moved(case.params, delta_t, 0.5)
    delta_s = steps.student_update(
        tanh.apply, case.params, teacher_params=teacher, inputs=case.inputs, loss=AUX
    )
    assert not any(leaf.any() for leaf in head(delta_s))
    assert delta_s["kernel_0"].any()
