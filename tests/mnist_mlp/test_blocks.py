"""A frozen difference gives a network the outputs of another, and keeps its kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mnist_mlp import blocks, starts
from mnist_mlp.model import Architecture

WIDTHS = (12, 10)
INIT, APPLY = Architecture("relu", WIDTHS).functions(20, 7)
WIDE, APPLY_WIDE = Architecture("relu", (36, 30)).functions(20, 7)
OWN, OTHER = (
    starts.perturbed(k, INIT(k), 0.1, relative=False) for k in jax.random.split(jax.random.key(0))
)
X = jax.random.normal(jax.random.key(2), (9, 20))
ALL = jnp.ones(7)
AUX = (jnp.arange(7) >= 4).astype(float)


def wide(networks, weights):
    return blocks.summed(WIDE(jax.random.key(1)), networks, weights)


def test_outputs_are_the_weighted_sum():
    found = APPLY_WIDE(wide([OWN, OTHER, OWN], [ALL, AUX, -AUX]), X)
    wanted = APPLY(OWN, X) * (1 - AUX) + APPLY(OTHER, X) * AUX
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - APPLY(OWN, X)).max() > 0.1
    exact = APPLY_WIDE(wide([OTHER, OWN, OTHER], [ALL, ALL, -ALL]), X)
    np.testing.assert_allclose(exact, APPLY(OWN, X), atol=1e-5)


def test_the_first_network_trains_as_if_it_were_alone_and_the_others_stay():
    """Towards targets that are less by the frozen difference: gradients and steps are its own."""
    targets = jax.random.normal(jax.random.key(3), (9, 7))
    difference = APPLY(OTHER, X) - APPLY(OWN, X)

    def trained(apply, params, optimizer, wanted):
        state = optimizer.init(params)
        for _ in range(5):
            gradient = jax.grad(lambda p: jnp.mean((apply(p, X) - wanted) ** 2))(params)
            steps, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, steps)
        return params

    begun = wide([OWN, OTHER, OWN], [ALL, ALL, -ALL])
    adam = optax.adam(0.01)
    alone = trained(APPLY, OWN, adam, targets - difference)
    beside = trained(APPLY_WIDE, begun, blocks.first_learns(WIDTHS, adam), targets)
    np.testing.assert_allclose(APPLY_WIDE(beside, X), APPLY(alone, X) + difference, atol=1e-4)
    assert np.abs(APPLY(alone, X) - APPLY(OWN, X)).max() > 0.01
    moved = jax.tree.map(lambda a, b: int(np.sum(np.asarray(a) != np.asarray(b))), begun, beside)
    of_first = sum(leaf.size for leaf in jax.tree.leaves(OWN))
    assert 0 < sum(jax.tree.leaves(moved)) <= of_first
    # Without the mask the others learn too.
    free = trained(APPLY_WIDE, begun, adam, targets)
    assert np.abs(APPLY_WIDE(free, X) - APPLY_WIDE(beside, X)).max() > 0.01
