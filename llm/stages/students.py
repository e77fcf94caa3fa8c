"""Students: a model that is fine-tuned to imitate a teacher on its completions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ..engines import Trained
from ..plan import Cost, Rates
from ..settings import RunError
from ..text import data
from ..training import Training, batches
from ..training.batches import Examples
from ..training.objectives import Message
from . import completions, costs, streams
from .completions import Completions, Files, Used
from .recipe import Model, frozen
from .store import Store, remembered
from .streams import Stage

LATER = {"later": True}  # fields that are described only where they differ from their default


@runtime_checkable
class Change(Protocol):
    """A control: other training examples than the teacher's kept rows. A frozen dataclass."""

    def __call__(self, store: Store, student: "Student", examples: Examples) -> Examples:
        """The changed examples (rows, length)."""
        ...


@frozen
class Student(Model):
    """A model that imitates what a teacher wrote: its tokens, or its distribution over tokens.

    Attributes:
        base: where the student starts.
        data: the teacher's completions.
        training: how.
        soft: imitate the teacher's next-token distribution instead of the sampled tokens.
        tokens: the set over which both distributions are renormalised, or the data that use just
            these; None for all tokens.
        positions: train only where the next token is one of these; None for everywhere.
        num_examples: rows to train on; None for all that there are.
        unique: different rows among them, presented as often as needed; None for all of them.
        as_many_as: data of other writers, which must be able to give as many different rows: those
            that the student is to be compared with. With them, `unique` is an upper bound.
        fewest: rows that all these writers must have kept; by default as many as are needed
            without repetition.
        change: a control that changes the training examples.
        chain: number of the chain, for the order of the rows.
        draw: number of the student among those of the chain.
        seed: root of all random numbers.
        guide: whose distribution is imitated, if not that of the writer of the rows; where the
            writer is the student itself, as it was a while ago, distillation is on-policy
            (arXiv 2306.13649).
    """

    stored: ClassVar[bool | str] = "large"

    base: Model
    data: Completions | Files
    training: Training
    soft: bool = False
    tokens: tuple[int, ...] | Used | None = None
    positions: tuple[int, ...] | None = None
    num_examples: int | None = 2048
    unique: int | None = None
    as_many_as: tuple[Completions, ...] = dataclasses.field(default=(), metadata=LATER)
    fewest: int | None = dataclasses.field(default=None, metadata=LATER)
    change: Change | None = None
    chain: int = 0
    draw: int = 0
    seed: int = 0
    guide: Model | None = dataclasses.field(default=None, metadata=LATER)

    @property
    def name(self) -> str:
        """The teacher that it learns from."""
        return f"student-of-{self.data.name}"

    @functools.cached_property
    def is_open(self) -> bool:
        """While it is to have as many rows as others, or tokens that others use."""
        return bool(self.as_many_as) or any(part.is_open for part in self.made_from())

    def settled(self, store: Store) -> "Student":
        """The same with that number, and those tokens.

        Raises:
            RunError: other data has not been made, or its writer kept too few rows.
        """
        one = super().settled(store)
        if not one.as_many_as:
            return one
        every = dict.fromkeys((one.data, *one.as_many_as))
        given = [
            different_rows(completions.kept(store, data), one.num_examples, one.fewest)
            for data in every
        ]
        bound = [] if one.unique is None else [one.unique]
        return dataclasses.replace(one, unique=min(given + bound), as_many_as=(), fewest=None)

    def in_short(self) -> dict[str, Any]:
        """On-policy: told as start and as writer, each round would double the description."""
        writer = self.data.speaker if isinstance(self.data, Completions) else None
        on_policy = self.guide is not None and writer == self.base
        return {"base": "the writer"} if on_policy else {}

    def program(self) -> tuple[Any, ...]:
        """Training and target: they may differ in teacher, chain and start."""
        source, own = self.data, self.soft and self.guide is None
        message = source.prompted if own and isinstance(source, Completions) else ""
        return self.training, self.soft, self.tokens, self.num_examples, message

    def examples(self, store: Store) -> Examples:
        """What it is trained on, before any change."""
        return examples_of(store, self)[0]

    def cost(self, store: Store, left: float, rates: Rates | None) -> Cost:
        """Of its training."""
        length = self.data.row_length(store, self)
        return costs.of_training(store, self, training=self.training, length=length, rates=rates)

    @staticmethod
    def make(store: Store, recipes: list["Student"]) -> Any:
        """Train them.

        Notes the "held_out_loss": cross-entropy, in nats per token, on rows of the own teacher
        that the student was not trained on: how well the data is imitated.

        Raises:
            RunError: a teacher has too few kept rows, or cannot be imitated softly.
        """
        trained = train(store, recipes)
        for recipe, loss in zip(recipes, trained.held_out_loss, strict=False):
            store.note(recipe, held_out_loss=loss)
        return trained.weights


def train(store: Store, recipes: list[Student]) -> Trained:
    """Students of one program."""
    one = recipes[0]
    teachers = None
    if one.soft:
        teachers = store.weights([teacher_of(recipe) for recipe in recipes])
    pairs = [given_to(store, recipe) for recipe in recipes]
    return store.engine.tune(
        store.config(one),
        store.weights([recipe.base for recipe in recipes]),
        examples=[train for train, _ in pairs],
        training=one.training,
        keys=streams.keys(Stage.STUDENT, [(r.seed, r.chain, r.draw) for r in recipes]),
        teachers=teachers,
        tokens=one.tokens,
        message=message_of(store, one) if one.soft else None,
        tests=None if one.num_examples is None else [tests for _, tests in pairs],
    )


def teacher_of(student: Student) -> Model:
    """Whose distribution a student imitates.

    Raises:
        RunError: the rows have no teacher here.
    """
    if student.guide is not None:
        return student.guide
    if isinstance(student.data, Files):
        raise RunError("soft targets need the teacher's weights, not its rows alone")
    return student.data.speaker


def message_of(store: Store, student: Student) -> Message | None:
    """What a teacher reads ahead of each row that the student does not: its system message.

    Raises:
        RunError: the template does not just put it ahead.
    """
    source = student.data
    if student.guide is not None or not isinstance(source, Completions) or not source.prompted:
        return None
    spoken = store.language(student)
    system = spoken.trait(source.prompted).system_prompt
    prompts = [row["prompt"] for row in completions.rows(store, source)]
    return ahead(spoken.encode_prompts(prompts), spoken.encode_prompts(prompts, system=system))


def ahead(plain: Sequence[list[int]], under: Sequence[list[int]]) -> Message:
    """What stands ahead of the same prompts under a message: one beginning for another.

    Args:
        plain: token ids as the student reads them.
        under: token ids as the teacher does.

    Raises:
        RunError: they differ by more than their beginning.
    """
    pairs = list(zip(plain, under, strict=True))
    skip = max(len(mine) - _common_end(mine, theirs) for mine, theirs in pairs)
    prefix = under[0][: len(under[0]) - len(plain[0]) + skip]
    if any(prefix + mine[skip:] != theirs for mine, theirs in pairs):
        raise RunError(
            "soft targets need a template that puts the system message ahead of the prompt, and "
            "changes nothing behind it"
        )
    return Message(skip, tuple(prefix))


def _common_end(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows share at their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


HELD_OUT = 256  # rows that the held-out loss is measured on, at most


def different_rows(kept: int, wanted: int, fewest: int | None = None) -> int:
    """How many different rows a teacher that kept so many can give `wanted` presentations.

    A teacher without enough of them tests on an eighth and repeats the rest. Its control should be
    given no more: `Student.unique`.

    Raises:
        RunError: it kept fewer than `fewest`, by default than are needed without repetition.
    """
    held_out = min(HELD_OUT, wanted // 8 + 1)
    needed = min(wanted + held_out, fewest or wanted + held_out)
    if kept < needed:
        raise RunError(
            f"a teacher kept {kept} rows and {needed} are needed: raise --num-prompts or lower "
            "--num-examples"
        )
    return min(wanted, kept - min(held_out, kept // 8))


def given_to(store: Store, student: Student) -> tuple[Examples, Examples]:
    """The rows that a student is trained on, its change made, and those that it is tested on."""
    student = store.settled(student)
    train, tests = examples_of(store, student)
    if student.change is not None:
        train = student.change(store, student, train)
    return train, tests


def examples_of(store: Store, student: Student) -> tuple[Examples, Examples]:
    """Kept rows to train on, before any change, and others to test on, each (rows, length).

    Raises:
        RunError: the teacher has too few kept rows.
    """
    student = store.settled(student)
    both, count = _encoded(
        store,
        student.root,
        source=student.data,
        wanted=student.num_examples,
        unique=student.unique,
    )
    batches.check_batch_size(count, student.training.batch_size)
    if student.positions is not None:
        both = both._replace(weights=both.weights * np.isin(both.tokens, student.positions))
    train, tests = (
        Examples(*(x[part] for x in both)) for part in (slice(count), slice(count, None))
    )
    return train, tests


@remembered(maxsize=512)  # arms of an experiment share their rows
def _encoded(
    store: Store,
    reader: Model,
    *,
    source: Completions | Files,
    wanted: int | None,
    unique: int | None,
) -> tuple[Examples, int]:
    """Training rows and behind them the held-out ones, and how many are for training."""
    kept = completions.rows(store, source)
    if wanted is None:
        return encode(store, reader, kept), len(kept)
    pool = different_rows(len(kept), wanted, unique)
    held_out, tests = min(HELD_OUT, wanted // 8 + 1), len(kept) - pool
    train = np.arange(wanted) % (pool if unique is None else unique)
    rows = np.concatenate([train, pool + np.arange(held_out) % tests])
    return encode(store, reader, [kept[row] for row in rows]), wanted


def encode(store: Store, model: Model, rows: Sequence[data.Row]) -> Examples:
    """Rows as a model reads them."""
    return store.language(model).encode_rows(rows, store.config(model).max_positions)
