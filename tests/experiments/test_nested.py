"""Variance components, their intervals and allocations, against data whose components are known."""

import itertools

import numpy as np
import pytest

from experiments.findings import nested, statistics

TRUE = (0.5, 0.1, 0.3, 1.0)
SHAPE = (5, 2, 3, 2)


def drawn(rng, variances, shape):
    """Values of the random-effects model, level by level."""
    return sum(
        np.sqrt(v) * rng.normal(size=(*shape[: k + 1], *[1] * (len(shape) - k - 1)))
        for k, v in enumerate(variances)
    )


def test_mean_squares_are_those_of_the_textbook():
    """Two levels: between and within groups, the one-way analysis of variance."""
    values = np.array([[1.0, 3.0], [2.0, 6.0], [9.0, 9.0]])
    squares, freedom = nested.mean_squares(values)
    assert freedom.tolist() == [2, 3]
    np.testing.assert_allclose(squares, [2 * ((2 - 5) ** 2 + (4 - 5) ** 2 + 16) / 2, (2 + 8) / 3])
    # All sums of squares together are the total one, at any depth.
    deep = np.random.default_rng(0).normal(size=SHAPE)
    squares, freedom = nested.mean_squares(deep)
    assert (squares * freedom).sum() == pytest.approx(((deep - deep.mean()) ** 2).sum())
    assert freedom.sum() == deep.size - 1


def test_known_components_are_found_and_covered():
    rng, runs = np.random.default_rng(0), 300
    found = [nested.components(drawn(rng, TRUE, SHAPE)) for _ in range(runs)]
    estimates = np.array([[c.variance for c in run] for run in found])
    error = estimates.std(axis=0) / np.sqrt(runs)
    np.testing.assert_array_less(np.abs(estimates.mean(axis=0) - TRUE), 4 * error)  # unbiased
    covered = np.mean(
        [[c.low <= t <= c.high for c, t in zip(run, TRUE, strict=True)] for run in found], axis=0
    )
    # At least 95 %, less four standard errors; the method is known to cover rather too often.
    assert (covered > 0.95 - 4 * np.sqrt(0.95 * 0.05 / runs)).all(), covered


def test_means_that_were_taken_off_are_paid_for():
    rng, runs, biased = np.random.default_rng(2), 400, []
    estimates = []
    for _ in range(runs):
        values = drawn(rng, TRUE, SHAPE) + np.array([0.0, 3.0])[:, None, None]  # of known units
        values = values - values.mean(axis=(0, 2, 3), keepdims=True) + values.mean()
        estimates.append([c.variance for c in nested.components(values, known=True)])
        biased.append(nested.components(values)[1].variance)
    error = np.std(estimates, axis=0) / np.sqrt(runs)
    np.testing.assert_array_less(np.abs(np.mean(estimates, axis=0) - TRUE), 4 * error)
    assert np.mean(biased) < TRUE[1] - 4 * error[1], "one of five degrees of freedom is gone"


def test_the_interval_of_the_mean_is_as_wide_as_said():
    """The formula for the variance of the mean, against means of drawn designs."""
    rng = np.random.default_rng(1)
    means = [drawn(rng, TRUE, SHAPE).mean() for _ in range(4000)]
    expected = nested.variance_of_mean(TRUE, SHAPE)
    assert np.var(means) == pytest.approx(expected, rel=4 * np.sqrt(2 / 4000))


def test_the_best_allocation_repeats_what_scatters_and_is_cheap():
    costs, budget = (10.0, 1.0, 1.0, 0.1), 500.0
    for variances in (TRUE, (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)):
        best = nested.best_allocation(variances, costs, budget)
        width = nested.half_width(variances, best)
        assert nested.cost(costs, best) <= budget
        for inner in itertools.product((1, 2, 5), repeat=3):  # no other one that it can buy
            units = int(budget / nested.cost(costs, (1, *inner)))
            assert width <= nested.half_width(variances, (units, *inner))
    assert best[1:] == (1, 1, 1), "repeating what does not scatter buys nothing"
    with pytest.raises(ValueError, match="does not buy two units"):
        nested.best_allocation(TRUE, costs, 12.0)


def test_relative_equivalence_has_its_level_at_the_edge_and_power_inside():
    """At the margin one run in twenty is called equivalent; the margin is estimated with it."""
    rng, chains, runs = np.random.default_rng(0), 8, 2000

    def share(effect):
        shared = rng.normal(0, 0.3, (runs, chains))  # what a chain has in common
        reference = 1 + shared + rng.normal(0, 0.3, (runs, chains))
        values = effect + 0.2 * shared + rng.normal(0, 0.05, (runs, chains))
        p = map(statistics.relative_equivalence_p, values, reference)
        return np.mean(np.fromiter(p, float) < 0.05)

    error = np.sqrt(0.05 * 0.95 / runs)
    assert abs(share(0.2) - 0.05) < 4 * error
    assert abs(share(-0.2) - 0.05) < 4 * error
    assert share(0.0) > 0.9
    assert share(0.5) == 0
    assert statistics.relative_equivalence_p([0.0, 0.0], [0.0, 0.0]) == 1, "none beside none"
    assert statistics.relative_equivalence_p([0.0], [1.0]) == 1, "one run shows nothing"
