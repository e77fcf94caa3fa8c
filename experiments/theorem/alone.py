"""A sample of networks run alone, beside the program that ran them all: a check on the compiler.

The program for a thousand networks is another one than that for a single network, and a compiler
can get one right and the other wrong. A disagreement ends the run before it becomes a figure.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.frame import record

SAMPLE = 16  # networks that are also run alone, spread evenly
RELATIVE = 1e-4  # far above the round-off of float64, far below anything that a figure shows


def relative(alone: np.ndarray) -> np.ndarray:
    """Allowed difference: that part of a value, or of the sample's median where it cancels."""
    size = np.where(np.isfinite(alone), np.abs(alone), 0)
    return RELATIVE * np.maximum(size, np.median(size, axis=0))


def check(
    function: Callable[..., Any],
    stacked: tuple[Any, ...],
    together: Any,
    allowed: Callable[[Any], Any] = lambda alone: jax.tree.map(relative, alone),
) -> None:
    """Compare results of all networks with those of single calls, on an even sample.

    Args:
        function: arguments of one network -> a tree of arrays.
        stacked: its arguments, networks on the leading axis.
        together: its results for all networks, as a batched program gave them.
        allowed: results of the sample -> differences that round-off explains, a tree alike.

    Raises:
        RunError: if a network has other results alone.
    """
    num = jax.tree.leaves(stacked)[0].shape[0]
    sample = np.unique(np.linspace(0, num - 1, SAMPLE).astype(int))
    single = jax.jit(function)
    runs = [jax.device_get(single(*jax.tree.map(lambda x, i=i: x[i], stacked))) for i in sample]
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    leaves = map(jax.tree.leaves, (together, alone, allowed(alone)))
    for many, one, limit in zip(*leaves, strict=True):
        # A student that diverges to inf or nan does so in both.
        agree = np.isclose(many[sample], one, rtol=0, atol=limit, equal_nan=True)
        if not agree.all():
            at = tuple(np.argwhere(~agree)[0])
            raise record.RunError(
                f"JAX {jax.__version__} computes network {sample[at[0]]} of {num} as "
                f"{many[sample][at]:.6g} among the others and as {one[at]:.6g} alone; "
                "use another version that pyproject.toml allows"
            )
