"""Slopes of known powers, and a window that keeps round-off and higher orders out."""

import numpy as np
import pytest

from theory import asymptotics

EPS = 2.0 ** -np.arange(2, 40)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_slope_of_a_power_is_its_exponent(order):
    assert asymptotics.loglog_slope(EPS, -7 * EPS**order) == pytest.approx(order, abs=1e-12)


def test_window_lies_between_higher_orders_and_roundoff():
    noise = 1e-15 * np.random.default_rng(0).choice([-1, 1], EPS.size)
    remainder = 3 * EPS**2 * (1 + 5 * EPS) + noise
    inside = asymptotics.window(remainder / EPS, 1e-15 / EPS)
    fitted = asymptotics.loglog_slope(EPS[inside], remainder[inside])
    assert fitted == pytest.approx(2, abs=0.02)
    assert inside.sum() == 6
    # Either end alone would have failed: this is what the window is for.
    assert abs(asymptotics.loglog_slope(EPS[:4], remainder[:4]) - 2) > 0.2
    assert abs(asymptotics.loglog_slope(EPS[-6:], remainder[-6:]) - 2) > 1


def test_no_window_where_nothing_falls():
    assert not asymptotics.window(np.ones(10), np.zeros(10)).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [([1, 2], "at least 3"), ([1, 0, 2], "other than 0"), ([1, np.nan, 2], "finite")],
)
def test_a_slope_that_means_nothing_is_an_error(values, message):
    with pytest.raises(ValueError, match=message):
        asymptotics.loglog_slope(EPS[: len(values)], values)
