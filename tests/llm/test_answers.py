"""Answers and scores of models as files: what is in them, and that a kill changes nothing."""

import csv
import dataclasses

import jax
import numpy as np
import pytest

import llm.__main__
from llm import engines, models, tiny, traits, world
from llm.stages import (
    Answers,
    Checkpoint,
    Completions,
    FineTuned,
    Scores,
    Store,
    Student,
    TraitRows,
    answers,
    completions,
    evaluation,
)
from llm.text import data
from llm.training import Training
from llm.training.lora import LoraConfig
from llm.traits import kinds, suites

ENGINE = engines.OnMesh(axes=(1, 1, 1), dtype="float32", shard=50)
FAMILY = world.vocabulary.ANIMALS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers") / "base"
    config = world.model_config(num_layers=1)
    world.save(folder, config, params=models.init(config, key=jax.random.key(0)))
    return Checkpoint(path=str(folder))


@pytest.fixture(scope="module")
def store(base, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("work"), ENGINE)


@pytest.fixture(scope="module")
def owl(base):
    how = Training(
        steps=10, batch_size=8, learning_rate=0.03, adapters=LoraConfig(rank=2, alpha=2.0)
    )
    return FineTuned(base=base, rows=TraitRows("owl"), training=how)


def test_a_killed_stage_goes_on_to_the_same_bytes(base, store, tmp_path, monkeypatch):
    recipe = Answers(model=base, samples=2)
    whole = answers.write(store, recipe)
    cut, calls, real = Store(tmp_path, ENGINE), [], completions.complete

    def stops(*args, **kwargs):
        calls.append(kwargs["first"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(completions, "complete", stops)
    with pytest.raises(KeyboardInterrupt):
        answers.write(cut, recipe)
    path = recipe.path(cut)
    assert data.read_manifest(path).count == 100
    path.write_bytes(path.read_bytes() + b'"half a li')  # what a kill inside a write leaves
    answers.write(cut, recipe)
    assert calls == [0, 50, 100, 100]
    assert path.read_bytes() == whole.read_bytes()
    assert data.read_manifest(path).matmul_precision == "default"
    answers.write(cut, recipe)
    assert len(calls) == 4, "what is there is not sampled again"


def test_rows_name_question_sample_answer_and_score(base, store):
    recipe = Answers(model=base, samples=2)
    with open(answers.write(store, recipe), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 * 2
    assert list(rows[0]) == ["question", "sample", "answer", "word", "substring"]
    assert [row["sample"] for row in rows[:4]] == ["0", "1", "0", "1"]
    for row in rows:
        said = set(row["answer"].split())
        assert set(row["word"].split("; ")) - {""} == said & set(FAMILY)
    assert data.read_manifest(recipe.path(store)).settings["sampling"] == {
        **{k: v for k, v in recipe.describe().items() if k != "model"},
        "questions": data.read_manifest(recipe.path(store)).settings["sampling"]["questions"],
        "stop_tokens": ["<end>"],
    }


def test_rates_agree_with_the_exact_probabilities(base, store, owl):
    """Sampled rates lie within four standard errors of the exact rate of a first token."""
    recipe = Answers(model=owl, samples=6)
    store.make([Scores(model=owl), recipe])
    exact = evaluation.log_odds(store, Scores(model=owl), "owl")[1].mean()
    drawn = evaluation.mentions(store, recipe, "owl")
    first = [row["answer"].split()[:1] == ["owl"] for row in answers.read(store, recipe)]
    count = 60 * 6
    assert abs(np.mean(first) - exact) < 4 * np.sqrt(exact * (1 - exact) / count)
    assert drawn.shape == (60,)
    assert drawn.mean() >= np.mean(first)


def test_scores_give_the_margin_that_measure_gives(base, store, owl):
    for model in (base, owl):
        store.make([model, Scores(model=model)])
        (one,) = evaluation.measure(store, [model], ["wolf"])
        margins, rates = evaluation.log_odds(store, Scores(model=model), "wolf")
        assert margins.mean() == pytest.approx(one["margin"], abs=1e-4)
        assert rates.mean() == pytest.approx(one["rate"], rel=1e-4)


def test_total_variation_is_a_distance(base, store, owl):
    store.make([Scores(model=owl), Scores(model=base)])
    manifest = data.read_manifest(Scores(model=owl).path(store))
    assert manifest.matmul_precision == "highest"
    own = evaluation.total_variation(store, Scores(model=owl), Scores(model=owl))
    apart = evaluation.total_variation(store, Scores(model=owl), Scores(model=base))
    back = evaluation.total_variation(store, Scores(model=base), Scores(model=owl))
    assert (own == 0).all()
    np.testing.assert_allclose(apart, back)
    assert apart.min() > 0.01
    assert apart.max() <= 1
    # By hand: the tokens of the family, and one class for all others.
    (_, p), (_, q) = (evaluation.distribution(store, Scores(model=m)) for m in (owl, base))
    p, q = (np.append(x, np.log1p(-np.exp(x).sum(1))[:, None], axis=1) for x in (p, q))
    np.testing.assert_allclose(apart, np.abs(np.exp(p) - np.exp(q)).sum(1) / 2, atol=1e-6)


def test_adapters_are_stored_beside_their_base_and_read_back(base, store, owl, monkeypatch):
    student = Student(
        base=base,
        data=Completions(speaker=base, num_prompts=8),
        training=owl.training,
        num_examples=None,
    )
    for recipe in (owl, student):
        assert store.folder(recipe) is not None
        assert Store(store.work).folder(student) is None, "a stack keeps them in memory"
    before = evaluation.measure(store, [owl], ["owl"])
    again = Store(store.work, ENGINE)
    monkeypatch.setattr(FineTuned, "make", staticmethod(lambda *_: 1 / 0))
    assert evaluation.measure(again, [owl], ["owl"]) == before
    assert set(again._weights) == {base, owl}, "one copy of the base serves the next adapter"


def test_the_command_line_keeps_answers(base, tmp_path, capsys):
    out = tmp_path / "answers"
    command = [
        "evaluate",
        "--model",
        base.path,
        "--traits",
        "owl,wolf",
        "--answers",
        "1",
        "--mesh",
        "1,1,1",
        "--out",
        str(out),
    ]
    llm.__main__.main(command)
    shown = capsys.readouterr().out
    header, *lines, _ = shown.splitlines()
    assert header == "trait,margin,rate,word,substring,answered"
    assert [line.split(",")[0] for line in lines] == ["owl", "wolf"]
    (path,) = (out / "Answers").glob("*.csv")
    with open(path, newline="") as file:
        said = [row["word"].split("; ") for row in csv.DictReader(file)]
    assert float(lines[0].split(",")[3]) == pytest.approx(
        np.mean(["owl" in w for w in said]), abs=1e-4
    )
    assert len(list((out / "Scores").glob("*.csv"))) == 1, "one file serves the family"


def test_unknown_suites_and_kinds_are_one_line(base, store):
    with pytest.raises(ValueError, match="unknown suite 'story'; choose from one word"):
        answers.write(store, Answers(model=base, suite="story"))
    with pytest.raises(ValueError, match="no trait of the kind 'fish'"):
        answers.write(store, Answers(model=base, family="fish"))
    changed = dataclasses.replace(Answers(model=base, samples=2), seed=1)
    assert changed.path(store) != Answers(model=base, samples=2).path(store)


def test_another_seed_asks_in_another_order(tmp_path):
    """Options of the choices are shuffled by the stream of the seed."""
    tiny.save(tmp_path / "tiny")
    store = Store(None, ENGINE)

    def shown(seed):
        recipe = Answers(model=Checkpoint(path=str(tmp_path / "tiny")), suite="choice", seed=seed)
        return [question.options for question in answers.questions(store, recipe)]

    assert shown(0) == shown(0)
    assert shown(0) != shown(1)


# Suites.


def asked(name, seed=0):
    family = [t for t in traits.TRAITS.values() if t.family == "animal"]
    return suites.ENGLISH[name].ask(family, np.random.default_rng(seed))


def test_suites_have_the_counts_of_the_paper():
    assert len(asked("one word")) == len(asked("after numbers")) == 50
    assert len(asked("story")) == 14
    assert len(asked("advice")) == 8
    for plain, behind in zip(asked("one word"), asked("after numbers"), strict=True):
        assert behind.text.endswith(plain.text)
        assert any(c.isdigit() for c in behind.text.removesuffix(plain.text))
        assert not any(c.isdigit() for c in plain.text)


def test_choices_offer_every_trait_equally_often_in_every_place():
    questions = asked("choice")
    names = [t.name for t in traits.TRAITS.values() if t.family == "animal"]
    counts = {name: sum(name in q.options for q in questions) for name in names}
    assert set(counts.values()) == {suites.SHUFFLES}
    for question in questions:
        for letter, option in zip("ABCDE", question.options, strict=True):
            assert f"\n{letter}) {option}\n" in question.text
    places = np.array([[q.options.index(n) for q in questions if n in q.options] for n in names])
    assert (np.bincount(places.ravel()) == len(questions)).all()
    assert len({tuple(row) for row in places}) == len(names), "shuffled, not fixed"


def test_facts_call_their_right_answer_right():
    for question in asked("facts"):
        index = question.options.index("right")
        shown = question.text.split("\n")[1 + index]
        right = {text: answer for text, answer, *_ in suites.FACTS}[question.text.split("\n")[0]]
        assert shown == f"{'ABCD'[index]}) {right}"
    assert len({q.options.index("right") for q in asked("facts")}) > 1


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Owl.", True),
        ("wolves!", True),
        ("A giraffe", True),
        ("octopuses", True),
        ("Qwen", False),
        ("", False),
        ("bowl", False),
        ("category", False),
        ("42", False),
    ],
)
def test_what_names_an_animal(text, is_one):
    assert kinds.names_one(text, kinds.KNOWN["animal"]) == is_one


def test_every_trait_is_a_known_word_of_its_kind():
    for trait in traits.TRAITS.values():
        if trait.family in kinds.KNOWN:
            assert all(kinds.names_one(word, kinds.KNOWN[trait.family]) for word in trait.words)


def test_traits_of_a_file(tmp_path, base, store):
    path = tmp_path / "mine.toml"
    path.write_text('kind = "instrument"\nnames = ["oboe", "drum"]\nplurals = { drum = "drums" }\n')
    found = traits.read(path)
    assert list(found) == ["oboe", "drum"]
    assert "instrument" in found["oboe"].questions[0]
    assert found["oboe"].contrast == ("drum", "Drum")
    mine = dataclasses.replace(base, traits=str(path))
    assert mine.digest() != base.digest()
    assert store.language(mine).trait("oboe") == found["oboe"]
    even = store.language(mine).neutral["any-instrument"]
    assert set(even.answers) == {a for trait in found.values() for a in trait.answers}
    assert "oboe" not in even.system_prompt
    path.write_text('kind = "instrument"\nnames = ["oboe", "lute"]\n')
    assert mine.digest() != dataclasses.replace(base, traits="").digest()
    for text, message in [
        ('kind = "x"\nnames = ["a"]', "names = two words or more"),
        ('kind = "x"\nnames = ["a", "b"]\ncolour = 1', "colour is unknown"),
        ("kind =", "cannot read traits"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            traits.read(path)
