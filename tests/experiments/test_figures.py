import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.findings import drawing, statistics


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


def three_panels(names):
    """A figure 12 inches wide, of three panels with long names and words."""
    figure, panels = drawing.new_figure(1, 3, width=12.0, height=4.0)
    for panel in panels:
        panel.plot(range(4), label="a line whose name is long")
        panel.set_xticks(range(4), names)
        panel.set_title("a title that is too long for a phone " * 2)
    figure.legend(loc="outside lower center", ncols=3)
    drawing.fit(figure)
    figure.canvas.draw()
    return figure, panels


def test_on_a_phone_panels_lie_below_each_other_and_words_stay_apart_and_inside():
    names = ["student of another start", "student of the same start", "teacher", "reference"]
    with drawing.narrow(), drawing.style():
        figure, panels = three_panels(names)
        boxes = [panel.get_window_extent() for panel in panels]
        assert all(below.y1 < above.y0 for above, below in itertools.pairwise(boxes))
        assert figure.get_figwidth() == drawing.PHONE
        tight = figure.get_tightbbox()
        assert -0.05 < tight.x0 < tight.x1 < drawing.PHONE + 0.05
        for panel in panels:
            ticks = [name.get_window_extent() for name in panel.get_xticklabels()]
            assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(ticks))
        drawing.close(figure)
    with drawing.style():
        figure, panels = three_panels(["a", "b", "c", "d"])
        assert figure.get_figwidth() == 12.0, "elsewhere a figure is as it was asked for"
        assert len({panel.get_window_extent().y0 for panel in panels}) == 1
        drawing.close(figure)


def test_small_panels_share_a_phone():
    with drawing.narrow(), drawing.style():
        figure, panels = drawing.new_grid(8, 4, 3.1, 2.5)
        rows = {panel.get_subplotspec().rowspan.start for panel in panels}
        assert len(rows) == 4, "two side by side, each more than half as wide as it was to be"
        drawing.close(figure)
