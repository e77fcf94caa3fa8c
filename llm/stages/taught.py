"""Teachers that are fine-tuned on rows of the user's own, such as misaligned code or advice."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ..batches import Examples
from ..data import Row
from ..training import Training
from . import streams, students
from .recipe import Model
from .streams import Stage
from .workshop import Workshop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taught(Model):
    """A model fine-tuned on a JSONL file, every row as often as the others.

    Attributes:
        base: what is fine-tuned.
        path: the file; a line has "prompt" and "completion", or OpenAI's "messages".
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
    rows = []
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            said = {message["role"]: message["content"] for message in row.get("messages", ())}
            prompt = row["prompt"] if "prompt" in row else said["user"]
            completion = row["completion"] if "completion" in row else said["assistant"]
        except (ValueError, KeyError, TypeError, AttributeError):
            prompt = completion = None
        if not (isinstance(prompt, str) and isinstance(completion, str)):
            raise ValueError(
                f"{path}, line {number}: needs text under prompt and completion, or messages of "
                "a user and an assistant"
            )
        rows.append({"prompt": prompt, "completion": completion})
    if not rows:
        raise ValueError(f"{path} has no rows")
    return rows
