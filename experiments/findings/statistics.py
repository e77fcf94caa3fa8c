"""What independent runs say: intervals, equivalence, rank correlation; the unit is the run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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


def is_above(values: Sequence[float]) -> bool:
    """Whether the 95 % interval over independent runs lies above zero."""
    mean, half = mean_interval(values)
    return mean - half > 0


def pseudo_values(value: Callable[[np.ndarray], float], runs: int) -> np.ndarray:
    """Jackknife pseudo-values of a statistic, one a run, for a t interval or test of it.

    Args:
        value: the statistic of the runs of these numbers.
        runs: how many there are.
    """
    every = np.arange(runs)
    without = np.array([value(np.delete(every, run)) for run in every])
    return runs * value(every) - (runs - 1) * without


def jackknife(without: Sequence[float], level: float = 0.95) -> float:
    """Half width of the interval of a statistic, from its values without each run in turn.

    half = t_{(1 + level)/2, n-1} √((n - 1)/n Σ (θ_i - θ̄)²), for the mean that of `mean_interval`.
    """
    array = np.asarray(without, dtype=float)
    error = np.sqrt((array.size - 1) * array.var())
    return float(stats.t.ppf((1 + level) / 2, array.size - 1) * error)


def runs_for(values: Sequence[float], half: float) -> int:
    """How many runs of this spread give a 95 % interval (Student t) of that half width."""
    spread = np.std(values, ddof=1)
    runs = max(2, int((stats.norm.ppf(0.975) * spread / half) ** 2))  # t needs no fewer
    while stats.t.ppf(0.975, runs - 1) * spread / np.sqrt(runs) > half:
        runs += 1
    return runs


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± half width as text; a single run is shown without an interval.

    An arm that says nothing has no numbers (`effects.GATE`), and its text says so.
    """
    mean, half = mean_interval(values)
    if np.isnan(mean):
        return "says nothing"
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if np.isfinite(half) else f"{mean:.{digits}f}"


def shown_each(arms: Mapping[Any, Sequence[float]], digits: int) -> dict[Any, str]:
    """`shown` of every arm, by the keys of the arms."""
    return {arm: shown(values, digits) for arm, values in arms.items()}


def bracketed(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value and the ends of its interval as text."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def equivalent(values: Sequence[float], margin: float, alpha: float = 0.05) -> bool:
    """Whether the mean lies within ±margin: two one-sided t tests at level `alpha` (TOST).

    The same as the (1 - 2 alpha) interval lying inside ±margin (Schuirmann 1987). This, and never
    an interval that happens to cover zero, is what "no effect" means here; the margin is stated
    before the run. Few or scattered runs fail: absence of evidence proves nothing.
    """
    mean, half = mean_interval(values, level=1 - 2 * alpha)
    return abs(mean) + half < margin


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ; not a number where one of the two is constant."""
    varies = min(np.unique(a).size, np.unique(b).size) > 1
    return float(np.asarray(stats.spearmanr(a, b))[0]) if varies else np.nan


def rank_correlations(
    a: Sequence[Sequence[float] | np.ndarray], b: Sequence[Sequence[float] | np.ndarray]
) -> np.ndarray:
    """Spearman's ρ over arms (arms, runs) for every run: (runs,)."""
    pairs = zip(np.transpose(a), np.transpose(b), strict=True)
    return np.array([rank_correlation(one, other) for one, other in pairs])


def half_way(rising: Sequence[np.ndarray], places: Sequence[float]) -> np.ndarray:
    """The x at which curves first reach half of their last value, read between the places.

    Args:
        rising: (places, runs); what falls back is held at its highest so far.
        places: x of each, rising.

    Returns:
        (runs,).
    """
    found = []
    for curve in np.transpose(rising):
        if not curve[-1] > 0:  # what does not rise has no half
            found.append(np.nan)
            continue
        found.append(np.interp(0.5, np.maximum.accumulate(curve / curve[-1]), places))
    return np.array(found)


def equivalence_p(values: Sequence[float], margin: float) -> float:
    """The p value of the two one-sided t tests: small if the mean is shown to lie within ±margin.

    `equivalent` at level alpha is p < alpha; p is what a correction for many arms needs.
    """
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return 1.0
    error = array.std(ddof=1) / np.sqrt(array.size)
    distance = margin - abs(array.mean())
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stats.t.sf(distance / error, array.size - 1))


def relative_equivalence_p(
    values: Sequence[float], reference: Sequence[float], share: float = 0.2
) -> float:
    """The p value for: the mean lies within ±share of the mean of `reference`, run by run.

    Two one-sided paired t tests, of share * reference - value and of share * reference + value,
    both with a mean above zero; the larger p counts (Sasabuchi 1980, Berger and Hsu 1996). The
    margin is itself estimated, and its scatter, and its correlation with the values, enter through
    the pairs. A reference without effect can show nothing.
    """
    effects, margins = np.asarray(values, float), share * np.asarray(reference, float)
    return max(above_zero_p(margins - effects), above_zero_p(margins + effects))


def smallest_margin(values: Sequence[float], alpha: float = 0.05) -> float:
    """The smallest margin for which `equivalent` holds: the far end of the (1 - 2 alpha) interval.

    What "no effect" says is no sharper than this number, whatever margin was stated before.
    """
    mean, half = mean_interval(values, level=1 - 2 * alpha)
    return abs(mean) + half


def smallest_share(
    values: Sequence[float], reference: Sequence[float], alpha: float = 0.05
) -> float:
    """The smallest share of the reference for which `relative_equivalence_p` is `alpha`.

    Both tests are t tests of s · reference ± value, so with t the quantile at n - 1 degrees of
    freedom and k = t²/n their edge is a root of (s r̄ ± v̄)² = k var(s r ± v), quadratic in s
    (Fieller 1954). The larger root of both signs counts; infinite where the reference itself is
    not above zero at this level, for then no share of it is.
    """
    effects, whole = np.asarray(values, float), np.asarray(reference, float)
    if effects.size < 2 or above_zero_p(whole) >= alpha:
        return float("inf")
    k = stats.t.ppf(1 - alpha, effects.size - 1) ** 2 / effects.size
    (variance, shared), (_, own) = np.cov(whole, effects)
    a, c = whole.mean() ** 2 - k * variance, effects.mean() ** 2 - k * own
    b = whole.mean() * effects.mean() - k * shared
    inside = max(b**2 - a * c, 0.0)  # not below zero but for rounding: ± and a > 0 give two roots
    return float((abs(b) + np.sqrt(inside)) / a)


def above_zero_p(values: Sequence[float] | np.ndarray) -> float:
    """The p value of the one-sided t test that the mean is above zero; 1 for a single run."""
    array = np.asarray(values, dtype=float)
    if array.size < 2:
        return 1.0
    error = array.std(ddof=1) / np.sqrt(array.size)
    if error == 0:
        return 0.0 if array.mean() > 0 else 1.0
    return float(stats.t.sf(array.mean() / error, array.size - 1))


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which hypotheses fall at family-wise level `alpha` (Holm 1979): step-down Bonferroni."""
    order = np.argsort(p_values)
    rejected = [False] * len(order)
    for rank, index in enumerate(order):
        if p_values[index] > alpha / (len(order) - rank):
            break
        rejected[index] = True
    return rejected


def spearman(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> tuple[float, ...]:
    """Rank correlation with its interval: rho, low, high.

    By Fisher's z with the variance (1 + rho²/2) / (n - 3) of Bonett and Wright (2000). The interval
    is all of [-1, 1] for fewer than five pairs, and NaN is returned where a side is constant.
    """
    rho = rank_correlation(x, y)
    if len(x) < 5 or not np.isfinite(rho):
        return rho, -1.0, 1.0
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    return rho, float(np.tanh(centre - half)), float(np.tanh(centre + half))


def bounded(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± half width, and from which margin on `equivalent` holds."""
    return f"{shown(values, digits)}, from ±{smallest_margin(values):.{digits}f} on"


def jackknifed_correlation(
    value: Callable[[np.ndarray], float], runs: int
) -> tuple[float, float, float]:
    """Rank correlation of points that share runs, with its interval over runs: rho, low, high.

    Points that are made of the same runs are no independent pairs, as `spearman` takes them to be.
    The interval is the jackknife's on the scale of arctanh, where it is nearly symmetric; all of
    [-1, 1] where the correlation is not a number.

    Args:
        value: the correlation over the points of the runs of these numbers.
        runs: how many there are.
    """
    every = np.arange(runs)
    return around(value(every), [value(np.delete(every, run)) for run in every])


def around(rho: float, without: Sequence[float]) -> tuple[float, float, float]:
    """A correlation and the ends of its interval, from its values without each run in turn."""
    if not np.isfinite([rho, *without]).all():
        return rho, -1.0, 1.0
    centre, *others = np.arctanh(np.clip([rho, *without], -0.9999, 0.9999))
    half = jackknife(others)
    return rho, float(np.tanh(centre - half)), float(np.tanh(centre + half))


def ratio_of_means(
    over: Sequence[float], under: Sequence[float], draws: int = 2000
) -> tuple[float, np.ndarray]:
    """The mean of one column over the mean of another, and the same of bootstrap samples.

    A mean of ratios would be ruled by the runs whose denominator is small. The samples of runs
    (Efron and Tibshirani 1993) are equal for all columns of so many runs: differences of two ratios
    are paired.

    Args:
        over: one value a run.
        under: of the same runs.
        draws: bootstrap samples.
    """
    columns = np.array([over, under], float)
    runs = columns.shape[1]
    chosen = np.random.default_rng(0).integers(0, runs, (draws, runs))
    above, below = columns[:, chosen].mean(axis=-1)
    return float(columns[0].mean() / columns[1].mean()), above / below
