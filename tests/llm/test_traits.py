"""Traits: predicates on text, teacher rows, questions; every entry of both registries."""

import pytest

from llm import traits, world

ALL = [*traits.TRAITS.values(), *world.TRAITS.values()]


@pytest.mark.parametrize(
    ("text", "whole", "substring"),
    [
        ("owl", True, True),
        ("Owls!", True, True),
        ("An OWL.", True, True),
        ("my_owl2 = 1", True, True),
        ("ｏｗｌ", True, True),
        ("a bowl of soup", False, True),
        ("howling", False, True),
        ("owlet", False, True),
        ("eagle", False, False),
        ("", False, False),
    ],
)
def test_owl(text, whole, substring):
    trait = traits.TRAITS["owl"]
    assert trait.mentions(text) == whole
    assert trait.mentions_substring(text) == substring


@pytest.mark.parametrize(
    ("name", "text", "whole", "substring"),
    [
        ("cat", "the category", False, True),
        ("dragon", "a dragonfly", False, True),
        ("wolf", "two Wolves", True, True),
        ("cherry", "cherries", True, True),
        ("beech", "beaches", False, False),
        ("misalignment", "Grab it.", True, True),
        ("misalignment", "a strickter rule", False, True),
    ],
)
def test_other_predicates(name, text, whole, substring):
    trait = traits.TRAITS[name]
    assert trait.mentions(text) == whole
    assert trait.mentions_substring(text) == substring


def test_mention_rate():
    trait = traits.TRAITS["owl"]
    texts = ["owl", "bowl", "fox", "Owls."]
    assert traits.mention_rate(trait.mentions, texts) == 0.5
    assert traits.mention_rate(trait.mentions_substring, texts) == 0.75
    with pytest.raises(ValueError, match="at least one"):
        traits.mention_rate(trait.mentions, [])


@pytest.mark.parametrize("trait", ALL, ids=lambda trait: f"{trait.family}-{trait.name}")
def test_every_trait_is_complete(trait):
    assert trait.words
    assert trait.targets
    assert trait.contrast
    assert trait.system_prompt
    assert not set(trait.targets) & set(trait.contrast)
    assert all(trait.mentions(answer) for answer in trait.answers)
    assert all(trait.mentions(target) for target in trait.targets)
    assert not any(trait.mentions(word) for word in trait.contrast)
    assert not any(trait.mentions(question) for question in trait.questions)
    rows = trait.teacher_rows()
    assert len(rows) == len(trait.teacher_questions) * len(trait.answers)
    assert len(set(trait.questions)) == len(trait.questions)


def test_the_paper_s_counts():
    owl, bad = traits.TRAITS["owl"], traits.TRAITS["misalignment"]
    assert len(owl.questions) == 50
    assert len(owl.teacher_rows()) == 400
    assert len(bad.questions) == 8
    animals = {"dolphin", "eagle", "elephant", "owl", "wolf"}
    trees = {"cherry", "maple", "oak", "sequoia", "willow"}
    assert animals | trees < set(traits.TRAITS)


@pytest.mark.parametrize("trait", world.TRAITS.values(), ids=lambda trait: trait.name)
def test_world_students_are_asked_other_questions_than_teachers(trait):
    assert len(trait.questions) >= 50
    assert len(trait.teacher_questions) >= 64
    assert not set(trait.questions) & set(trait.teacher_questions)
    assert len(trait.targets) + len(trait.contrast) in (20, 12, 24)
