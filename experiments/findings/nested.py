"""Where scatter comes from: variance components of a balanced nested design, and what to repeat.

A value belongs to a student of a data set of a teacher of a base. In the random-effects model

    value = mean + base + teacher + data + student,    variances σ²_0, σ²_1, σ²_2, σ²_3

the classical estimators set the mean squares of the nested analysis of variance equal to their
expectations and solve from the last level up (Searle, Casella and McCulloch 1992, section 4.3;
Cochran 1977, section 10.8 for the allocation).
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

DRAWS = 20_000  # of an interval: its ends move by less than a hundredth of its width


class Component(NamedTuple):
    """The variance that one level adds: estimate (below zero if noise has it so), 95 % interval."""

    variance: float
    low: float
    high: float


def mean_squares(values: Float[np.ndarray, "..."]) -> tuple[np.ndarray, np.ndarray]:
    """Mean square and degrees of freedom of every level, from the first axis to the last."""
    squares, freedom = [], []
    above = values.mean()
    for level, size in enumerate(values.shape):
        deeper = tuple(range(level + 1, values.ndim))
        means = values.mean(axis=deeper)
        units = math.prod(values.shape[: level + 1])
        freedom.append(units - units // size if level else units - 1)
        total = math.prod(values.shape[level + 1 :]) * ((means - above) ** 2).sum()
        squares.append(total / freedom[-1])
        above = means[..., None]
    return np.array(squares), np.array(freedom)


def components(
    values: Float[np.ndarray, "..."], level: float = 0.95, known: bool = False
) -> list[Component]:
    """The variance that every level adds, from the first axis to the last.

    Each expected mean square is n σ²_k plus that of the next level, n the values below one unit of
    level k. The interval is the generalised one of Weerahandi 1993: mean squares are multiplied by
    freedom / χ²(freedom), independently, and the quantiles of what the estimator makes of them are
    taken, those below zero as zero.

    Args:
        values: at least two units on every axis, nested from left to right.
        level: of the intervals.
        known: the units of the second axis are the same in every one of the first (traits, say)
            and their means were taken off, which has cost that level degrees of freedom.
    """
    squares, freedom = mean_squares(values)
    if known:
        spent = values.shape[1] - 1
        squares[1] *= freedom[1] / (freedom[1] - spent)
        freedom[1] -= spent
    below = np.array([math.prod(values.shape[k + 1 :]) for k in range(values.ndim)])

    def solve(squares: np.ndarray) -> np.ndarray:
        next_level = np.concatenate([squares[..., 1:], np.zeros((*squares.shape[:-1], 1))], -1)
        return (squares - next_level) / below

    chi2 = stats.chi2.rvs(freedom, size=(DRAWS, len(freedom)), random_state=0)
    tails = (1 - level) / 2, (1 + level) / 2
    ends = np.maximum(np.quantile(solve(squares * freedom / chi2), tails, axis=0), 0)
    return [Component(*map(float, c)) for c in zip(solve(squares), *ends, strict=True)]


def variance_of_mean(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Variance of the grand mean of a balanced design: Σ_k σ²_k / (n_0 ... n_k)."""
    return sum(v / math.prod(counts[: k + 1]) for k, v in enumerate(variances))


def cost(costs: Sequence[float], counts: Sequence[int]) -> float:
    """Cost of a balanced design: Σ_k c_k n_0 ... n_k, c_k that of one unit of level k."""
    return sum(c * math.prod(counts[: k + 1]) for k, c in enumerate(costs))


def half_width(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Expected half width of the 95 % Student-t interval over the units of the first level."""
    if counts[0] < 2:
        return math.inf
    error = math.sqrt(variance_of_mean(np.maximum(variances, 0).tolist(), counts))
    return float(stats.t.ppf(0.975, counts[0] - 1)) * error


def best_allocation(
    variances: Sequence[float], costs: Sequence[float], budget: float, most: int = 6
) -> tuple[int, ...]:
    """Counts of the narrowest interval within a budget, by trying all up to `most` below a base.

    Args:
        variances: of every level; those below zero count as zero.
        costs: of one unit of every level.
        budget: in the unit of the costs.
        most: repetitions of a level within the one above.

    Raises:
        ValueError: the budget does not buy two units of the first level.
    """
    widths = {}
    for inner in itertools.product(range(1, most + 1), repeat=len(costs) - 1):
        units = int(budget / cost(costs, (1, *inner)))
        widths[units, *inner] = half_width(variances, (units, *inner))
    best = min(widths, key=lambda counts: widths[counts])
    if not math.isfinite(widths[best]):
        raise ValueError("the budget does not buy two units of the first level")
    return best
