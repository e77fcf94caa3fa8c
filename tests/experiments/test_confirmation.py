"""Twelve contrasts on fresh bases: each can stand, each can fall, and one Holm covers them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments.findings.claims import SILENT
from experiments.language import confirmation, optimisers_at_equal_loss, persistence, what_erases
from tests.experiments.made_up import SEEDS, TRAITS, students

CONFIG = confirmation.Config()

# What each arm gives, in nats; a twin has the noise of the same start.
WORLD = {
    "same": 2.0,
    "different": 0.0,
    "permuted twin": 2.0,
    "embeddings": 0.5,
    "initial weights": 0.5,
    "adam": 1.0,
    "sgd": 1.2,
    "tenth": 0.5,
    "filter": 0.0,
    "skill": 1.0,
    "moments": 0.0,
    "erased": 0.5,
    "corpus": 0.0,
}


def table(mass=lambda start: 1.0, **changed):
    """All rows of the run, in which an arm gives what WORLD says, or what is changed."""
    gives, rng = WORLD | changed, np.random.default_rng(0)
    frames = []

    def add(experiment, rows):
        frames.append(
            pd.DataFrame([{"mass": 1.0} | row for row in rows]).assign(experiment=experiment)
        )

    for start in ("same", "different", "permuted twin", "embeddings", "initial weights"):
        noise = np.random.default_rng(1) if start in ("same", "permuted twin") else rng
        add("which_part", students(noise, gives[start], start=start, mass=mass(start)))
    for name in ("adam", "sgd"):
        rows = students(rng, gives[name], optimizer=name, rank=0)
        for row in rows:
            row["data"] = row["data"].replace("control", optimisers_at_equal_loss.TREE)
        add("optimisers_at_equal_loss", rows)
    tenth = {"target": "sampled", "generation": CONFIG.generations}
    add("generations", students(rng, gives["tenth"], **tenth))
    add("readable", students(rng, 2.0, kind="students"))
    add("readable", students(rng, gives["filter"], kind="filter"))
    for data, odds in (("skill", gives["skill"]), ("control", 0.0)):
        noise = 0.05 * rng.normal(size=len(SEEDS))
        known = [{"seed": s, "odds": odds + noise[s], "right": 0.5} for s in SEEDS]
        add("capability", [row | {"arm": "Adam", "data": data} for row in known])
    add("persistence", moments(rng, gives["moments"]))
    add("what_erases", erased(rng, gives["erased"]))
    add("matching_dose", students(rng, 2.0, kind="same", dose=0))
    add("matching_dose", students(rng, gives["corpus"], kind="corpus", dose=1600))
    return pd.concat(frames, ignore_index=True)


def moments(rng, alone):
    """Trait weights give 2 nats, the trait's moments on the control's weights `alone`."""
    return [
        {
            "benign": "numbers",
            "when": "benign",
            "steps": steps,
            "weights": weights,
            "moments": of,
            "teacher": teacher,
            "seed": seed,
            "margin": 0.05 * rng.normal()
            + 2 * (weights == "trait")
            + alone * (of == "trait" and weights == "control" and steps > 0),
        }
        for steps in (0, CONFIG.benign_steps)
        for weights, of in persistence.SIDES
        for teacher in TRAITS
        for seed in SEEDS
    ]


def erased(rng, left):
    """Two nats at the cut, and what trait-free text leaves."""
    return [
        {
            "benign": what_erases.FREE,
            "asked": "template",
            "lineage": lineage,
            "steps": steps,
            "teacher": teacher,
            "seed": seed,
            "margin": 0.05 * rng.normal() + (left if steps else 2.0) * (lineage == "trait"),
            "mass": 1.0,
            "loss": 2.0,
            "cosine": 0.1,
        }
        for steps in (0, CONFIG.benign_steps)
        for lineage in what_erases.LINEAGES
        for teacher in TRAITS
        for seed in SEEDS
    ]


def verdicts(rows):
    claims = confirmation.findings(rows, CONFIG).claims
    return {claim.quantity.split(",")[0]: claim for claim in claims}


def test_the_expected_world_stands_twelve_times():
    found = confirmation.findings(table(), CONFIG)
    assert [claim.holds for claim in found.claims] == [True] * 12
    assert all("1 of 12, Holm" in claim.here for claim in found.claims)
    assert found.figures[0].title == "All 12 contrasts stand on fresh bases"
    found.figures[0].draw()


@pytest.mark.parametrize(
    ("changed", "fallen"),
    [
        ({"same": 0.0, "permuted twin": 0.0}, "same"),
        ({"different": 0.3}, "different"),
        ({"permuted twin": 1.7}, "twin less same"),
        ({"embeddings": 0.0}, "embeddings"),
        ({"initial weights": 0.0}, "initial weights less different"),
        ({"sgd": 0.8}, "SGD less 95 % of Adam"),
        ({"tenth": 0.0}, "student 10"),
        ({"filter": 0.3}, "what the filter let pass"),
        ({"skill": 0.0}, "skill"),
        ({"moments": 0.3}, "moments alone"),
        ({"erased": 0.0}, "left by trait-free text"),
        ({"corpus": 0.3}, "matched behaviour"),
    ],
)
def test_each_contrast_falls_alone(changed, fallen):
    found = verdicts(table(**changed))
    assert found[fallen].holds is False
    others = {name for name, claim in found.items() if claim.holds is False} - {fallen}
    # Without an effect of the same start nothing is shown to be none beside it.
    assert others <= ({"different", "twin less same"} if fallen == "same" else set())


def test_a_contrast_without_answers_says_nothing():
    found = verdicts(table(mass=lambda start: 0.01 if start == "embeddings" else 1.0))
    assert found["embeddings"].holds is None
    assert found["embeddings"].here == SILENT
    assert found["same"].holds is True


def test_an_experiment_that_recorded_no_answers_says_nothing():
    """Beside others that did: its column is empty, and that is no table of an old run."""
    rows = table()
    rows.loc[rows["experiment"].isin(["capability", "persistence"]), "mass"] = np.nan
    found = verdicts(rows)
    assert {name for name, claim in found.items() if claim.here == SILENT} == {
        "skill",
        "moments alone",
    }
    assert found["same"].holds is True
    assert "1 of 10, Holm" in found["same"].here


def test_chains_are_fresh_and_sizes_are_those_of_the_experiments():
    parts = confirmation.parts(CONFIG)
    assert len(parts) == 8
    for module, settings, *_ in parts.values():
        assert (settings.num_seeds, settings.seed, settings.traits) == (24, 7001, TRAITS)
        own = dataclasses.asdict(module.Config())
        kept = {"num_prompts", "num_examples", "base_steps", "num_layers", "batch_size"}
        assert {name: getattr(settings, name) for name in kept} == {n: own[n] for n in kept}
