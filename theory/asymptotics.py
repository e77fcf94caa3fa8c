"""Orders of convergence: log-log slopes, fitted where the asymptotics are visible."""

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike


def window(
    ratio: ArrayLike, floor: ArrayLike, num_steps: int = 4
) -> Bool[np.ndarray, "*series num_eps"]:
    """Which step sizes to fit: the finest `num_steps` of those that round-off leaves legible.

    A quantity c ε^k (1 + d ε + ...) has local slope k + d ε, so ε must be small: `ratio`, the
    remainder relative to the leading term, is of order ε and at most 0.02. Round-off adds at
    most floor / ratio to the logarithm of each point, at most 0.1.

    Args:
        ratio: remainder relative to the leading term at every ε, largest ε first.
        floor: bound on the round-off of that ratio at every ε.
        num_steps: how many step sizes at most.
    """
    ratio, floor = np.asarray(ratio), np.asarray(floor)
    legible = (ratio > 0) & (ratio <= 0.02) & (floor <= 0.1 * ratio)
    finer = np.cumsum(legible[..., ::-1], axis=-1)[..., ::-1]  # legible steps at least as fine
    return legible & (finer <= num_steps)


def loglog_slope(
    eps: ArrayLike, values: ArrayLike, inside: ArrayLike
) -> Float[np.ndarray, "*series"]:
    """Least-squares slope of log |values| against log ε over the steps `inside` a window.

    NaN for a series with fewer than three steps inside: no order can be read off there.
    """
    inside = np.asarray(inside)
    log_eps = np.broadcast_to(np.log(eps), inside.shape)
    log_values = np.log(np.where(inside, np.abs(values), 1))
    count = np.maximum(inside.sum(-1, keepdims=True), 1)
    centred = np.where(inside, log_eps - (log_eps * inside).sum(-1, keepdims=True) / count, 0)
    spread = np.where(inside.sum(-1) < 3, np.nan, (centred**2).sum(-1))
    return np.asarray((centred * log_values).sum(-1) / spread)
