import numpy as np
import pytest
from scipy import stats

from experiments.findings import statistics


def test_interval_is_students_t():
    values = [0.51, 0.62, 0.47, 0.58]
    mean, half = statistics.mean_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_the_jackknife_of_a_mean_is_its_t_interval():
    values = np.random.default_rng(0).normal(size=7)
    without = [np.delete(values, i).mean() for i in range(7)]
    _, half = statistics.mean_interval(values)
    np.testing.assert_allclose(statistics.jackknife(without), half, rtol=1e-12)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, trials = np.random.default_rng(0), 4000
    hits = 0
    for sample in rng.normal(size=(trials, 5)):
        mean, half = statistics.mean_interval(sample)
        hits += abs(mean) <= half
    # Binomial standard error of the coverage; a normal quantile (1.96) would cover 0.88.
    assert hits / trials == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / trials))


def test_one_run_has_no_interval():
    assert statistics.mean_interval([0.5])[1] == np.inf
    assert statistics.shown([0.5]) == "0.500"
    assert statistics.shown([0.5, 0.7], 2) == "0.60 ± 1.27"
