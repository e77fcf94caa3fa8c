"""The one-question experiments of the microworld: criteria see an effect, and its absence."""

import ast
import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from experiments.findings import nested
from experiments.language import bits, matching_dose, persistence, variance, which_part
from experiments.language.kit.chains import chains_of
from experiments.language.kit.effects import GATE, at, effects, heard, own
from tests.experiments.made_up import SEEDS, TRAITS, judged, students


def which_part_rows(effects, worse=0.0):
    """The same start 2, its twin likewise, siblings less the further apart, all else nothing."""
    config, rows = which_part.Config(), []
    drift = {f"{steps} steps apart": 2 - np.log10(steps) / 3 for steps in config.apart}
    known = {"same": 2.0, "permuted twin": 2.0, "embeddings": 0.8, "initial weights": 0.6}
    for i, start in enumerate(which_part.starts(config)):
        # A twin has the same noise: training is equivariant.
        rng = np.random.default_rng(0 if start == "permuted twin" else i)
        effect = (known | drift | effects).get(start, 0.0)
        rows += students(
            rng, effect, start=start, corpus_loss=1 + worse * (start in which_part.PARTS)
        )
    return rows


def test_bases_have_as_many_layers_as_a_config_asks_for():
    for config in (which_part.SMOKE, which_part.Config()):
        assert chains_of(config).base(0).config().num_layers == config.num_layers


def test_parts_by_block_are_refused_where_bases_have_other_layers():
    config = which_part.Config(num_layers=1)
    with pytest.raises(ValueError, match="those of two layers"):
        which_part.arms(config)
    alone = dataclasses.replace(config, parts=("embeddings",))
    assert which_part.arms(alone)


def test_which_part():
    found = judged(which_part, which_part_rows({}))
    assert found["permuted twin less same"] is True
    assert found["rank correlation, effect and steps apart"] is True
    assert False not in found.values()
    found = judged(which_part, which_part_rows({"attention": 2.0, "permuted twin": 1.5}, 0.3))
    assert found["same less attention"] is False
    assert found["attention, equivalent to none"] is False
    assert found["different, equivalent to none"] is True
    assert found["permuted twin less same"] is False
    assert found["embeddings"] is False, "a start that is no language model says nothing"


def test_an_arm_is_heard_from_the_gate_on_and_an_unknown_mass_is_none():
    """Median by median: what other arms answer does not count."""
    masses = {"answers": [GATE, 1.0, 0.0], "residue": [GATE - 0.01, 0.0, 1.0], "unknown": [np.nan]}
    arms = [(arm, mass) for arm, all_of_it in masses.items() for mass in all_of_it]
    rows = pd.DataFrame(arms, columns=["arm", "mass"])
    values = pd.Series(1.0, index=rows.index)
    told = heard(values, rows, ["arm"]).notna()
    assert set(rows["arm"][told]) == {"answers"}
    for arm, part in rows.groupby("arm"):
        assert heard(values[part.index], part).notna().all() == (arm == "answers")


@pytest.mark.parametrize("silent", ["trait", "control"])
def test_an_arm_says_nothing_where_one_of_its_two_sides_does(silent):
    """Here the wolf's half of the arm "b": neither it nor a mean over both halves is a number."""
    rng = np.random.default_rng(0)
    made = [students(rng, 1.0, kind=kind) for kind in ("a", "b")]
    table = pd.DataFrame(itertools.chain(*made))
    residue = (table["kind"] == "b") & (table["data"] == silent) & (table["trait"] == "wolf")
    table["mass"] = np.where(residue, 0.01, 0.9)
    told = effects(table, ["kind", "trait"])
    assert set(told[told["effect"].isna()][["kind", "trait"]].itertuples(index=False)) == {
        ("b", "wolf")
    }
    assert np.isfinite(own(at(told, kind="a"))).all()
    assert np.isfinite(own(at(told, kind="b"), ["owl"])).all()
    assert np.isnan(own(at(told, kind="b"))).all()


def matching_rows(effect_of, alignment_of):
    rng, rows = np.random.default_rng(0), []
    for kind, dose in matching_dose.starts(matching_dose.Config()):
        effect = effect_of(kind, dose)
        made = students(rng, effect, kind=kind, dose=dose)
        known = {"alignment": alignment_of(effect)}
        rows += [row | (known if row["data"] == "trait" else {}) for row in made]
    return rows


def test_matching_dose():
    def rising(kind, dose):
        most = {"uniform": 1.0, "corpus": 0.7, "lists": 0.5, "sampled lists": 0.3}
        return 2.0 if kind == "same" else most.get(kind, 0) * dose / 1600

    found = judged(matching_dose, matching_rows(rising, lambda effect: effect / 2))
    assert False not in found.values()
    unrelated = np.random.default_rng(1)
    closed = matching_rows(lambda kind, _: float(kind == "same"), lambda _: unrelated.normal())
    nothing = judged(matching_dose, closed)
    assert nothing["corpus, 1600 steps: above nothing"] is False
    assert nothing["different, equivalent to none"] is True
    assert nothing["rank correlation, alignment and effect"] is False
    rows = matching_rows(rising, lambda effect: effect / 2)
    for row in rows:  # an arm that does not answer, at a margin that would turn the order round
        silent = row["kind"] == "uniform" and row["dose"] == 1600
        row["mass"] = 0.01 if silent else 0.9
        row["margin"] += 9.0 * silent * (row["data"] == "trait")
    unheard = judged(matching_dose, rows)
    assert unheard["uniform less corpus, 1600 steps"] is None
    assert unheard["rank correlation, alignment and effect"] is True


def persistence_rows(left, moments=0.0, again=0.0):
    """Trait weights keep a share of 2 nats; moments add theirs; both kinds learn alike again."""
    config, rng, rows = persistence.Config(), np.random.default_rng(0), []
    times = [(s, "benign", left ** (s / 300)) for s in (0, *config.benign_steps)]
    times.append((config.again_steps, "again", left))
    for kind, (steps, when, share), (weights, of) in itertools.product(
        persistence.BENIGN, times, persistence.SIDES
    ):
        for teacher, seed in itertools.product(TRAITS, SEEDS):
            margin = 5 * seed + 0.05 * rng.normal() + 2 * share * (weights == "trait")
            margin += (moments if of == "trait" and steps else 0) + 3 * (when == "again")
            margin += again * (when == "again" and weights == "trait")
            about = {"benign": kind, "steps": steps, "when": when, "weights": weights}
            about |= {"moments": of, "teacher": teacher, "seed": seed}
            rows.append(about | {"margin": margin})
    return rows


def test_persistence():
    found = judged(persistence, persistence_rows(0.4))
    assert found["numbers: left after 300 steps"] is True
    assert found["trait-free text: left after 300 steps"] is True
    assert found["corpus: lost after 300 steps"] is True
    assert found["corpus: dropped, equivalent to none"] is False
    assert found["corpus: moments alone, equivalent to none"] is True
    assert found["corpus: returned on the trait's lists"] is False, "both learn alike"
    found = judged(persistence, persistence_rows(0.4, again=1.0))
    assert found["corpus: returned on the trait's lists"] is True
    found = judged(persistence, persistence_rows(1.0, moments=1.0))
    assert found["numbers: lost after 300 steps"] is False
    assert found["numbers: moments alone, equivalent to none"] is False
    # Log-odds within the residue of models that no longer answer.
    rows = persistence_rows(0.4)
    for row in rows:
        row["mass"] = 0.01 if row["benign"] == "numbers" and row["steps"] == 300 else 0.9
    found = judged(persistence, rows)
    assert found["numbers: left after 300 steps"] is None
    assert found["corpus: lost after 300 steps"] is True


def bits_rows(effect_of, flagged):
    config, rng, rows = bits.Config(), np.random.default_rng(0), []
    for carrier, temperature, count in itertools.product(
        config.carriers, config.temperatures, config.rows
    ):
        nats = {"numbers": 4.0, "counting": 0.6}.get(carrier, 2.0) * temperature
        told = {"tokens": 9.0, "flagged": flagged if carrier == "counting" else 0.8}
        columns = {"carrier": carrier, "temperature": temperature, "rows": count, "distinct": count}
        effect = effect_of(carrier, nats * count)
        overfitted = nats + 5 * (count == min(config.rows))
        rows += students(rng, effect, held_out_loss=overfitted, **columns, **told)
    return rows


def test_bits():
    found = judged(bits, bits_rows(lambda c, nats: np.log10(nats) + (c == "digits1"), 0.1))
    assert found["counting: divergence tokens"] is True
    assert found["1 digit less 3 digits"] is True
    assert found["rank correlation of effect and nats"] is True
    assert False not in found.values()
    found = judged(bits, bits_rows(lambda *_: 1.0, 0.6))
    assert found["counting: divergence tokens"] is False
    assert found["numbers: all rows less 64"] is False
    assert found["rank correlation of effect and nats"] is False


def test_carriers_are_compared_over_teachers_that_write_both():
    rows = bits_rows(lambda c, _: 2.0 if c == "digits1" else 1.0, 0.1)
    silent = {"carrier": "digits3", "teacher": rows[0]["teacher"], "seed": 3}
    alone = {"carrier": "digits3", "seed": 5}

    def named(row, what):
        return all(row[key] == value for key, value in what.items())

    rows = [row for row in rows if not (named(row, silent) or named(row, alone))]
    for row in rows:  # the other traits of that chain tell nothing of the difference that is left
        if row["seed"] == 3 and row["data"] == "trait" and row["teacher"] == row["trait"]:
            row["margin"] += 100 * (row["teacher"] == silent["teacher"])
    config = bits.Config(num_seeds=len(SEEDS), traits=TRAITS)
    claims = bits.findings(pd.DataFrame(rows), config).claims
    claim = {claim.quantity: claim for claim in claims}
    assert claim["1 digit less 3 digits"].seeds == len(SEEDS) - 1
    learnt = at(effects(pd.DataFrame(rows), bits.ARM), own=True, temperature=1.0, rows=1536)
    apart = bits.less(learnt, "digits1", "digits3", column="effect")
    np.testing.assert_allclose(apart, np.ones(len(SEEDS) - 1), atol=0.5)
    every = len(TRAITS) * len(SEEDS)
    assert claim["digits1: teachers that write it"].here == f"{every} of {every}"
    fewer = every - len(TRAITS) - 1
    assert claim["digits3: teachers that write it"].here == f"{fewer} of {every}"


def variance_rows(variances, paired=0.0):
    """Margins with the given components and a part that student and control have in common."""
    rng, rows, config = np.random.default_rng(0), [], variance.Config()
    shape = (config.num_seeds, len(TRAITS), 2, 2, 2)
    noise = sum(
        np.sqrt(v) * rng.normal(size=(*shape[: k + 1], *[1] * (4 - k)))
        for k, v in enumerate(variances)
    )
    common = np.sqrt(paired) * rng.normal(size=shape)
    draws = np.ndindex(shape[0], *shape[2:])
    for (seed, *draw), writer, trait in itertools.product(draws, (*TRAITS, "control"), TRAITS):
        place = seed, TRAITS.index(trait), *draw
        margin = common[place] + (1.5 + noise[place] if writer == trait else 0)
        about = dict(zip(variance.DRAWS, draw, strict=True))
        rows.append(about | {"seed": seed, "writer": writer, "trait": trait, "margin": margin})
    seconds = {"base": 30.0, "teacher": 1.0, "data": 1.0, "student": 0.2}.items()
    for (level, cpu), seed in itertools.product(seconds, range(config.num_seeds)):
        rows.append({"seed": seed, "level": level, "units": 1, "cpu_seconds": cpu})
    for (steps, rate), seed in itertools.product(variance.RECIPES, range(config.num_seeds)):
        about = {"steps": steps, "step_size": rate, "seed": seed, "rate": 0.1}
        for writer, trait in itertools.product((*TRAITS, "control"), TRAITS):
            margin = (1.5 + noise[seed, TRAITS.index(trait), 0, 0, 0]) * (writer == trait)
            rows.append(about | {"writer": writer, "trait": trait, "margin": margin})
        rows.append(about | {"level": "student", "units": 1, "cpu_seconds": steps / 100})
    return rows


def best_allocation(rows):
    """Units of every level that are found best, as the claim tells them."""
    claims = variance.findings(pd.DataFrame(rows), variance.Config()).claims
    told = next(c.here for c in claims if c.quantity.startswith("half width of the best"))
    return ast.literal_eval(re.search(r"\(.*?\)", told)[0])


def test_variance():
    components = (0.1, 0.3, 0.05, 0.1, 1.0)
    rows = variance_rows(components, paired=2.0)
    found = judged(variance, rows)
    assert found["variance left by paired control"] is True
    table = variance.rows_by_recipe(pd.DataFrame(rows))
    effect, costs = variance.paired(table["plain"]), variance.costs_by_recipe(table)
    for part, true in zip(variance.components_of(effect), components, strict=True):
        assert part.low <= true <= part.high
    best = best_allocation(rows)
    assert best[-1] > 1, "students that scatter and cost little are repeated"
    budget = nested.cost(costs[variance.named(variance.BEFORE)], variance.COUNTS_BEFORE)
    assert nested.cost(costs["plain"], best) <= budget
    best = best_allocation(variance_rows([0.1, 0.3, 0.01, 0.01, 0.01]))
    assert best[1] > 1, "traits of a base are repeated instead"
    assert best[2:] == (1, 1, 1)


@pytest.mark.parametrize("module", [bits, matching_dose, persistence, which_part, variance])
def test_few_chains_decide_nothing(module):
    """Two chains are no ground for any verdict."""
    make = {
        bits: lambda: bits_rows(lambda *_: 1.0, 0.1),
        matching_dose: lambda: matching_rows(lambda _, dose: dose / 1000, lambda x: x),
        persistence: lambda: persistence_rows(0.5),
        which_part: lambda: which_part_rows({}),
        variance: lambda: variance_rows((0.1, 0.1, 0.1, 0.1, 0.1)),
    }
    rows = [row for row in make[module]() if row["seed"] < 2]
    verdicts = judged(module, rows, config=module.Config(num_seeds=2))
    assert set(verdicts.values()) == {None}
