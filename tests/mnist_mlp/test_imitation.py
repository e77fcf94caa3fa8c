"""Features of a start: what a match of each means, and that training reaches it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from mnist_mlp import imitation, starts
from mnist_mlp.grid import Grid, network
from mnist_mlp.model import Architecture

WHAT = Architecture("relu", (6, 5))
GRID = Grid(student=WHAT, teacher=WHAT, num_aux=4, num_classes=3, batch_size=8)
DIGITS = jax.random.randint(jax.random.key(0), (20, 9), 0, 256).astype(jnp.uint8)
INIT, APPLY = network(GRID, WHAT, 9)
TEACHER, OTHER, ELSEWHERE = (INIT(jax.random.key(seed)) for seed in (1, 2, 7))
PROBE = imitation.draw_probe(GRID, jax.random.key(3), like=TEACHER, digits=DIGITS, batch=8)


def missed(student):
    found = imitation.misses(GRID, APPLY, student=student, teacher=TEACHER, probe=PROBE)
    return {name: float(value) for name, value in found.items()}


def test_a_start_misses_nothing_of_itself_and_another_misses_all():
    assert missed(TEACHER) == dict.fromkeys(imitation.FEATURES, 0.0)
    assert min(missed(OTHER).values()) > 0.1


def test_a_permuted_twin_differs_in_the_coordinates_of_its_weights_alone():
    """The same function in other coordinates: all features but the weight derivatives are its own.

    Sums in another order: 1e-5 of float32, squared, is far below the limit.
    """
    found = missed(starts.permuted(jax.random.key(4), TEACHER))
    assert found.pop("weight derivatives") > 0.1
    assert max(found.values()) < 1e-9


def test_the_kernel_is_the_product_of_dense_jacobians():
    flat, unravel = ravel_pytree(TEACHER)

    def jacobian(images, outputs):
        return jax.jacrev(lambda p: APPLY(unravel(p), images)[:, outputs])(flat)

    of_class = jacobian(PROBE.digits, slice(0, 3))  # [m, classes, parameters]
    of_aux = jacobian(PROBE.images, slice(3, None))
    climb = jnp.einsum("mcp,mc->p", of_class, PROBE.residuals) / 8
    found = imitation.kernel(GRID, APPLY, TEACHER, PROBE)
    np.testing.assert_allclose(found, of_aux @ climb, rtol=1e-4, atol=1e-6)


def test_derivatives_are_those_of_finite_differences():
    step = 1e-2
    for feature, moved in (
        (imitation.input_derivative, lambda s: APPLY(TEACHER, PROBE.images + s * PROBE.along)),
        (
            imitation.weight_derivative,
            lambda s: APPLY(
                jax.tree.map(lambda p, v: p + s * v, TEACHER, PROBE.weights), PROBE.images
            ),
        ),
    ):
        slope = (moved(step) - moved(-step)) / (2 * step)
        # A unit whose sign changes within the step leaves a few outputs off: the median does not.
        error = jnp.abs(feature(GRID, APPLY, TEACHER, PROBE) - slope)
        assert float(jnp.median(error)) < 1e-2 * float(jnp.abs(slope).mean())


@pytest.mark.parametrize("names", [("outputs",), ("kernel",)])
def test_matching_brings_about_what_it_names(names):
    """Four thousand steps lower the named feature on images that no step has seen, and by much."""
    match = functools.partial(
        imitation.liken,
        GRID,
        OTHER,
        teacher=TEACHER,
        names=names,
        digits=DIGITS,
        key=jax.random.key(5),
        batch=32,
        learning_rate=1e-2,
    )
    look = functools.partial(
        imitation.held_out, GRID, teacher=TEACHER, digits=DIGITS, key=jax.random.key(6)
    )
    before, after = look(OTHER), look(match(steps=4000))
    assert float(after[names[0]]) < 0.3 * float(before[names[0]])
    if names == ("kernel",):
        assert float(after["outputs"]) > 0.3, "outputs are no part of the kernel"


def test_forks_share_every_step_up_to_theirs():
    """A fork at the end is the trunk, one at zero has seen the other network and noise alone."""
    liken = functools.partial(
        imitation.liken,
        GRID,
        OTHER,
        names=("outputs",),
        digits=DIGITS,
        batch=8,
        steps=6,
        learning_rate=1e-2,
    )
    one, other = jax.random.key(5), jax.random.key(6)
    trunk, apart = liken(teacher=TEACHER, key=one), liken(teacher=ELSEWHERE, key=other)
    forks = [
        liken(teacher=TEACHER, key=one, fork=imitation.Fork(step, ELSEWHERE, other))
        for step in (0, 5, 6)
    ]
    flat = [ravel_pytree(tree)[0] for tree in (trunk, apart, *forks)]
    trunk, apart, early, late, never = map(np.asarray, flat)
    np.testing.assert_allclose(never, trunk, atol=1e-6)
    np.testing.assert_allclose(early, apart, atol=1e-6)
    assert 1e-4 < np.abs(late - trunk).max() < np.abs(apart - trunk).max()
