"""What independent runs say: intervals, equivalence, rank correlation; the unit is the run."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half width of the Student-t interval over independent runs.

    half = t_{(1 + level)/2, n-1} s / √n with s the sample standard deviation (ddof 1);
    infinite for a single run, which says nothing about scatter.
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return float(array.mean()), float("inf")
    half = stats.t.ppf((1 + level) / 2, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size)
    return float(array.mean()), float(half)


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± half width as text; a single run is shown without an interval."""
    mean, half = mean_interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if np.isfinite(half) else f"{mean:.{digits}f}"


def equivalent(values: Sequence[float], margin: float, alpha: float = 0.05) -> bool:
    """Whether the mean lies within ±margin: two one-sided t tests at level `alpha` (TOST).

    The same as the (1 - 2 alpha) interval lying inside ±margin (Schuirmann 1987). This, and never
    an interval that happens to cover zero, is what "no effect" means here; the margin is stated
    before the run. Few or scattered runs fail: absence of evidence proves nothing.
    """
    mean, half = mean_interval(values, level=1 - 2 * alpha)
    return abs(mean) + half < margin


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ."""
    return float(np.asarray(stats.spearmanr(a, b))[0])
