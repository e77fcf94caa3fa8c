"""Claims about orders of ε are checked in float64; other folders stay in JAX's default."""

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from theory import alignment, steps, toys

TANH = toys.mlp("tanh", (4, 8, 5), jnp.tanh)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def tanh():
    """The small smooth network of most tests: 4-8-5, tanh."""
    return TANH


@pytest.fixture(scope="session")
def case():
    """One random instance: network, inputs, teacher loss."""
    with jax.enable_x64(True):
        return jax.jit(lambda key: toys.draw_case(TANH, key, 7))(jax.random.key(1))


@pytest.fixture(scope="session")
def direction(case):
    """The teacher's update in that instance."""
    with jax.enable_x64(True):
        trait = toys.trait_loss(case, TANH.apply)
        return jax.jit(lambda p: steps.teacher_update(trait, p))(case.params)


@pytest.fixture(scope="session")
def dense_g():
    """G = E[Jᵀ M J] with J and M as matrices: the slow obvious way."""

    def dense(apply, params, inputs, loss):
        flat, unravel = ravel_pytree(params)
        jacobian = jax.jacrev(lambda p: apply(unravel(p), inputs))(flat)  # batch, outputs, params
        m = jax.vmap(lambda z: -jax.jacfwd(lambda y: jax.grad(lambda x: loss.value(x, y))(z))(z))(
            apply(params, inputs)
        )
        return jnp.einsum("bip,bij,bjq->pq", jacobian, m, jacobian) / len(inputs)

    return jax.jit(dense, static_argnums=(0, 3))


@pytest.fixture(scope="session")
def measure():
    """`alignment.measure`, compiled: eager JAX compiles every operation by itself."""

    def compiled(apply, params, trait, inputs, loss, eps, student=None):
        def run(p, s, e):
            return alignment.measure(
                apply, p, trait_loss=trait, inputs=inputs, loss=loss, eps=e, student_params=s
            )

        return jax.device_get(jax.jit(run)(params, student, eps))

    return compiled
