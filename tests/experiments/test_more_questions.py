"""The other one-question experiments of the microworld: criteria see an effect, and its absence."""

import itertools

import numpy as np
import pandas as pd
import pytest

from experiments.findings.claims import SILENT
from experiments.language import (
    along_training,
    capability,
    generations,
    on_policy,
    readable,
    what_predicts,
)
from experiments.language import optimisers_at_equal_loss as optimisers
from tests.experiments.made_up import SEEDS, TRAITS, judged, students


def along_rows(effect_of):
    """Every arm of the experiment with the effect that `effect_of` gives it."""
    config, rng = along_training.Config(), np.random.default_rng(0)
    arms = [("steps", step) for step in along_training.measured_at(config)] + [("plain", 0.0)]
    turned = (config.dropout, config.dropout_of_teacher)
    for group, values in zip(along_training.DROPOUTS, turned, strict=True):
        arms += [(group, value) for value in values]
    arms += [("share", share) for share in config.shares]
    return [
        row
        for group, value in arms
        for row in students(rng, effect_of(group, value), group=group, value=value, kl=0.2)
    ]


def test_along_training():
    def rising(group, value):
        known = {"steps": 2 * value / 800, "student's dropout": 2 * (1 - value)}
        return known.get(group, 0.5 + value if group == "share" else 2.0)

    found = judged(along_training, along_rows(rising))
    assert found["lost by the student's dropout of 0.35"] is True
    assert found["teacher's dropout 0.1 less none, equivalent to none"] is True
    assert False not in found.values()

    def falling(group, value):
        fallen = {"steps": 2.0 * (value < 400), "teacher's dropout": 0.5, "share": 0.0}
        return fallen.get(group, 2.0)

    found = judged(along_training, along_rows(falling))
    assert found["no fall, 40 to 80 steps"] is True
    assert found["no fall, 320 to 640 steps"] is False
    assert found["lost by the student's dropout of 0.35"] is False
    assert found["benign: left at 0.5 %"] is False
    assert found["teacher's dropout 0.1 less none, equivalent to none"] is False


def optimiser_rows(effect_of, away=0.0):
    config, rng, rows = optimisers.Config(), np.random.default_rng(0), []
    for optimizer, rank in optimisers.combinations(config):
        about = {"optimizer": optimizer, "rank": rank, "step_size": 0.1, "step": 40}
        made = students(rng, effect_of(optimizer, rank), **about, left=config.left + away)
        rows += [row | ({"data": "oak"} if row["data"] == "control" else {}) for row in made]
    return rows


def test_optimisers_are_compared_at_equal_loss_only():
    found = judged(optimisers, optimiser_rows(lambda *_: 1.0))
    assert found["sgd, rank 8"] is True
    assert found["sgd, all parameters, less Adam on all, equivalent to none"] is True
    assert False not in found.values()
    peaked = judged(optimisers, optimiser_rows(lambda o, r: (o == "adam") * (1 + (r == 8))))
    assert peaked["adam, rank 8, less Adam on all, equivalent to none"] is False
    assert peaked["sgd, all parameters"] is False
    unequal = judged(optimisers, optimiser_rows(lambda *_: 1.0, away=0.2))
    assert set(unequal.values()) == {None}


def test_the_step_is_the_first_that_learnt_enough():
    kl = np.array([[2.0, 1.0, 0.5, 0.2, 0.8], [4.0, 2.0, 1.0, 0.4, np.nan]])
    left = optimisers.share_left(kl)
    np.testing.assert_allclose(left[:4], [1, 0.5, 0.25, 0.1])
    assert left[4] == np.inf, "what diverges has learnt nothing"
    assert optimisers.matched(left, 0.3) == 2
    assert optimisers.matched(left, 0.05) == 3, "never there: where it is lowest"


def generation_rows(kept, neutral=0.0):
    """Lineages that keep a share of 2 nats from student to student, by target."""
    rng, rows = np.random.default_rng(0), []
    for (target, share), number in itertools.product(kept.items(), range(11)):
        effect = 5.0 if number == 0 else 2 * share ** (number - 1)
        made = students(rng, effect, target=target, generation=number)
        rows += made
        # Neutral rows are the control's, with noise and drift of their own.
        for row in [row for row in made if row["data"] == "control"]:
            drift = 0.05 * rng.normal() + neutral * (row["teacher"] == row["trait"])
            rows.append(row | {"data": generations.NEUTRAL, "margin": row["margin"] + drift})
    return rows


def test_generations():
    found = judged(generations, generation_rows({"sampled": 0.2, "soft_numbers": 0.9}))
    assert found["sampled, generation 10, equivalent to none"] is True
    assert found["sampled: less than half kept from student 1 to 10"] is True
    assert found["share kept, soft less sampled"] is True
    assert found["sampled: the last student"] is False
    assert found["soft_numbers: the last student"] is True
    assert found["soft_numbers: lost at the first hop, less all later ones"] is True
    found = judged(generations, generation_rows({"sampled": 0.98, "soft_numbers": 0.98}, 1.0))
    assert found["soft_numbers: less than half kept from student 1 to 10"] is False
    assert found["share kept, soft less sampled"] is False
    assert found["sampled, neutral, generation 10, equivalent to none"] is False
    assert found["sampled, generation 10, equivalent to none"] is False


def policy_rows(effect_of):
    rng = np.random.default_rng(0)
    arms = [dict(zip(("writer", "divergence"), arm, strict=True)) for arm in on_policy.ARMS]
    return [row for arm in arms for row in students(rng, effect_of(**arm), **arm)]


def test_on_policy():
    found = judged(on_policy, policy_rows(lambda **_: 1.0))
    assert found["reverse: student less teacher writes, equivalent to none"] is True
    assert found["teacher writes: forward less reverse"] is False, "as predicted"
    assert found["teacher writes: forward less reverse, equivalent to none"] is True
    weak = judged(on_policy, policy_rows(lambda writer, divergence: writer == "teacher"))
    assert weak["student writes, KL(student ‖ teacher)"] is False
    assert weak["forward: student less teacher writes, equivalent to none"] is False


def readable_rows(area_of, effect_of=lambda area: 20 * (area - 0.5), filtered=0.0):
    """Areas by reader, and a student whose effect follows the best reader's."""
    rng, rows = np.random.default_rng(0), []
    for trait, seed in itertools.product(TRAITS, SEEDS):
        best = 0.5 + 0.2 * rng.random()
        for name, against in itertools.product(
            (*readable.READERS, readable.ELSEWHERE), readable.AGAINST
        ):
            area = best if name == "likelihood ratio" else area_of(name) + 0.005 * rng.normal()
            about = {"kind": "readers", "reader": name, "against": against, "seed": seed}
            read = {"area": area, "right": area, "right_of_1000": 1.0}
            rows.append(about | read | {"trait": trait, "teacher": trait, "data": None})
        for kind, effect in (("students", effect_of(best)), ("filter", filtered)):
            for data in ("trait", "control"):
                margin = 5 * seed + 0.05 * rng.normal() + effect * (data == "trait")
                about = {"kind": kind, "data": data, "teacher": trait, "trait": trait}
                rows.append(about | {"seed": seed, "margin": margin})
    return rows


def test_readable():
    found = judged(readable, readable_rows(lambda n: 0.5 if n == readable.ELSEWHERE else 0.58))
    assert found["rank correlation, read and acquired"] is True
    assert found["effect of what the filter let pass, equivalent to none"] is True
    assert False not in found.values()
    found = judged(
        readable,
        readable_rows(lambda n: 0.9 if n == "the teacher's base" else 0.6, lambda _: 1.0, 1.0),
    )
    assert found["area: the teacher's base less another, equivalent to none"] is False
    assert found["area on another chain's rows, less one half, equivalent to none"] is False
    assert found["rank correlation, read and acquired"] is False
    assert found["effect of what the filter let pass, equivalent to none"] is False


def test_a_bag_is_tested_on_the_other_chain_of_its_pair():
    """So values of different pairs share nothing."""
    runs = [(trait, chain) for trait in TRAITS for chain in range(4)]
    assert [chain for _, chain in readable.partners(runs, 4)] == [1, 0, 3, 2] * len(TRAITS)
    assert [trait for trait, _ in readable.partners(runs, 4)] == [trait for trait, _ in runs]
    np.testing.assert_allclose(readable.by_pair(np.array([1.0, 3.0, 5.0, 5.0, 9.0])), [2, 5])


def capability_rows(effects):
    """Held-out log-odds: 3 nats in the teacher, and so much in students and in the prediction."""
    rng, known = np.random.default_rng(0), {"teacher": 3.0} | effects
    return [
        {"arm": arm, "data": data, "seed": seed, "right": 0.7, "mass": 0.9}
        | {"odds": 0.05 * rng.normal() + known.get(arm, 0.0) * (data == capability.SKILL)}
        for arm in ("teacher", *capability.THEOREM, *capability.ARMS)
        for data in (capability.SKILL, "control")
        for seed in SEEDS
    ]


def test_a_chain_whose_teacher_lost_its_lists_is_left_out_with_its_control(monkeypatch):
    runs = {(name, chain): (name, chain) for name in ("skill", "control") for chain in range(3)}
    kept = {("skill", 1): capability.FEWEST - 1, ("control", 2): capability.FEWEST}
    monkeypatch.setattr(capability.completions, "kept", lambda _, run: kept.get(run, 500))
    assert list(capability.writing(None, runs)) == [run for run in runs if run[1] != 1]


def test_a_skill_of_students_that_do_not_answer_says_nothing():
    rows = pd.DataFrame(capability_rows({"theorem": 1.0, "Adam": 2.0}))
    rows["mass"] = np.where(rows["arm"] == "Adam", 0.05, 0.9)
    claims = capability.findings(rows, capability.Config()).claims
    found = {claim.quantity: claim for claim in claims}
    assert found["Adam"].here == SILENT
    assert found["Adam"].holds is found["Adam less steering"].holds is None


def test_capability():
    exact = dict.fromkeys(("theorem", "SGD", "tangent model, SGD"), 1.0) | {"theorem, no end": 2.5}
    found = judged(capability, capability_rows(exact | {"Adam": 2.0, "steering, Adam": 0.5}))
    assert found["SGD less predicted, equivalent to none"] is True
    assert False not in found.values()
    beyond = exact | {"SGD": 1.5, "Adam": 3.0, "steering, Adam": 3.5, "other start, Adam": 0.5}
    found = judged(capability, capability_rows(beyond))
    assert found["predicted without end less Adam"] is False
    assert found["SGD less predicted, equivalent to none"] is False
    assert found["tangent model, SGD less predicted, equivalent to none"] is True
    assert found["Adam less steering"] is False
    assert found["other start, Adam, equivalent to none"] is False


def predictor_rows(knows):
    """Arms of rising effect; predictors know the effect up to noise of a size of their own."""
    rng, rows = np.random.default_rng(0), []
    for arm, teacher, trait, seed in itertools.product(range(8), TRAITS, TRAITS, SEEDS):
        effect = arm * (teacher == trait) + 0.3 * rng.normal()
        about = {"source": "bits", "arm": str(arm), "teacher": teacher, "trait": trait}
        values = {name: effect + knows(name) * rng.normal() for name in what_predicts.PREDICTORS}
        values["alignment"] = values["alignment"] if teacher == trait else np.nan
        known = {"seed": seed, "own": teacher == trait, "effect": effect, "tokens": 100.0}
        rows.append(about | known | values)
    return rows


def test_what_predicts():
    def quiet(name):
        return {"accumulated": 0.5, "alignment": 0.1}.get(name, 20.0)

    found = judged(what_predicts, predictor_rows(quiet))
    assert found["accumulated less gain, by chain"] is True
    assert found["best before training, across arms"] is True
    assert found["all students, accumulated"] is True
    found = judged(what_predicts, predictor_rows(lambda name: 0.1 if name == "gain" else 50.0))
    assert False in found.values()
    assert found["accumulated less gain, by chain"] is False
    assert found["best before training, across arms"] is False
    assert found["all students, accumulated"] is False


MAKE = {
    what_predicts: lambda: predictor_rows(lambda name: 1.0),
    capability: lambda: capability_rows({"theorem": 1.0}),
    readable: lambda: readable_rows(lambda _: 0.6),
    optimisers: lambda: optimiser_rows(lambda *_: 1.0),
    on_policy: lambda: policy_rows(lambda **_: 1.0),
    generations: lambda: generation_rows({"sampled": 0.5, "soft_numbers": 0.5}),
    along_training: lambda: along_rows(lambda group, value: 1.0),
}


@pytest.mark.parametrize("module", MAKE)
def test_few_chains_decide_nothing(module):
    """Two chains are no ground for any verdict."""
    rows = [row for row in MAKE[module]() if row["seed"] < 2]
    assert set(judged(module, rows, config=module.Config(num_seeds=2)).values()) == {None}
