"""Every statistic against SciPy's own test or a sum written out, at its edges too."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.findings import claims, statistics
from experiments.frame import experiment

VALUES = [0.31, -0.04, 0.22, 0.55, 0.13]
OTHERS = [1.4, 0.9, 1.1, 1.6, 0.7]


def test_the_interval_is_scipys_at_any_level():
    for level in (0.95, 0.8):
        found = stats.ttest_1samp(VALUES, 0).confidence_interval(level)
        mean, half = statistics.mean_interval(VALUES, level)
        assert (mean - half, mean + half) == pytest.approx((found.low, found.high))
    assert statistics.mean_interval([2.0]) == (2.0, np.inf)
    assert statistics.mean_interval([2.0, 2.0]) == (2.0, 0.0)


def test_above_is_an_interval_without_zero():
    mean, half = statistics.mean_interval(VALUES)
    edge = np.asarray(VALUES) - mean + half
    assert statistics.is_above(edge + 1e-9)
    assert not statistics.is_above(edge - 1e-9)
    assert not statistics.is_above(-edge - 1), "below is not above"
    assert not statistics.is_above([1.0])


def test_the_jackknife_is_its_sum():
    without = np.array([0.2, 0.5, 0.3, 0.9])
    for level in (0.95, 0.9):
        error = np.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
        expected = stats.t(3).ppf(0.5 + level / 2) * error
        assert statistics.jackknife(without, level) == pytest.approx(expected)


def test_pseudo_values_of_a_mean_are_the_values_and_their_error_is_the_jackknife():
    values = np.array([0.2, 0.5, 0.3, 0.9])
    np.testing.assert_allclose(
        statistics.pseudo_values(lambda runs: values[runs].mean(), 4), values
    )

    def ratio(runs):
        return values[runs].mean() / values[runs].std()

    without = [ratio(np.delete(np.arange(4), run)) for run in range(4)]
    _, half = statistics.mean_interval(statistics.pseudo_values(ratio, 4))
    assert half == pytest.approx(statistics.jackknife(without))


def test_half_way_is_read_between_the_forks_and_never_falls_back():
    places = [0.0, 2.0, 4.0]
    curves = np.array([[0.0, 1.0], [0.8, 0.2], [1.0, 1.0]])  # places x runs
    np.testing.assert_allclose(statistics.half_way(curves, places), [1.25, 0.0])
    assert np.isnan(statistics.half_way(-curves, places)).all(), "what falls has no half"
    assert np.isnan(statistics.half_way(0 * curves, places)).all()


def test_runs_for_a_width_is_the_first_that_students_t_allows():
    """SciPy's interval of so many runs of this spread, tried from two runs upwards."""
    values = [-1, 1, -1, 1, 0]  # a standard deviation of 1
    assert np.std(values, ddof=1) == 1
    for half in (3.0, 1.0, 0.7, 0.31, 0.1):
        widths = (stats.t.interval(0.95, n - 1, scale=n**-0.5)[1] for n in itertools.count(2))
        runs = next(n for n, width in enumerate(widths, start=2) if width <= half)
        assert statistics.runs_for(values, half) == runs
    # Normal quantiles would say 16 and promise an interval that is too narrow.
    assert statistics.runs_for(np.multiply(values, 2), 1.0) == 18


def test_the_smallest_margin_is_where_scipys_tests_turn():
    """Root of the larger p of two one-sided tests, with the margin known and as a share."""
    for sign, alpha in itertools.product((1, -1), (0.05, 0.01)):
        values = sign * np.asarray(VALUES)

        def known(margin, values=values):
            low = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
            return max(low, stats.ttest_1samp(values, margin, alternative="less").pvalue)

        def relative(share, values=values):
            margins = share * np.asarray(OTHERS)
            return max(
                stats.ttest_rel(margins, v, alternative="greater").pvalue for v in (values, -values)
            )

        for p_value, found in (
            (known, statistics.smallest_margin(values, alpha)),
            (relative, statistics.smallest_share(values, OTHERS, alpha)),
        ):
            assert p_value(found) == pytest.approx(alpha, rel=1e-6)
            assert p_value(0.99 * found) > alpha > p_value(1.01 * found)
    assert statistics.smallest_margin(VALUES) == statistics.smallest_margin(VALUES, 0.05)
    assert statistics.smallest_share(VALUES, OTHERS) == statistics.smallest_share(
        VALUES, OTHERS, 0.05
    )


def test_no_share_of_what_is_not_above_zero_is_a_margin():
    assert statistics.smallest_share(VALUES, np.subtract(OTHERS, 1.1)) == np.inf
    assert statistics.smallest_share([0.0], [1.0]) == np.inf
    assert statistics.smallest_share([0.1, 0.1], [1.0, 1.0]) == pytest.approx(0.1)


def test_what_is_shown():
    assert statistics.shown([0.5, 0.7]) == "0.600 ± 1.271"
    assert statistics.shown([0.5, 0.7], 1) == "0.6 ± 1.3"
    assert statistics.shown([0.12345], 4) == "0.1235"
    assert statistics.shown_each({"one": [0.5, 0.7]}, 1) == {"one": "0.6 ± 1.3"}


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_equivalence_is_two_one_sided_tests(alpha):
    """SciPy's two tests of the mean against -margin and margin, at margins on both sides."""
    for sign, margin in itertools.product((1, -1), (0.1, 0.3, 0.4, 0.45, 0.5, 0.6, 1.0)):
        values = sign * np.asarray(VALUES)
        p = max(
            stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(values, margin, alternative="less").pvalue,
        )
        assert statistics.equivalence_p(values, margin) == pytest.approx(p)
        assert statistics.equivalent(values, margin, alpha) == (p < alpha)
    assert statistics.equivalent(VALUES, 0.45) == statistics.equivalent(VALUES, 0.45, 0.05)


def test_without_scatter_the_mean_decides():
    assert statistics.equivalence_p([0.1, 0.1], 0.2) == 0
    assert statistics.equivalence_p([0.25, 0.25], 0.2) == 1
    assert statistics.equivalence_p([0.25, 0.25], 0.25) == 1, "at the margin is not within"
    assert statistics.above_zero_p([0.5, 0.5]) == 0
    assert statistics.above_zero_p([0.0, 0.0]) == statistics.above_zero_p([-0.5, -0.5]) == 1
    # A single run shows nothing.
    assert statistics.above_zero_p([9.0]) == statistics.equivalence_p([0.0], 9.0) == 1


def test_above_zero_is_scipys_one_sided_test():
    for values in (VALUES, np.negative(VALUES)):
        p = stats.ttest_1samp(values, 0, alternative="greater").pvalue
        assert statistics.above_zero_p(values) == pytest.approx(p)


def test_relative_equivalence_is_the_larger_of_two_paired_tests():
    for sign, share in itertools.product((1, -1), (0.2, 0.5)):
        values, margins = sign * np.asarray(VALUES), share * np.asarray(OTHERS)
        p = max(
            stats.ttest_rel(margins, values, alternative="greater").pvalue,
            stats.ttest_rel(margins, -values, alternative="greater").pvalue,
        )
        assert statistics.relative_equivalence_p(values, OTHERS, share) == pytest.approx(p)
    default = statistics.relative_equivalence_p(VALUES, OTHERS)
    assert default == statistics.relative_equivalence_p(VALUES, OTHERS, 0.2)


def test_rank_correlation_is_that_of_ranks():
    ranks = np.array([stats.rankdata(VALUES), stats.rankdata(OTHERS)])
    expected = np.corrcoef(ranks)[0, 1]
    assert statistics.rank_correlation(VALUES, OTHERS) == pytest.approx(expected)
    assert statistics.rank_correlation([0, 0, 1], [3, 4, 5]) == pytest.approx(np.sqrt(0.75))
    assert np.isnan(statistics.rank_correlation([0, 0, 0], [3, 4, 5]))
    assert np.isnan(statistics.rank_correlation([3, 4, 5], [0, 0, 0]))
    arms = [[0.1, 3.0], [0.2, 2.0], [0.4, 1.0]], [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    np.testing.assert_allclose(statistics.rank_correlations(*arms), [1, -1])


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_holm_is_its_closed_test(alpha):
    """A hypothesis falls if Bonferroni rejects every set of hypotheses that holds it."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 1, 4) ** 3
        closed = [
            all(
                p[list(others)].min() <= alpha / len(others)
                for size in range(1, 5)
                for others in itertools.combinations(range(4), size)
                if i in others
            )
            for i in range(4)
        ]
        assert statistics.holm(p, alpha) == closed
    assert statistics.holm([0.03, 0.04]) == statistics.holm([0.03, 0.04], 0.05) == [False, False]
    assert statistics.holm([0.025, 0.05]) == [True, True], "at the level it falls"


def test_the_interval_of_a_rank_correlation_by_hand():
    """Bonett and Wright: tanh(artanh ρ ± z √((1 + ρ²/2) / (n - 3)))."""
    rho, low, high = statistics.spearman(VALUES, OTHERS)
    narrow = statistics.spearman(VALUES, OTHERS, level=0.5)
    error = np.sqrt((1 + 0.9**2 / 2) / 2)
    assert rho == pytest.approx(0.9)  # 1 - 6 Σ d² / (n (n² - 1)), and two ranks differ by 1
    for found, z in (((low, high), 1.959964), (narrow[1:], 0.6744898)):
        expected = np.tanh(np.arctanh(0.9) + np.array([-z, z]) * error)
        assert found == pytest.approx(expected, rel=1e-6)
    assert statistics.spearman(VALUES[:4], OTHERS[:4])[1:] == (-1, 1), "fewer than five say nothing"
    # ρ = ±1 has a finite z, and its interval the same sign.
    assert statistics.spearman(VALUES, VALUES)[1:] == pytest.approx((1, 1), abs=1e-6)
    assert statistics.spearman(VALUES, np.negative(VALUES))[1:] == pytest.approx((-1, -1), abs=1e-6)


def test_the_interval_of_points_that_share_runs_is_that_of_the_runs():
    """Forty arms of one noisy draw a run are no forty pairs, and a sure order has no width."""
    rng = np.random.default_rng(0)
    x, shared = np.linspace(-1, 1, 40), rng.normal(size=(1, 12))

    def interval(values):
        def over(runs):
            return statistics.rank_correlation(x, values[:, runs].mean(axis=1))

        return statistics.jackknifed_correlation(over, values.shape[1])

    turned = x[:, None] * shared  # each run turns all arms at once, up or down
    rho, low, high = interval(turned)
    assert low < 0 < high, "twelve draws of a sign decide nothing"
    alone = statistics.spearman(x, turned.mean(axis=1))
    assert abs(alone[1]) > 0.9, "as forty pairs they would"
    rho, low, high = interval(x[:, None] + 0 * shared)
    assert rho == pytest.approx(1)
    assert high - low < 1e-6
    assert statistics.around(np.nan, [0.1, 0.2])[1:] == (-1.0, 1.0)


def test_ratio_of_means_is_of_the_means_and_paired():
    rng = np.random.default_rng(1)
    under, over = rng.normal(2, 0.5, 16), rng.normal(1, 0.5, 16)
    ratio, samples = statistics.ratio_of_means(over, under)
    assert ratio == pytest.approx(over.mean() / under.mean())
    assert ratio != pytest.approx((over / under).mean(), rel=1e-3)
    # The delta method for a ratio of paired means, up to its next order and to 2,000 draws.
    error = np.std(over - ratio * under) / under.mean() / 4
    assert samples.std() == pytest.approx(error, rel=0.1)
    # One choice of runs for numerator and denominator, and for every other pair of columns.
    np.testing.assert_allclose(statistics.ratio_of_means(3 * under, under)[1], 3)
    np.testing.assert_allclose(statistics.ratio_of_means(3 * over, under)[1], 3 * samples)


# Claims made of them.


def above(*samples):
    return [
        claims.claim_of(f"{i}", np.asarray(v), criterion="above") for i, v in enumerate(samples)
    ]


def test_above_zero_is_corrected_over_all_groups_of_an_experiment():
    """SciPy's one-sided p values in order, against 2.5 % over how many are left."""
    rng = np.random.default_rng(5)
    samples = [rng.normal(shift, 1, 8) for shift in (0.2, 0.9, 1.1, 1.3, 3.0)]
    p_values = [stats.ttest_1samp(v, 0, alternative="greater").pvalue for v in samples]
    ranks, holds, standing = np.argsort(p_values), [False] * 5, True
    for step, i in enumerate(ranks):
        standing = standing and p_values[i] <= 0.025 / (5 - step)
        holds[i] = standing
    first, second = claims.corrected(above(*samples[:2]), above(*samples[2:]))
    assert [c.holds for c in [*first, *second]] == holds
    singly = [c.holds for c in above(*samples)]
    assert sum(singly) > sum(holds) > 0, "an example in which the correction decides something"
    assert all("Holm over 5)" in c.here for c in [*first, *second])
    assert claims.say(first, holds="yes", fails="no", open="?") == "no"


def test_what_is_not_above_zero_by_criterion_is_left_alone():
    others = [claims.claim_of("free", np.array(VALUES)), claims.claim_of("two", np.array(VALUES))]
    few = claims.claim_of("few", np.array(VALUES[:3]), criterion="above")
    alone = above(OTHERS)
    judged = [dataclasses.replace(claim, p=None) for claim in alone]
    assert claims.corrected([*others, few], alone) == ([*others, few], judged)
    assert judged[0].holds is True
    assert few.holds is few.p is None
    # What is not judged for another reason, toy digits say, is marked alike and stays unjudged.
    unjudged = [dataclasses.replace(claim, holds=None) for claim in above(VALUES, OTHERS)]
    ((first, second),) = claims.corrected(unjudged)
    assert first.holds is second.holds is None
    assert first.here.endswith("Holm over 2)")


def test_a_family_may_be_nested():
    one, more, last = above(VALUES, OTHERS, VALUES)
    found, by_name, (pair, rest) = claims.corrected(one, {"more": [more]}, ((last, last), []))
    assert by_name.keys() == {"more"}
    assert rest == []
    for before, after in zip(
        (one, more, last, last), (found, *by_name["more"], *pair), strict=True
    ):
        assert after.quantity == before.quantity
        assert after.here.startswith(before.here)
        assert after.here.endswith("Holm over 4)")


def test_what_is_not_corrected_is_not_said():
    (alone,) = tested = above(OTHERS)
    with pytest.raises(ValueError, match="'0' is not corrected"):
        claims.say(tested, holds="yes", fails="no", open="?")
    with pytest.raises(ValueError, match="'0' is not corrected"):
        claims.follows_from([claims.claim_of("free", np.array(VALUES)), alone], "much")
    with pytest.raises(ValueError, match="'0' is not corrected"):
        experiment.claims_text(tested)
    (found,) = claims.corrected(alone)
    assert claims.say([found], holds="yes", fails="no", open="?") == "yes"
    assert experiment.claims_text([found]).splitlines()[1:] == [f"0,,,{alone.here},5,True"]


def test_claims_of_no_effect_keep_their_order_around_arms_that_say_nothing():
    """Callers take them by their place; what says nothing is not counted by Holm."""
    rng = np.random.default_rng(4)
    whole, little = 2 + 0.1 * rng.normal(size=8), 0.01 * rng.normal(size=8)
    unknown = np.full(8, np.nan)
    arms = {"a": little, "b": unknown, "c": little, "d": unknown, "e": whole}
    found = claims.no_effect({name: (values, whole) for name, values in arms.items()})
    assert [claim.quantity[0] for claim in found] == list(arms)
    assert [claim.holds for claim in found] == [True, None, True, None, False]
    assert [claim.here == claims.SILENT for claim in found] == [False, True, False, True, False]
    assert {"(1 of 3, Holm)" in claim.quantity for claim in found if claim.holds} == {True}


def test_beside_no_effect_stands_the_smallest_margin_that_holds():
    values, reference = np.array(VALUES) / 10, np.array(OTHERS)
    (claim,) = claims.no_effect({"arm": (values, reference)})
    share = statistics.smallest_share(values, reference)
    assert claim.holds
    assert share < claims.SHARE
    assert claim.here.endswith(f", from {share:.1%} on")
    (claim,) = claims.no_effect({"arm": (values, 0 * reference)})
    assert claim.here.endswith(", at no margin")
    assert not claim.holds
