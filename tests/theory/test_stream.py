"""Means over streams equal the mean over one batch, in memory for one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory import alignment, losses, steps, stream, toys

LOSS = losses.kl()


@pytest.fixture
def setting(tanh, case):
    inputs = jax.random.normal(jax.random.key(3), (24, 4))
    teacher = steps.moved(case.params, toys.draw_params(tanh, jax.random.key(5)), 0.1)
    return tanh.apply, case.params, teacher, inputs


def streams(inputs):
    """The same 24 inputs, streamed in three ways."""
    return {
        "scan": stream.scan(inputs.reshape(6, 4, 4)),
        "from numbers": stream.scan(
            jnp.arange(6), lambda i: jax.lax.dynamic_slice_in_dim(inputs, 4 * i, 4)
        ),
        "ragged loader": stream.iterate(lambda: (inputs[i : i + 7] for i in range(0, 24, 7))),
    }


QUANTITIES = {  # and what they call the second tree
    steps.student_update: "teacher_params",
    steps.imitation_loss: "teacher_params",
    alignment.curvature_product: "direction",
    alignment.quadratic_form: "direction",
    alignment.excess_loss: "teacher_params",
    alignment.coverage_cosine: "teacher_params",
}


def all_quantities(apply, params, other, inputs):
    return {
        fn.__name__: fn(apply, params, inputs=inputs, loss=LOSS, **{name: other})
        for fn, name in QUANTITIES.items()
    }


@pytest.mark.parametrize("kind", ["scan", "from numbers", "ragged loader"])
def test_streamed_equals_one_batch(setting, kind):
    apply, params, other, inputs = setting
    source = streams(inputs)[kind]
    whole = jax.jit(all_quantities, static_argnums=0)(apply, params, other, inputs)
    if source.on_host:
        streamed = all_quantities(apply, params, other, source)
    else:
        streamed = jax.jit(lambda p, t: all_quantities(apply, p, t, source))(params, other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), whole, streamed)


def test_a_loader_is_compiled_once_per_batch_shape_and_keeps_parameters_as_operands(setting):
    apply, params, teacher, inputs = setting
    traced = []

    def counting(p, x):
        traced.append(x.shape)
        return apply(p, x)

    source = streams(inputs)["ragged loader"]
    for shift in range(3):  # other values of the parameters must not compile again
        moved = steps.moved(params, params, shift / 10)
        steps.imitation_loss(counting, moved, teacher_params=teacher, inputs=source, loss=LOSS)
    assert sorted(set(traced)) == [(3, 4), (7, 4)]
    assert len(traced) == 2 * 2  # two networks, two shapes, once each


def test_keys_stand_for_inputs_that_never_exist_together():
    """A mean over 4,000 batches drawn on the fly, within 5 standard errors of the exact one."""
    keys = jax.random.split(jax.random.key(0), 4000)
    source = stream.scan(keys, lambda key: jax.random.normal(key, (50, 2)))
    mean = jax.jit(lambda: stream.mean_over(lambda x: jnp.mean(x**2), source))()
    standard_error = np.sqrt(2 / (4000 * 50 * 2))  # the square of a normal has variance 2
    assert abs(mean - 1) < 5 * standard_error


def test_a_spent_generator_is_an_error(setting):
    apply, params, teacher, inputs = setting
    spent = iter([inputs])
    source = stream.iterate(lambda: spent)
    steps.imitation_loss(apply, params, teacher_params=teacher, inputs=source, loss=LOSS)
    with pytest.raises(ValueError, match="fresh iterable"):
        steps.imitation_loss(apply, params, teacher_params=teacher, inputs=source, loss=LOSS)
