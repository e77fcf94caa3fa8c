"""Teachers that are fine-tuned on rows of the user's own, such as misaligned code or advice."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..batches import Examples
from ..data import Row, lines
from ..training import Training
from . import streams, students
from .recipe import Model, frozen
from .streams import Stage
from .workshop import Workshop


@frozen
class Taught(Model):
    """A model fine-tuned on a JSONL file, every row as often as the others.

    Attributes:
        base: what is fine-tuned.
        path: the file; a line has "prompt" and "completion", or OpenAI's "messages", one of a
            user and one of an assistant.
        training: how.
        chain: number of the chain, for the order of the rows.
        seed: root of all random numbers.
    """

    base: Model
    path: str
    training: Training
    chain: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{Path(self.path).stem}-chain{self.chain}"

    def describe(self) -> dict[str, Any]:
        """The content counts, not where it lies."""
        content = hashlib.sha256(Path(self.path).read_bytes()).hexdigest()
        return super().describe() | {"path": content[:16]}

    def examples(self, workshop: Workshop) -> Examples:
        """The rows as the model reads them."""
        return students.encode(workshop, self, read(self.path))

    @staticmethod
    def make(workshop: Workshop, recipes: list["Taught"]) -> Any:
        """Fine-tune them, one after the other: their files differ in length."""
        engine, made = workshop.engine, []
        for one in recipes:
            keys = streams.keys(Stage.TEACHER, [(one.seed, one.chain, "rows")])
            start = workshop.models([one.base])
            config = workshop.config(one)
            tuned = engine.tune(
                config, start, examples=[one.examples(workshop)], training=one.training, keys=keys
            )
            made += engine.split(tuned.weights)
        return engine.join(made)


def read(path: str) -> list[Row]:
    """Rows with "prompt" and "completion" of a user's file.

    Raises:
        ValueError: in one line, the first line of the file that is no such row.
    """
    try:
        found = lines(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    rows = []
    for number, line in enumerate(found, start=1):
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
