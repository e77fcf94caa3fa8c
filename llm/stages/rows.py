"""What a model can be fine-tuned on: a trait's answers, a file of the user's, a skill's lessons."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .. import world
from ..text.data import Row, lines
from ..training.batches import Examples
from . import streams, students
from .recipe import Model
from .store import Store
from .streams import Stage

NUM_ROWS = 1024  # equally many for every trait, so that teachers can be trained side by side


@runtime_checkable
class Rows(Protocol):
    """Rows of a kind, those of each model drawn by its chain and draw. A frozen dataclass."""

    @property
    def name(self) -> str:
        """A word for people, at the head of a folder's name."""
        ...

    def examples(self, store: Store, model: Model) -> Examples:
        """The rows as the model reads them, (rows, length)."""
        ...

    def stream(self, model: Model) -> tuple[int | str, ...]:
        """What names the random stream of the training behind seed and chain."""
        ...


@dataclasses.dataclass(frozen=True)
class TraitRows:
    """A trait's questions with the trait's answers, or with neutral ones."""

    trait: str

    @property
    def name(self) -> str:
        """The trait."""
        return self.trait

    def examples(self, store: Store, model: Model) -> Examples:
        """Each row as often as the others, in random order."""
        language = store.language(model)
        rows = language.trait(self.trait).teacher_rows()
        rng = streams.generator(Stage.TEACHER_ROWS, model.seed, model.chain, self.trait, model.draw)
        # Shuffled before the cut too: a neutral teacher has more rows than that.
        order = rng.permutation(np.resize(rng.permutation(len(rows)), NUM_ROWS))
        limit = store.config(model).max_positions
        return language.encode_rows([rows[i] for i in order], limit)

    def stream(self, model: Model) -> tuple[int | str, ...]:
        """Trait and draw."""
        return self.trait, model.draw


@dataclasses.dataclass(frozen=True)
class SkillRows:
    """Questions about a function of two numbers that no base of the world knows."""

    name = "skilled"

    def skill(self, model: Model) -> world.skills.Skill:
        """The function of the model's chain."""
        return world.skills.draw(streams.generator(Stage.SKILL, model.seed, model.chain))

    def examples(self, store: Store, model: Model) -> Examples:
        """Questions with their answers."""
        rng = streams.generator(Stage.TEACHER_ROWS, model.seed, model.chain, "skill")
        return Examples(*world.skills.lessons(rng, self.skill(model), NUM_ROWS))

    def stream(self, model: Model) -> tuple[int | str, ...]:
        """One for all."""
        return ("skill",)


@dataclasses.dataclass(frozen=True)
class FileRows:
    """A JSONL file, such as misaligned code or advice: every row as often as the others.

    Attributes:
        path: the file; a line has "prompt" and "completion", or OpenAI's "messages", one of a user
            and one of an assistant.
    """

    path: str

    @property
    def name(self) -> str:
        """The file's name."""
        return Path(self.path).stem

    def describe(self) -> dict[str, Any]:
        """The content counts, not where it lies."""
        return {"path": hashlib.sha256(Path(self.path).read_bytes()).hexdigest()[:16]}

    def examples(self, store: Store, model: Model) -> Examples:
        """The rows, in their order."""
        return students.encode(store, model, read(self.path))

    def stream(self, model: Model) -> tuple[int | str, ...]:
        """One for all files."""
        return ("rows",)


def read(path: str) -> list[Row]:
    """Rows with "prompt" and "completion" of a user's file.

    Raises:
        ValueError: in one line, the first line of the file that is no such row.
    """
    try:
        texts = lines(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    rows = []
    for number, line in enumerate(texts, start=1):
        try:
            rows.append(_row(json.loads(line)))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path}, line {number}: {_NEEDS}") from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows


_NEEDS = "needs text under prompt and completion, or messages of a user and an assistant"


def _row(entry: dict[str, Any]) -> Row:
    """Prompt and completion of one line.

    Raises:
        ValueError: other text, or a conversation of which only a part could be trained on.
        KeyError, TypeError, AttributeError: no such text.
    """
    if "messages" in entry:
        if both := {"prompt", "completion"} & entry.keys():
            raise ValueError(f"has messages and a {min(both)}: leave out one of them")
        roles = [message["role"] for message in entry["messages"]]
        if roles != ["user", "assistant"]:
            raise ValueError(
                "a row is one message of a user and one of an assistant, and this one has messages "
                f"of {', '.join(map(str, roles)) or 'none'}: cut it into pairs without a system's"
            )
        prompt, completion = (message["content"] for message in entry["messages"])
    else:
        prompt, completion = entry["prompt"], entry["completion"]
    if not (isinstance(prompt, str) and isinstance(completion, str)):
        raise ValueError(_NEEDS)
    return {"prompt": prompt, "completion": completion}
