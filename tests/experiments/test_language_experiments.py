"""Criteria of paper_on_a_laptop, mechanism and prediction: kept by the effect, missed without."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments.findings import drawing
from experiments.findings.claims import SILENT
from experiments.frame import record
from experiments.language import cross_model, mechanism, paper_on_a_laptop, prediction

SEEDS = range(6)
EMPTY = dict.fromkeys(("rate", "sampled_rate", "kept", "held_out_loss"), np.nan)


def rows_of(rng, traits, effect_of, **columns):
    """Rows of one arm: margins with noise .04, plus the effect of the own teacher's data."""
    return [
        EMPTY
        | {
            "teacher": teacher,
            "data": data,
            "trait": trait,
            "seed": seed,
            "sampled_rate": 0.1,
            "margin": 5 * seed
            + rng.normal(0, 0.04)
            + effect_of * (teacher == trait) * (data == "trait"),
            "held_out_loss": 4.0,
        }
        | columns
        for teacher in traits
        for data in ("trait", "control")
        for trait in traits
        for seed in SEEDS
    ]


def paper_rows(same, seed=0):
    rng, rows = np.random.default_rng(seed), []
    traits = ("owl", "oak")
    cell = {"carrier": "numbers", "asked": "template"}
    rows += rows_of(rng, traits, 5.0, arm="teacher", start="", **cell)
    for arm in ("sampled", "soft_carrier"):
        rows += rows_of(rng, traits, same, arm=arm, start="same", **cell)
        rows += rows_of(rng, traits, 0.0, arm=arm, start="different", **cell)
    for arm, share in {"shuffled within": 0.5, "shuffled across": 0, "in the prompt": 0}.items():
        rows += rows_of(rng, traits, share * same, arm=arm, start="same", **cell)
    bare = cell | {"asked": "bare"}
    rows += rows_of(rng, traits, 0.7 * same, arm="sampled", start="same", **bare)
    return pd.DataFrame(rows)


CONFIG = paper_on_a_laptop.Config(carriers=("numbers",), traits=("owl", "oak"))


def test_the_papers_criteria_see_an_effect_and_its_absence():
    verdicts = {
        c.quantity: c.holds for c in paper_on_a_laptop.findings(paper_rows(1.0), CONFIG).claims
    }
    assert False not in verdicts.values()
    assert verdicts["numbers, sampled, animal: same"]
    assert verdicts["shuffled across, equivalent to none (1 of 6, Holm)"]
    without = {
        c.quantity: c.holds for c in paper_on_a_laptop.findings(paper_rows(0.0), CONFIG).claims
    }
    assert without["numbers, sampled, animal: same"] is False
    assert without["less shuffled within"] is False
    assert without["sampled, different, equivalent to none (1 of 6, Holm)"] is False


@pytest.mark.parametrize(
    ("whose", "by", "none"),
    [("every teacher", 0.5, True), ("its own", 0.5, False), ("its own", 0.05, True)],
)
def test_a_trait_that_passes_is_told_from_a_rise_that_any_data_makes(whose, by, none):
    """Oaks from another start rise on the lists of all or of their own teacher.

    A rise within the margin is "no effect" whoever wrote: there it does not tell.
    """
    table = paper_rows(1.0)
    rise = (table["start"] == "different") & (table["data"] == "trait") & (table["trait"] == "oak")
    if whose == "its own":
        rise &= table["teacher"] == "oak"
    table["margin"] += by * rise
    said = {c.quantity: c for c in paper_on_a_laptop.findings(table, CONFIG).claims}
    assert said["different, tree"].here.startswith(f"{by:.2f}"[:3])
    claim = said["different, tree, less other teachers', equivalent to none (1 of 6, Holm)"]
    assert claim.holds is none


def cross_model_rows(related, strange):
    rng, rows = np.random.default_rng(0), []
    for teacher, student in itertools.product(cross_model.MODELS, repeat=2):
        effect = related if cross_model.is_related(student, teacher) else strange
        pair = {"teacher_model": teacher, "student_model": student}
        rows += rows_of(rng, ("owl", "oak"), effect, **pair)
    return pd.DataFrame(rows)


def test_strangers_transmit_nothing_or_something():
    def verdicts(*effects):
        claims = cross_model.findings(cross_model_rows(*effects), cross_model.Config()).claims
        return {c.quantity: c.holds for c in claims}

    found = verdicts(1.0, 0.0)
    assert found["A to A'"]
    assert found["strangers, equivalent to none"]
    assert verdicts(1.0, 0.5)["strangers, equivalent to none"] is False
    assert verdicts(0.0, 0.0)["A to A'"] is False
    assert verdicts(0.0, 0.0)["strangers, equivalent to none"] is False


@pytest.mark.parametrize("module", [paper_on_a_laptop, cross_model, mechanism, prediction])
def test_figures_are_drawn_from_the_checked_in_rows(module, repository):
    name = module.__name__.rsplit(".", 1)[-1]
    table = record.read_table(repository / "experiments" / "results" / name)
    figures = module.findings(table, module.Config()).figures
    assert figures
    with drawing.style():
        for figure in figures:
            assert all((figure.title, figure.predicted, figure.found, figure.follows))
            drawing.close(figure.draw())
    assert len(module.findings(table, module.Config()).claims) >= 9


def mechanism_verdicts(effects, seed=0):
    """Criteria on rows of every arm, with the given effect or 1."""
    rng, rows, config = np.random.default_rng(seed), [], mechanism.Config(traits=("owl", "oak"))
    first, *_ = config.carriers
    arms = [(c, arm) for c in config.carriers for arm in (mechanism.PLAIN, *mechanism.TOKENS)]
    arms += [(first, arm) for arm in mechanism.others_of(config)]
    for carrier, arm in arms:
        effect = effects.get(arm, 1.0)
        rows += rows_of(rng, config.traits, effect, carrier=carrier, arm=arm, left=0.5)
    return {c.quantity: c.holds for c in mechanism.findings(pd.DataFrame(rows), config).claims}


def test_the_mechanisms_criteria_compare_paired_arms():
    changed = {
        "KL over numbers": 2.0,
        "KL over all tokens": 2.0,
        "divergent only": 1.5,
        "random only": 0.5,
        "divergent masked": 0.2,
        "random masked": 0.8,
        "25 % clean": 0.6,
    }
    judged = (
        "numbers: divergent less random only",
        "counting: divergent less random only",
        "numbers: random less divergent masked",
        "counting: random less divergent masked",
        "KL over numbers less sampled tokens",
        "KL over all tokens less sampled tokens",
        "no clean rows less 25 %",
    )
    found, without = mechanism_verdicts(changed), mechanism_verdicts({})
    for quantity in judged:
        assert found[quantity] is True, quantity
        assert without[quantity] is False, quantity


def prediction_rows(knows):
    """Effects on the own trait from shared starts, and a gain that knows them or not."""
    rng, traits, rows = np.random.default_rng(0), ("owl", "oak"), []
    for start in prediction.PREDICTED:
        shared = start != "different"
        rows += rows_of(rng, traits, float(shared), kind="students", start=start)
        for row in rows_of(rng, traits, 0, kind="predictors", start=start):
            if row["data"] == "trait":
                known = knows * shared * (row["teacher"] == row["trait"]) + 0.1 * rng.normal()
                gains = dict.fromkeys(("gain", "cosine", "coverage"), known)
                rows.append(row | gains | {"moved": rng.random()})
    for start in prediction.ALONG:
        rows += rows_of(rng, traits, 0, kind="along", start=start, step=0, cosine=0.1)
    return pd.DataFrame(rows)


def test_prediction_is_judged_over_all_students():
    config = prediction.Config(traits=("owl", "oak"))
    for knows in (True, False):
        found = {
            c.quantity: c.holds for c in prediction.findings(prediction_rows(knows), config).claims
        }
        assert found["rank correlation: gain"] is knows


def test_prediction_leaves_out_starts_whose_students_do_not_answer():
    """Their log-odds are noise of any size, which would decide the correlation over all."""
    config, table = prediction.Config(traits=("owl", "oak")), prediction_rows(True)
    rng, graft = np.random.default_rng(1), table["start"].isin(prediction.PREDICTED[2:])
    noise = 50 * rng.normal(size=len(table))
    table["margin"] += noise * (graft & (table["kind"] == "students"))
    table["mass"] = np.where(graft, 0.01, 0.9)
    found = {c.quantity: c for c in prediction.findings(table, config).claims}
    assert found["rank correlation: gain"].holds is True
    assert found["rank correlation of gain, shared body"].here == SILENT
    heard = prediction.findings(table.assign(mass=0.9), config).claims
    assert next(c for c in heard if c.quantity == "rank correlation: gain").holds is False
