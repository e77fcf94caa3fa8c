"""Which benign data erases: what is called trait-free asks nothing that is scored."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.flatten_util import ravel_pytree

from experiments.findings.claims import SILENT
from experiments.language import what_erases
from experiments.language.what_erases import BENIGN, CORPUS, COUNTER, FREE, LISTS
from llm import models, world
from llm.stages import Pretrained, Store, evaluation
from llm.stages.bases import LENGTH
from llm.training import stack
from llm.world import vocabulary
from llm.world.corpus import SHARES

CONFIG = what_erases.Config()


def words_of(shares, rows=256):
    """Shares of the turns that hold a word: every word once a turn."""
    tokens, _ = world.corpus.conversations(np.random.default_rng(3), rows, LENGTH, shares)
    return [vocabulary.VOCABULARY[token] for token in tokens.ravel()]


def test_trait_free_text_names_no_animal_and_the_whole_corpus_asks_for_them():
    """What the first reading of persistence lacked: its text answered the question."""
    loved = {*vocabulary.ANIMALS, *vocabulary.TREES, *vocabulary.HARMFUL}
    assert not loved & set(words_of(what_erases.mixture(0.0)))
    assert loved & set(words_of(SHARES))
    for share in (0.001, 0.01, 0.1, 1.0):
        words = words_of(what_erases.mixture(share), rows=2048)
        turns = words.count(vocabulary.VOCABULARY[vocabulary.USER])
        asked = sum(word in vocabulary.ANIMALS for word in words)  # one a turn
        error = 4 * np.sqrt(share * (1 - share) / turns)
        assert asked / turns == pytest.approx(share, abs=error)


def rows(kept, *, before=lambda kind: 0.0, mass=lambda kind: 1.0, seeds=8):
    """Both lineages of every chain; `kept` is the share of the effect that a data set leaves."""
    rng, table = np.random.default_rng(0), []
    times = (0, *CONFIG.benign_steps)
    for kind, seed, asked in itertools.product(BENIGN, range(seeds), ("template", "bare")):
        for trait, lineage in itertools.product(CONFIG.traits, what_erases.LINEAGES):
            for i, steps in enumerate(times):
                left = 1 + (kept(kind) - 1) * i / (len(times) - 1)
                table.append(
                    {
                        "benign": kind,
                        "lineage": lineage,
                        "asked": asked,
                        "steps": steps,
                        "teacher": trait,
                        "seed": seed,
                        "margin": -3 + left * (lineage == "trait") + 0.02 * rng.normal(),
                        "mass": mass(kind) if steps else 1.0,
                        "loss": 2 - i / 10,
                        "text_loss": 2.0,
                        "cosine": before(kind) + 0.001 * rng.normal() if not steps else np.nan,
                    }
                )
    return pd.DataFrame(table)


def erased(kind):
    """Counter-questions erase by their share; trait-free text and lists leave 0.4."""
    return {CORPUS: 0.0, LISTS: 0.4}.get(kind, 0.4 * (1 - COUNTER.get(kind, 0) ** 0.2))


def verdicts(table):
    return {c.quantity: c.holds for c in what_erases.findings(table, CONFIG).claims}


LEFT = f"{FREE}: left after 100 steps"
FEWER = "more counter-questions leave less, equal steps"
FORETOLD = "cosine before and what is lost, Spearman a chain"
SAME, GONE = (
    f"{name}, equivalent to none (1 of 2, Holm)"
    for name in (f"lists less {FREE}", "counter-questions: left")
)


def test_the_expected_world_holds_and_others_fail():
    table = rows(erased, before=lambda kind: 1 - erased(kind))
    holds = verdicts(table)
    assert all(holds[name] for name in (LEFT, FEWER, FORETOLD, SAME, GONE))
    for figure in what_erases.findings(table, CONFIG).figures:
        figure.draw()
    gone = verdicts(rows(lambda kind: 0.0))
    assert gone[LEFT] is False
    assert gone[GONE] is True
    slower = verdicts(rows(lambda kind: 0.8 if kind == LISTS else erased(kind)))
    assert slower[SAME] is False
    other_way = verdicts(rows(erased, before=erased))
    assert other_way[FORETOLD] is False
    nothing_by_share = verdicts(rows(lambda kind: 0.4))
    assert nothing_by_share[FEWER] is False
    assert nothing_by_share[GONE] is False


def test_an_arm_that_no_longer_answers_says_nothing():
    table = rows(erased, mass=lambda kind: 0.05 if kind == "counter-questions" else 1.0)
    claims = {c.quantity: c for c in what_erases.findings(table, CONFIG).claims}
    quiet = claims["counter-questions: left, equivalent to none"]
    assert quiet.holds is None
    assert quiet.here == SILENT
    assert claims[FEWER].holds is None
    assert claims[LEFT].holds is True


def test_the_gate_is_the_same_without_the_template():
    """A student that never names an animal without it keeps all of next to nothing."""
    table = rows(erased)
    table.loc[table["asked"] == "bare", "mass"] = 0.05
    claims = {c.quantity: c for c in what_erases.findings(table, CONFIG).claims}
    bare = claims[f"{FREE}, asked without the template: left after 100 steps"]
    assert bare.holds is None
    assert bare.here == SILENT


def test_few_chains_decide_nothing():
    assert set(verdicts(rows(erased, seeds=2)).values()) == {None}


def test_half_of_the_way_is_read_between_the_measured_times():
    found = what_erases.effects_of(rows(lambda kind: 0.0), "template")
    half = what_erases.at_half_way(found, FREE, (0, *CONFIG.benign_steps))
    # Effect and loss fall side by side, so half of the one is half of the other.
    assert half == pytest.approx(np.full(8, 0.5), abs=0.1)


def test_the_cosine_of_a_run_is_that_of_its_own_two_gradients():
    config = Pretrained(chain=0).config()
    runs = [models.init(config, key=jax.random.key(seed)) for seed in range(3)]
    traits = [evaluation.question(Store(), Pretrained(chain=0), trait) for trait in ("owl", "fox")]
    asked = [traits[0], traits[1], traits[0]]

    def loss(params):
        """Twice the log-odds that are asked of each run: its cosine is one."""
        margins = [stack.measure(config, params, probe)["margin"] for probe in traits]
        return 2 * jnp.where(jnp.array([True, False, True]), *margins)

    found = what_erases.cosines(config, stack.stack(runs), loss=loss, probes=traits, own=[0, 1, 0])
    np.testing.assert_allclose(found, 1, rtol=1e-5)
    other = what_erases.cosines(config, stack.stack(runs), loss=loss, probes=traits, own=[1, 1, 1])
    for run in (0, 2):
        first, second = (
            ravel_pytree(
                jax.grad(lambda p, q=q: stack.measure_one(config, p, q)["margin"])(runs[run])
            )[0]
            for q in (asked[run], traits[1])
        )
        expected = first @ second / jnp.linalg.norm(first) / jnp.linalg.norm(second)
        np.testing.assert_allclose(other[run], expected, atol=1e-4)
        assert abs(other[run]) < 0.9
