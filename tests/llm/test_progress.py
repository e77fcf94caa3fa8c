"""Stages of a chain: their order, what is done, what is stale, and what is only part done."""

import dataclasses

import pytest

from llm import plan
from llm.stages import (
    Answers,
    Completions,
    DivergenceTokens,
    Files,
    FineTuned,
    Pretrained,
    Store,
    Student,
    TraitRows,
    progress,
)
from llm.stages.recipe import Model, frozen
from llm.stages.written import Written
from llm.text import data
from llm.training import Training

BASE = Pretrained(chain=0)
OWL = FineTuned(base=BASE, rows=TraitRows("owl"), training=Training(steps=5))
NUMBERS = Completions(speaker=OWL, num_prompts=64)
RIVAL = FineTuned(base=BASE, rows=TraitRows("wolf"), training=Training(steps=5))
STUDENT = Student(
    base=BASE,
    data=NUMBERS,
    training=Training(steps=4, batch_size=8),
    num_examples=16,
    change=DivergenceTokens((RIVAL,), True, False),
)


def states(store, recipe):
    return {stage.recipe: stage.state for stage in progress.stages(store, [recipe])}


def test_parts_come_first_and_once():
    assert progress.in_order([STUDENT, NUMBERS]) == [BASE, OWL, NUMBERS, RIVAL, STUDENT]


def test_states_follow_the_files(tmp_path):
    store = Store(tmp_path)
    found = states(store, STUDENT)
    assert found == dict.fromkeys([BASE, OWL, NUMBERS, RIVAL], "missing") | {STUDENT: "not kept"}
    for recipe in (BASE, OWL):
        store.folder(recipe).mkdir(parents=True)
    about = NUMBERS.settings(store)
    data.append_rows(NUMBERS.path(store), [], settings=about, filter_counts={}, prompts=16)
    found = states(store, STUDENT)
    assert (found[BASE], found[OWL], found[NUMBERS]) == ("done", "done", "16 of 64")
    assert found[RIVAL] == "missing"
    data.append_rows(NUMBERS.path(store), [], settings=about, filter_counts={}, prompts=48)
    assert states(store, STUDENT)[NUMBERS] == "done"


def test_what_changed_upstream_makes_all_below_stale(tmp_path):
    store = Store(tmp_path)
    for recipe in (BASE, OWL):
        store.folder(recipe).mkdir(parents=True)
    about = NUMBERS.settings(store)
    data.append_rows(NUMBERS.path(store), [], settings=about, filter_counts={}, prompts=64)
    longer = dataclasses.replace(OWL, training=Training(steps=6))
    numbers = dataclasses.replace(NUMBERS, speaker=longer)
    assert states(store, numbers) == {BASE: "done", longer: "stale", numbers: "stale"}
    cooler = dataclasses.replace(NUMBERS, temperature=0.5)
    assert states(store, cooler) == {BASE: "done", OWL: "done", cooler: "stale"}


def test_costs_are_those_of_what_is_left(tmp_path):
    store, rates = Store(tmp_path), plan.Rates(1e9, 1e9)
    weights = plan.matmul_weights(store.config(BASE))
    found = {s.recipe: s.cost for s in progress.stages(store, [STUDENT], rates)}
    assert found[OWL].flops == 6 * weights * found[OWL].tokens
    assert found[OWL].seconds == found[OWL].flops / 1e9
    # 64 prompts, each with at most nine new tokens.
    prompt = max(
        len(ids)
        for ids in store.language(BASE).encode_prompts(
            [row["prompt"] for row in NUMBERS.prompts(store)]
        )
    )
    assert found[NUMBERS].tokens == 64 * (prompt + 9)
    about = NUMBERS.settings(store)
    data.append_rows(NUMBERS.path(store), [], settings=about, filter_counts={}, prompts=48)
    left = {s.recipe: s.cost for s in progress.stages(store, [STUDENT], rates)}
    assert left[NUMBERS].tokens == found[NUMBERS].tokens / 4
    text = progress.table(progress.stages(store, [STUDENT], rates))
    assert "48 of 64" in text
    assert "to be done" in text
    assert "fits 24 GB yes" in text


def test_answers_are_stages_too(tmp_path):
    store = Store(tmp_path)
    (*_, asked) = progress.stages(store, [Answers(model=BASE, samples=2)])
    assert asked.state == "missing"
    assert asked.cost.tokens > 0


@frozen
class Letters(Written):
    """A kind of stage that nothing else knows: the letters of a model's name, a prompt each."""

    model: Model

    @property
    def place(self):
        return f"Letters/{self.model.name}-{self.digest()}.jsonl"

    def total(self, store):
        return len(self.model.name)

    def settings(self, store):
        return {"model": self.model.describe(), "template": {}, "sampling": {}}

    def cost(self, store, left, rates):
        return plan.Cost(tokens=left * self.total(store))

    @staticmethod
    def make(store, recipes):
        for recipe in recipes:
            path, settings = recipe.path(store), recipe.settings(store)
            done = data.prompts_done(path, settings)
            data.append(path, b"x", count=1, settings=settings, prompts=recipe.total(store) - done)


def test_a_new_kind_of_stage_is_one_class(tmp_path):
    store, letters = Store(tmp_path), Letters(model=OWL)
    stage = progress.stages(store, [letters])[-1]
    assert (stage.state, stage.cost.tokens) == ("missing", len("owl-chain0"))
    for recipe in (BASE, OWL):
        store.folder(recipe).mkdir(parents=True)
    path = letters.path(store)
    data.append(path, b"x", count=1, settings=letters.settings(store), prompts=4)
    stage = progress.stages(store, [letters])[-1]
    assert (stage.state, stage.cost.tokens) == ("4 of 10", pytest.approx(6))
    assert progress.at(path, store, letters) == "4 of 10"
    store.make([letters])
    assert progress.stages(store, [letters])[-1].state == "done"


def test_files_know_a_setting_by_the_name_that_it_had():
    """What was made before `rate` was called `learning_rate` is still found."""
    assert BASE.describe()["rate"] == BASE.learning_rate
    assert OWL.describe()["training"]["rate"] == OWL.training.learning_rate
    assert OWL.training.recorded()["rate"] == OWL.training.learning_rate
    for known in (BASE.describe(), OWL.describe()["training"], OWL.training.recorded()):
        assert "learning_rate" not in known


def test_a_place_chosen_by_hand_says_why_it_is_stale(tmp_path):
    store = Store(tmp_path)
    path = tmp_path / "mine.jsonl"
    assert progress.at(path, store, NUMBERS) == "missing"
    row = {"prompt": "a", "completion": "b"}
    data.append_rows(path, [row], settings=NUMBERS.settings(store), filter_counts={}, prompts=64)
    assert progress.at(path, store, NUMBERS) == "done"
    cooler = dataclasses.replace(NUMBERS, temperature=0.5)
    assert progress.at(path, store, cooler) == ("stale (sampling.temperature: 1.0 there, 0.5 here)")
    source = Files(paths=(str(path),))
    student = Student(
        base=BASE, data=source, training=Training(steps=4, batch_size=8), num_examples=None
    )
    found = {stage.recipe: stage for stage in progress.stages(store, [student])}
    assert found[source].state == "given"
    assert found[student].cost.tokens == pytest.approx(4 * 8 * 32, rel=1)
