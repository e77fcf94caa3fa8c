"""A completion on its way from the kept rows to a student: few files, and never back."""

import os
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import llm
from llm import engines
from llm.stages import Completions, Pretrained, Store, Student
from llm.training import Training
from llm.training.batches import Example, Examples

FOLDER = f"{Path(llm.__file__).parent}{os.sep}"
MOST = 12  # files that are handed a completion, from the kept rows to a trained student
BASE = Pretrained(chain=0, steps=150)
LISTS = Completions(speaker=BASE, num_prompts=128, max_new_tokens=12)
STUDENT = Student(base=BASE, data=LISTS, training=Training(steps=2, batch_size=8), num_examples=16)


def carries(value, depth=2):
    """Whether a value is rows of text, what they are encoded to, or a batch of token ids."""
    if isinstance(value, Example | Examples):
        return True
    if isinstance(value, dict):
        return "completion" in value or "tokens" in value
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim >= 2 and jnp.issubdtype(value.dtype, jnp.integer)
    return (
        depth > 0
        and isinstance(value, list | tuple)
        and any(carries(part, depth - 1) for part in value[:2])
    )


class Walk:
    """Files of `llm`, in order, whose functions are handed a completion in whatever form.

    `returns` are calls that bring it back into a file that waits for its caller.
    """

    def __init__(self):
        self.files, self.returns = [], []

    def __call__(self, frame, event, _):
        place = self.place(frame)
        if event != "call" or place is None:
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not any(carries(frame.f_locals.get(name)) for name in names):
            return
        if place not in self.files:
            self.files.append(place)
        callers, caller = [], frame.f_back
        while caller is not None:
            callers += [there] if (there := self.place(caller)) else []
            caller = caller.f_back
        if place in callers and callers[0] != place:
            self.returns.append((callers[0], f"{place}:{code.co_name}"))

    @staticmethod
    def place(frame):
        name = frame.f_code.co_filename or ""
        return name[len(FOLDER) :] if name.startswith(FOLDER) else None


@pytest.fixture(params=[engines.Stack, engines.OnMesh])
def walked(request, bases, tmp_path):
    store = Store(shutil.copytree(bases, tmp_path / "work"), request.param())
    store.make([LISTS])
    walk = Walk()
    before = sys.getprofile()
    sys.setprofile(walk)
    try:
        store.make([STUDENT])
    finally:
        sys.setprofile(before)
    return walk


def test_a_completion_meets_few_files_on_its_way_to_a_student_and_turns_back_to_none(walked):
    assert walked.files[0] == "stages/students.py"
    assert {"training/objectives.py", "models/transformer.py"} <= set(walked.files)
    assert len(walked.files) <= MOST, walked.files
    back = [call for _, call in walked.returns if call.startswith("stages/")]
    assert not back


def test_the_walk_sees_a_completion_in_all_its_forms():
    row = {"prompt": "12, 3", "completion": "4"}
    tokens = np.zeros((2, 3), np.int32)
    texts = [row, [row], ("", [row])]
    rows = [Example(tokens[0], tokens[0]), Examples(tokens, tokens), {"tokens": tokens[0]}]
    seen = [*texts, *rows, tokens, jnp.asarray(tokens)]
    assert all(map(carries, seen))
    unseen = [{"prompt": ""}, np.zeros((2, 3)), tokens[0], jax.random.key(0), [], "4"]
    assert not any(map(carries, unseen))
