"""Averages over the student's inputs, for distributions larger than memory.

Every quantity of the theorem is a mean over x ~ D_S. A function here takes `inputs`, which is
either one batch (any pytree that `apply` accepts) or a `Stream`: the averaging operator E_x.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
BatchFn = Callable[..., PyTree]  # (batch, *args, **static) -> a mean over that batch


@dataclasses.dataclass(frozen=True)
class Stream:
    """Many batches of inputs, known only through the mean over them.

    Attributes:
        mean: mean(fn, *args, **static) = E_batch[fn(batch, *args, **static)].
        on_host: whether a Python loop feeds it, which cannot run inside `jax.jit`.
    """

    mean: Callable[..., PyTree]
    on_host: bool


def mean_over(fn: BatchFn, inputs: Any, *args: PyTree, **static: Any) -> PyTree:
    """E_x[fn(x, *args, **static)] over one batch or a stream.

    Args:
        fn: a mean over one batch, at module level so that it is compiled once.
        inputs: a batch, or a `Stream`.
        *args: trees of arrays.
        **static: hashable settings, such as the network and the loss.
    """
    if isinstance(inputs, Stream):
        return inputs.mean(fn, *args, **static)
    return fn(inputs, *args, **static)


def scan(batches: PyTree, make_batch: Callable[[PyTree], PyTree] = lambda batch: batch) -> Stream:
    """Batches stacked on the leading axis, averaged by `lax.scan`; works inside jit and vmap.

    With `make_batch` the stack may hold random keys, `scan(jax.random.split(key, 1000), draw)`,
    and the inputs themselves exist one batch at a time only.
    """

    def mean(fn: BatchFn, *args: PyTree, **static: Any) -> PyTree:
        num_batches = jax.tree.leaves(batches)[0].shape[0]

        def of_batch(batch: PyTree) -> PyTree:
            return fn(make_batch(batch), *args, **static)

        def add(total: PyTree, batch: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, of_batch(batch)), None

        shapes = jax.eval_shape(of_batch, jax.tree.map(lambda leaf: leaf[0], batches))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, batches)
        return jax.tree.map(lambda leaf: leaf / num_batches, total)

    return Stream(mean, on_host=False)


def iterate(make_batches: Callable[[], Iterable[PyTree]]) -> Stream:
    """Batches from a loader on the host, weighted by their size; `make_batches` starts a pass.

    Raises:
        ValueError: if a pass yields no batch, as a generator that is already spent does.
    """

    def mean(fn: BatchFn, *args: PyTree, **static: Any) -> PyTree:
        # Parameters are operands of the program, never constants baked into it.
        step = jax.jit(fn, static_argnames=tuple(static))
        total, seen = None, 0
        for batch in make_batches():
            size = jax.tree.leaves(batch)[0].shape[0]
            part = jax.tree.map(lambda leaf, n=size: n * leaf, step(batch, *args, **static))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
            seen += size
        if total is None:
            raise ValueError("make_batches() yielded nothing; return a fresh iterable every call")
        return jax.tree.map(lambda leaf: leaf / seen, total)

    return Stream(mean, on_host=True)
