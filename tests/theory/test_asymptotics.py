"""Slopes of known powers, and a window that keeps round-off and higher orders out."""

import numpy as np
import pytest

from theory import asymptotics

EPS = 2.0 ** -np.arange(2, 40)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_slope_of_a_power_is_its_exponent(order):
    everywhere = np.ones(EPS.shape, bool)
    slope = asymptotics.loglog_slope(EPS, -7 * EPS**order, everywhere)
    assert slope == pytest.approx(order, abs=1e-12)
    assert slope == pytest.approx(np.polyfit(np.log(EPS), np.log(7 * EPS**order), 1)[0])


def test_window_lies_between_higher_orders_and_roundoff():
    noise = 1e-15 * np.random.default_rng(0).choice([-1, 1], EPS.size)
    remainder = 3 * EPS**2 * (1 + 5 * EPS) + noise
    inside = asymptotics.window(remainder / EPS, 1e-15 / EPS)
    fitted = asymptotics.loglog_slope(EPS, remainder, inside)
    assert inside.sum() == 4
    # The window bounds the errors of the logarithms: round-off by 0.1, halving with every coarser
    # step, and the next order by its ratio, at most 0.02. The slope weighs them by these factors.
    weights = np.array([0.3, 0.1, -0.1, -0.3]) / np.log(2)
    worst = np.abs(weights[::-1]) @ (0.1 * 2.0 ** -np.arange(4)) + np.abs(weights).sum() * 0.02
    assert worst < 0.09
    assert fitted == pytest.approx(2, abs=worst)
    # Either end alone would have failed: this is what the window is for.
    coarse, fine = np.arange(EPS.size) < 4, np.arange(EPS.size) >= EPS.size - 6
    assert abs(asymptotics.loglog_slope(EPS, remainder, coarse) - 2) > 0.2
    assert abs(asymptotics.loglog_slope(EPS, remainder, fine) - 2) > 1


def test_no_window_where_nothing_falls():
    inside = asymptotics.window(np.ones(10), np.zeros(10))
    assert not inside.any()
    assert np.isnan(asymptotics.loglog_slope(EPS[:10], np.ones(10), inside))


@pytest.mark.parametrize("num_steps", [2, 3])
def test_an_order_takes_three_steps(num_steps):
    slope = asymptotics.loglog_slope(EPS, EPS**2, np.arange(EPS.size) < num_steps)
    assert np.isnan(slope) if num_steps < 3 else slope == pytest.approx(2)


def test_many_series_at_once_have_windows_of_their_own():
    scale = np.array([1.0, 100.0])[:, None]
    ratio = scale * EPS
    inside = asymptotics.window(ratio, np.full(ratio.shape, 1e-10))
    both = asymptotics.loglog_slope(EPS, EPS**2 * scale, inside)
    np.testing.assert_allclose(both, 2, atol=1e-12)
    assert (inside[0] != inside[1]).any()
