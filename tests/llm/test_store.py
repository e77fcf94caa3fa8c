"""One verb makes things: what reads writes nothing, and says what is missing."""

import dataclasses
import re
import shutil

import numpy as np
import pytest

from llm.settings import RunError
from llm.stages import (
    Answers,
    Completions,
    FineTuned,
    Pretrained,
    Scores,
    Store,
    Student,
    TraitRows,
    answers,
    completions,
    evaluation,
    judged,
    progress,
    students,
)
from llm.training import Training

BASE = Pretrained(chain=0, steps=150)
OWL = FineTuned(base=BASE, rows=TraitRows("owl"), training=Training(steps=5, learning_rate=5e-4))
LISTS = [Completions(speaker=writer, num_prompts=96, max_new_tokens=12) for writer in (OWL, BASE)]
HOW = Training(steps=3, batch_size=8, learning_rate=1e-3, eps=1e-3)
STUDENT = Student(
    base=BASE,
    data=LISTS[0],
    training=HOW,
    num_examples=16,
    as_many_as=tuple(LISTS),
    fewest=8,
)
EXACT, DRAWN = Scores(model=BASE), Answers(model=BASE, samples=1)
VERDICTS = judged.Judged(answers=DRAWN, judge=judged.Words("owl", BASE))
READERS = {
    "rows": lambda store: completions.rows(store, LISTS[0]),
    "kept": lambda store: completions.kept(store, LISTS[0]),
    "kept share": lambda store: completions.kept_share(store, LISTS[1]),
    "weights": lambda store: store.weights([OWL, BASE]),
    "a student's weights": lambda store: store.weights([STUDENT]),
    "what was noted": lambda store: store.noted(STUDENT),
    "a student's rows": lambda store: students.given_to(store, STUDENT),
    "settled": lambda store: store.settled(STUDENT),
    "log-odds": lambda store: evaluation.measure(store, [OWL], ["owl"]),
    "scores": lambda store: evaluation.log_odds(store, EXACT, "owl"),
    "answers": lambda store: answers.read(store, DRAWN),
    "verdicts": lambda store: judged.scores(store, VERDICTS),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory, bases):
    made = Store(shutil.copytree(bases, tmp_path_factory.mktemp("store") / "work"))
    made.make([*LISTS, STUDENT, EXACT, DRAWN, VERDICTS])
    return made


def content(folder):
    """Every file and folder with its size and the time of its last change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", READERS)
def test_readers_write_nothing(store, name):
    before = content(store.work)
    READERS[name](store)
    assert content(store.work) == before


@pytest.mark.parametrize("name", READERS)
def test_readers_make_nothing_and_say_what_is_missing(tmp_path, name):
    with pytest.raises(RunError, match="not been"):
        READERS[name](Store(tmp_path))
    assert not content(tmp_path)


def test_a_plan_makes_nothing(tmp_path):
    found = progress.stages(Store(tmp_path), [STUDENT, EXACT, DRAWN, VERDICTS])
    assert {stage.state for stage in found} <= {"missing", "not kept"}
    assert not content(tmp_path)


def test_making_again_makes_nothing(store):
    before = content(store.work)
    store.make([*LISTS, STUDENT, EXACT, DRAWN, VERDICTS])
    assert content(store.work) == before


def test_equal_recipes_hash_alike_and_others_do_not():
    again = dataclasses.replace(STUDENT)
    assert again == STUDENT
    assert hash(again) == hash(STUDENT)
    assert hash(dataclasses.replace(STUDENT, draw=1)) != hash(STUDENT)


def test_the_first_page_runs(repository, bases, tmp_path, monkeypatch, capsys):
    """The lines of llm/README.md, with a smaller base and fewer prompts."""
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "llm/README.md").read_text(), re.S)
    for old, new in (
        ("Pretrained(chain=0)", "Pretrained(chain=0, steps=150)"),
        ("speaker=writer", "speaker=writer, num_prompts=256"),
        ("steps=200", "steps=3"),
        ("num_examples=1024", "num_examples=32"),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    shutil.copytree(bases, tmp_path / "work")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "llm/README.md", "exec"), {})
    odds = [float(x) for x in re.findall(r"log-odds of owl ([+-][\d.]+)", capsys.readouterr().out)]
    assert len(odds) == 3
    assert np.isfinite(odds).all()
    assert odds[0] == max(odds), "the teacher loves owls"
