"""Training a (stack of) network(s) as one scan over epochs and batches."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def epoch_batches(
    key: Array, num_examples: int, batch_size: int
) -> tuple[Int[Array, "steps batch"], Float[Array, "steps batch"]]:
    """A fresh permutation of the examples, cut into batches.

    Returns:
        Example numbers, and weights 1 for real entries and 0 for the filling of the last,
        partial batch: it is trained on too, as in the official recipe (59 steps for 60,000
        images in batches of 1024).
    """
    steps = -(-num_examples // batch_size)
    filling = steps * batch_size - num_examples
    order = jnp.pad(jax.random.permutation(key, num_examples), (0, filling))
    weights = jnp.pad(jnp.ones(num_examples), (0, filling))
    return order.reshape(steps, batch_size), weights.reshape(steps, batch_size)


def fit(
    loss: Callable[[Params, Batch, Float[Array, " batch"]], Float[Array, ""]],
    make_batch: Callable[[Int[Array, " batch"]], Batch],
    *,
    params: Params,
    optimizer: optax.GradientTransformation,
    num_examples: int,
    batch_size: int,
    epochs: int,
    key: Array,
) -> tuple[Params, Float[Array, " epochs"]]:
    """Minimise a loss for some epochs with a fresh optimiser state.

    Args:
        loss: `loss(params, batch, weights)`; a weighted mean over the batch. For a stack of
            models give the sum of their own means: then no gradient depends on the stack.
        make_batch: example numbers to a batch, so that nothing is stored per example.
        params: any tree of arrays.
        optimizer: an optax transformation.
        num_examples: examples in an epoch.
        batch_size: examples in a batch.
        epochs: passes over the examples.
        key: root of the permutations; epoch e uses `fold_in(key, e)`.

    Returns:
        The trained parameters and the mean loss of each epoch.
    """
    state = (params, optimizer.init(params))

    def run(state, number):
        return epoch(
            loss,
            make_batch,
            optimizer=optimizer,
            state=state,
            number=number,
            num_examples=num_examples,
            batch_size=batch_size,
            key=key,
        )

    (params, _), losses = jax.lax.scan(run, state, jnp.arange(epochs))
    return params, losses


def epoch(
    loss: Callable[[Params, Batch, Float[Array, " batch"]], Float[Array, ""]],
    make_batch: Callable[[Int[Array, " batch"]], Batch],
    *,
    optimizer: optax.GradientTransformation,
    state: tuple[Params, optax.OptState],
    number: Int[Array, ""],
    num_examples: int,
    batch_size: int,
    key: Array,
) -> tuple[tuple[Params, optax.OptState], Float[Array, ""]]:
    """One epoch of `fit` from parameters and optimiser state, and its mean loss."""

    def step(state, batch_of_step):
        params, opt_state = state
        indices, weights = batch_of_step
        value, grads = jax.value_and_grad(loss)(params, make_batch(indices), weights)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    batches = epoch_batches(jax.random.fold_in(key, number), num_examples, batch_size)
    state, losses = jax.lax.scan(step, state, batches)  # pyright: ignore[reportAssignmentType]
    return state, losses.mean()


def blocks(num_examples: int, block_size: int) -> Int[Array, "blocks block"]:
    """Example numbers 0 ... in blocks; the last one runs over the end to stay full."""
    count = -(-num_examples // block_size)
    return jnp.arange(count * block_size).reshape(count, block_size)
