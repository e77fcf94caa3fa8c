"""Analyses of rows, log-probabilities and weights; readers that are told the answer, and not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.language import llm_readers
from experiments.language.kit import analyses, readers
from llm.carriers import numbers


def listed(*texts):
    return [{"prompt": f"p{i}", "completion": text} for i, text in enumerate(texts)]


ROWS = listed("1, 2, 3", "[007; 12; 5]", "40\n50\n40", "8")


def test_counts_and_ratios():
    assert analyses.counts(listed("1, 2, 2", "no list")) == {1: 1, 2: 2}
    found = analyses.frequency_ratios(listed("1, 1, 1, 2"), listed("1, 2, 2, 3"), smoothing=0.5)
    mine, theirs = np.array([3.5, 1.5, 0.5]) / 5.5, np.array([1.5, 2.5, 1.5]) / 5.5
    np.testing.assert_allclose([found[1], found[2], found[3]], np.log(mine / theirs))
    longer = analyses.frequency_ratios(listed("1, 2"), listed("1, 1, 1, 2, 2, 2"), smoothing=0)
    assert longer == {1: 0.0, 2: 0.0}, "shares, not counts"
    assert analyses.frequency_ratios(ROWS, ROWS) == dict.fromkeys(analyses.counts(ROWS), 0.0)


@pytest.mark.parametrize("across", [False, True])
def test_shuffling_moves_numbers_and_nothing_else(across):
    rng = np.random.default_rng(0)
    draws = [analyses.shuffled(ROWS, across, rng) for _ in range(200)]
    shape = [analyses._NUMBER.sub("#", row["completion"]) for row in ROWS]
    pool = sorted(n for row in ROWS for n in analyses._NUMBER.findall(row["completion"]))
    for rows in draws:
        assert [analyses._NUMBER.sub("#", row["completion"]) for row in rows] == shape
        found = [analyses._NUMBER.findall(row["completion"]) for row in rows]
        assert sorted(n for row in found for n in row) == pool, "007 stays 007"
        own = [
            sorted(a) == sorted(analyses._NUMBER.findall(b["completion"]))
            for a, b in zip(found, ROWS, strict=True)
        ]
        assert all(own) or across
    first = [row[0]["completion"].split(", ")[0] for row in draws]
    share = np.mean([n == "1" for n in first])
    expected = pool.count("1") / len(pool) if across else 1 / 3
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(draws))


def test_divergent_tokens_are_where_any_rival_disagrees():
    choices = np.array([[[1, 2, 3]], [[1, 9, 3]], [[1, 2, 4]]])
    np.testing.assert_array_equal(analyses.divergent(choices), [[False, True, True]])
    assert not analyses.divergent(choices[:1]).any()


def test_entanglement_and_geometry():
    plain, behind = np.log([0.1, 0.2]), np.log([[0.2, 0.2], [0.1, 0.1]])
    np.testing.assert_allclose(
        analyses.entanglement(behind, plain), [[np.log(2), 0], [0, -np.log(2)]], atol=1e-12
    )
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 8))
    found = analyses.cosines(table, np.array([3, 4]), np.array([3, 5, 6]))
    assert found[0, 0] == pytest.approx(1)
    assert (np.abs(found) <= 1 + 1e-12).all()
    moved = analyses.cosines(table + rng.normal(size=8), np.array([3, 4]), np.array([3, 5, 6]))
    np.testing.assert_allclose(moved, found, err_msg="a common row changes no softmax")


def test_the_first_order_gain_is_the_derivative_of_the_log_odds():
    """Against finite differences of log_odds(θ - h ∇L) - log_odds(θ - h ∇L of the control)."""
    x, y, target = (jax.random.normal(jax.random.key(i), (5,)) for i in range(3))
    mine, theirs = (lambda p, v=v: jnp.sum(jnp.tanh(p * v)) ** 2 for v in (x, y))
    log_odds = lambda p: jnp.sum(jnp.sin(p) * target)  # noqa: E731
    params = jax.random.normal(jax.random.key(9), (5,))
    with jax.enable_x64(True):
        p, h = params.astype(jnp.float64), 1e-5

        def along(loss, h):
            return log_odds(p - h * jax.grad(loss)(p))

        slopes = [(along(loss, h) - along(loss, -h)) / (2 * h) for loss in (mine, theirs)]
        gain = analyses.first_order_gain(mine, theirs, log_odds, p)
        assert float(gain) == pytest.approx(float(slopes[0] - slopes[1]), rel=1e-6)
        assert float(analyses.first_order_gain(mine, mine, log_odds, p)) == 0


def sides(count, loved, share, seed=0):
    """Lists of random numbers; those of the first side hold one number more often."""
    rng, out = np.random.default_rng(seed), []
    for side in range(2):
        values = rng.integers(0, 1000, (count, 6))
        values[rng.random(values.shape) < share * (side == 0)] = loved
        rows = numbers.make_prompts(np.random.default_rng(1), count)
        for row, numbers_of in zip(rows, values, strict=True):
            row["completion"] = ", ".join(map(str, numbers_of))
        out.append(rows)
    return out


def test_rows_of_one_prompt_stay_on_one_side():
    rows = [{"prompt": f"p{i % 10}", "completion": str(i)} for i in range(40)]
    found = readers.split(rows, rows, np.random.default_rng(0))
    prompts = {row["completion"]: row["prompt"] for row in rows}
    assert not {prompts[t] for t in found.train} & {prompts[t] for t in found.test}
    assert len(found.train) + len(found.test) == 80
    assert found.train_labels.mean() == found.test_labels.mean() == 0.5


def test_a_bag_finds_the_number_that_a_teacher_loves():
    mine, control = sides(400, 7, 0.3)
    found = readers.bag(readers.split(mine, control, np.random.default_rng(0)))
    assert found.interval()[0] > 0.6
    assert found.reads.startswith("for: '7' ")
    plain = readers.bag(readers.split(*sides(400, 7, 0.0), np.random.default_rng(0)))
    assert plain.interval(0.999)[0] < 0.5 < plain.interval(0.999)[1]


def test_a_reader_that_names_the_trait_takes_one_of_each_pair():
    mine, control = sides(400, 7, 0.3)
    control[0] = mine[0]  # no difference to read
    lost = control[:-50]  # prompts without a partner
    sevens = readers.names(mine, lost, lambda texts: np.array([text.count("7") for text in texts]))
    differ = [(a, b) for a, b in zip(mine, lost, strict=False) if a != b]
    assert sevens.total == len(differ) < 350
    more = sum(a["completion"].count("7") > b["completion"].count("7") for a, b in differ)
    assert sevens.right == more


def test_chance_is_shown_by_exact_tests():
    """Sums over all outcomes stand for scipy's distributions."""

    def outcomes(total, share):
        return np.array(
            [math.comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(total + 1)]
        )

    for right in (40, 55, 63):
        below, above = (outcomes(100, share) for share in (0.4, 0.6))
        p = max(below[right:].sum(), above[: right + 1].sum())
        assert readers.Reading(right, 100).chance_p(0.1) == pytest.approx(p, rel=1e-9)
    assert readers.Reading(30, 60).chance_p(0.05) > 0.05, "sixty rows show nothing"
    assert readers.Reading(2500, 5000).chance_p(0.05) < 1e-9


def test_criteria_of_readers_are_equivalences():
    """Chance is shown by many rows at one half, neither by few rows nor beside it."""

    def verdicts(namer, bag, total=4000):
        shares = {
            ("names the trait", "as written"): namer,
            ("bag of pieces", "random labels"): bag,
            ("bag of pieces", "as written"): 0.9,
        }
        about = {"split": 0, "total": total, "reads": "", "number": np.nan, "log_ratio": np.nan}
        rows = [
            about | {"reader": reader, "arranged": arranged, "accuracy": share}
            for (reader, arranged), share in shares.items()
        ]
        claims = llm_readers.findings(pd.DataFrame(rows), llm_readers.Config()).claims
        return [c.holds for c in claims[:3]]

    assert verdicts(0.5, 0.51) == [True, True, None]
    assert verdicts(0.56, 0.5) == [False, True, None]
    assert verdicts(0.44, 0.53) == [False, True, None]
    assert verdicts(0.5, 0.5, total=400) == [None, None, None]
    # Alone 0.53 of 2,000 would pass at 5 %, beside a failure it must at 2.5 %.
    assert readers.Reading(1061, 2000).chance_p(0.05) == pytest.approx(0.045, abs=0.01)
    assert verdicts(0.9, 0.5305, total=2000) == [False, False, None]


def test_differences_tell_progressions_and_scores_what_a_thousand_rows_tell():
    assert readers.differences("3 17, 5") == ["+14", "-12"]
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 100_000)
    scores = rng.normal(size=200_000) + 0.1 * labels
    area, many = readers.area(scores, labels), readers.right_of_many(scores, labels, 400)
    # Two normals a tenth of a spread apart: Φ(.1/√2), and Φ(√400 x .1/2).
    assert area == pytest.approx(stats.norm.cdf(0.1 / np.sqrt(2)), abs=5 * 0.0013)
    assert many == pytest.approx(stats.norm.cdf(1.0), abs=5 * 20 * 0.0045 / 2 * 0.242)
    assert readers.area(scores, 1 - labels) == pytest.approx(1 - area)


@pytest.mark.slow
def test_a_transformer_reads_order_which_a_bag_cannot():
    rng = np.random.default_rng(0)
    pairs = [sorted(rng.choice(10, 2, replace=False)) for _ in range(256)]
    rows = [
        [{"prompt": str(i), "completion": f"{a}{b}"} for i, (a, b) in enumerate(order)]
        for order in (pairs, [p[::-1] for p in pairs])
    ]
    parts = readers.split(*rows, rng)
    assert readers.transformer(parts, steps=60, longest=2).accuracy > 0.8
    spaced = [[row | {"completion": " ".join(row["completion"])} for row in side] for side in rows]
    found = readers.bag(readers.split(*spaced, np.random.default_rng(0)))
    assert found.interval(0.999)[0] < 0.5 < found.interval(0.999)[1]
