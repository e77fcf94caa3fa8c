"""Orders of convergence: log-log slopes, fitted where the asymptotics are visible."""

import numpy as np
from jaxtyping import Bool
from numpy.typing import ArrayLike


def window(
    ratio: ArrayLike, floor: ArrayLike, ceiling: float = 0.02, num_steps: int = 6
) -> Bool[np.ndarray, "num_eps"]:
    """Which step sizes to fit: the finest `num_steps` of those that round-off leaves legible.

    A quantity c ε^k (1 + d ε + ...) has local slope k + d ε, so ε must be small: `ratio`, the
    remainder relative to the leading term, is of order ε and bounded by `ceiling`. Round-off
    adds floor / ratio to each point, bounded by `ceiling` too.

    Args:
        ratio: remainder relative to the leading term at every ε, largest ε first.
        floor: round-off of that ratio at every ε.
        ceiling: bound on both errors.
        num_steps: how many step sizes at most.
    """
    ratio, floor = np.asarray(ratio), np.asarray(floor)
    legible = (ratio > 0) & (ratio <= ceiling) & (floor <= ceiling * ratio)
    finer = np.cumsum(legible[::-1])[::-1]  # how many legible steps are at least as fine
    return legible & (finer <= num_steps)


def loglog_slope(eps: ArrayLike, values: ArrayLike) -> float:
    """Least-squares slope of log |values| against log ε.

    Raises:
        ValueError: for fewer than three points, or a value that is zero or not finite.
    """
    eps, values = np.asarray(eps, float), np.abs(np.asarray(values, float))
    if eps.size < 3:
        raise ValueError(f"a slope needs at least 3 step sizes inside the window, got {eps.size}")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("a log-log slope needs finite values other than 0")
    return float(np.polyfit(np.log(eps), np.log(values), 1)[0])
