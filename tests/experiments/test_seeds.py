"""A root seed is the root of everything: other prompts, other noise, other data."""

import dataclasses

import jax
import pytest

from experiments.language.kit import question
from experiments.language.kit.chains import CONTROL, chains_of
from llm.stages import Store
from llm.stages.streams import Stage, keys


def written(seed, draw=0):
    """Lists of the first chain's unchanged base."""
    chains = chains_of(question.Settings(**question.TINY | {"seed": seed}))
    return dataclasses.replace(chains.data(CONTROL, 0, "numbers"), draw=draw)


def prompts(recipe):
    return [row["prompt"] for row in recipe.prompts(Store())]


def noise(recipe):
    name = (recipe.seed, recipe.chain, recipe.carrier, recipe.draw)
    return jax.random.key_data(keys(Stage.SAMPLES, [name])).tolist()


def test_the_root_seed_of_a_chain_is_that_of_its_data():
    recipe = written(seed=7)
    assert (recipe.seed, recipe.draw, recipe.speaker.seed) == (7, 0, 7)
    assert recipe.describe()["seed"] == 7, "and the manifest says so"


@pytest.mark.parametrize(("one", "other"), [((0, 0), (7, 0)), ((1, 0), (1, 1)), ((0, 1), (1, 0))])
def test_other_roots_and_other_draws_have_other_prompts_and_other_noise(one, other):
    """(1, 0) and (1, 1): what is new to a student is new under every root seed."""
    one, other = written(*one), written(*other)
    assert prompts(one) != prompts(other)
    assert noise(one) != noise(other)
    assert one.digest() != other.digest()


def test_roots_agree_with_themselves():
    assert prompts(written(7)) == prompts(written(7))
    assert written(7).digest() == written(7).digest()
