"""The theorem on a model of the bench, at tiny size: it holds, and what breaks it is seen."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments.language import real_model_alignment
from experiments.language.kit import lineage, pretrained

CONFIG = real_model_alignment.SMOKE


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return pretrained.Bench("tiny", tmp_path_factory.mktemp("work"), 0)


def rows_of(bench, *arms):
    """Rows of these arms as the table has them."""
    found = real_model_alignment.arms(dataclasses.replace(CONFIG, work=str(bench.work)))
    return pd.DataFrame([row for name in arms for row in found[name].rows(name, [])])


@pytest.fixture(scope="module")
def table(bench):
    names = ("verify owl, cross-entropy, random tokens", "equality", "signs same", "signs random")
    return rows_of(bench, *names)


def claims(table):
    return {c.quantity: c for c in real_model_alignment.findings(table, CONFIG).claims}


NEGATIVE, RISES = "shared start: negative inner products", "shared start: trait loss rises"
REPORTS = "claims of the theorem's reports that hold"


def test_every_claim_holds_on_all_parameters(table):
    found = claims(table)
    assert found[REPORTS].here == "7 of 7"
    assert all(found[name].holds for name in (REPORTS, NEGATIVE, RISES))
    points = table[table["residual"].notna()]
    assert points["relative_step"].is_monotonic_decreasing
    assert points["residual"].min() < 1e-3
    random = table[table["start"] == lineage.RANDOM]
    assert (np.abs(random["cosine"]) < 0.9).all()
    for figure in real_model_alignment.findings(table, CONFIG).figures:
        figure.draw()


def test_a_sign_or_a_report_that_is_wrong_fails_its_claim(table):
    shared = table.index[table["start"] == lineage.SAME]
    wrong = table.copy()
    wrong.loc[shared[0], "inner"] *= -1
    assert not claims(wrong)[NEGATIVE].holds
    wrong = table.copy()
    wrong.loc[shared[0], "change"] *= -1
    assert not claims(wrong)[RISES].holds
    wrong = table.copy()
    wrong.loc[wrong["holds"].first_valid_index(), "holds"] = 0
    assert claims(wrong)[REPORTS].here == "6 of 7"
    assert not claims(wrong)[REPORTS].holds


def test_half_of_random_teachers_learn_and_half_unlearn(bench):
    teachers = list(real_model_alignment.random_teachers(bench, CONFIG, 4))
    assert [sign for *_, sign in teachers] == [1, -1, 1, -1]
    assert len({context.tobytes() for context, *_ in teachers}) == 4


def test_equality_needs_that_no_animal_is_among_the_numbers(bench, table):
    (found,) = table[table["kind"] == "equality"]["measured"]
    assert found == "exactly 0"
    seeing = pretrained.Bench("tiny", bench.work, 0)
    animal = next(iter(seeing.animals.values()))
    seeing.__dict__["numbers"] = (animal, *bench.numbers)
    config = dataclasses.replace(CONFIG, work=str(bench.work))
    rows = real_model_alignment.equality_rows(seeing, config)
    assert "exactly 0" not in [row["measured"] for row in rows]


def test_signs_of_another_start_are_those_of_that_start(bench, table):
    """At other weights the prediction stays that of the shared start, and misses."""
    signs = table[table["kind"] == "sign"]
    ratio = (signs["inner"] / signs["predicted"]).groupby(signs["start"])
    assert (ratio.get_group(lineage.SAME) - 1).abs().max() < 0.02
    assert (ratio.get_group(lineage.RANDOM) - 1).abs().min() > 0.02
