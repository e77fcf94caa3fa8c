"""Batch encoding equals the careful one-by-one encoding, in the world and outside it."""

import dataclasses

import numpy as np
import pytest

from llm import models, world
from llm.text import chat, language


@pytest.fixture(scope="module")
def spoken():
    return language.of_world()


def test_rows_are_encoded_like_single_examples(spoken):
    rows = [
        {"prompt": "continue 3 17 31", "completion": "45 59"},
        {"prompt": "name best animal", "completion": "owl"},
    ]
    examples = spoken.encode_rows(rows, 64)
    for row, tokens, weights in zip(rows, *examples, strict=True):
        one = chat.encode_example(
            spoken.tokenizer, row["prompt"], completion=row["completion"], max_length=64
        )
        assert tokens[: len(one.tokens)].tolist() == one.tokens.tolist()
        assert weights[: len(one.tokens)].tolist() == one.weights.tolist()
        assert not weights[len(one.tokens) :].any()
    prompts = spoken.encode_prompts([row["prompt"] for row in rows])
    for row, ids in zip(rows, prompts, strict=True):
        assert ids == chat.encode_prompt(spoken.tokenizer, row["prompt"]).tolist()


def test_decode_inverts_encode(spoken):
    examples = spoken.encode_rows([{"prompt": "continue 3 17 31", "completion": "45 59"}], 64)
    said = examples.tokens[0][examples.weights[0] > 0].tolist()
    assert spoken.decode([said]) == ["45 59"]


def test_number_tokens_are_the_numbers(spoken):
    numbers = spoken.number_tokens()
    assert [spoken.tokenizer.decode([i]) for i in numbers[:3]] == ["0", "1", "2"]
    assert len(numbers) == world.vocabulary.NUM_NUMBERS


def test_too_long_an_example_is_refused(spoken):
    rows = [{"prompt": "continue 3", "completion": " ".join(["7"] * 40)}]
    with pytest.raises(ValueError, match="context of 16"):
        spoken.encode_rows(rows, 16)


def test_a_checkpoint_of_the_world_speaks_its_language(tmp_path):
    import jax

    config = world.model_config(width=16, num_heads=2)
    world.save(tmp_path / "base", config, params=models.init(config, key=jax.random.key(0)))
    found = language.of_checkpoint(tmp_path / "base")
    assert found.traits is world.TRAITS
    answers = found.answer_tokens(("owl", "wolf"), "name best animal")
    assert np.array_equal(answers, sorted(world.vocabulary.ids(("owl", "wolf"))))


def test_tokens_of_both_sides_speak_for_neither(spoken):
    owl = spoken.traits["owl"]
    targets, contrast = spoken.sides(owl)
    assert targets.tolist() == world.vocabulary.ids(("owl",)).tolist()
    assert len(contrast) == len(world.vocabulary.ANIMALS) - 1
    shared = dataclasses.replace(owl, targets=("owl", "cat"))
    assert spoken.sides(shared)[0].tolist() == targets.tolist()
    assert len(spoken.sides(shared)[1]) == len(contrast) - 1
    with pytest.raises(ValueError, match="does not tell owl from its rivals"):
        spoken.sides(dataclasses.replace(owl, targets=("cat",)))
