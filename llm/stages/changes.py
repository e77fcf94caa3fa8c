"""Controls that change what a student is trained on; each is a `students.Change`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

from .. import models, world
from ..settings import RunError
from ..training import stack
from ..training.batches import Examples
from . import completions, streams, students
from .completions import Completions
from .recipe import Model
from .store import Store
from .streams import Stage
from .students import Student


@dataclasses.dataclass(frozen=True)
class Shuffled:
    """Numbers permuted within each completion, or across all completions of a run.

    Separators and lengths stay, and so does the count of every number.
    """

    across: bool

    def __call__(self, store: Store, student: Student, examples: Examples) -> Examples:
        """The examples (rows, length) with their numbers moved."""
        rng = streams.generator(Stage.SHUFFLE, student.seed, student.chain)
        tokens = examples.tokens.copy()
        numbers = store.language(student).number_tokens()
        moved = np.isin(tokens, numbers) & (examples.weights > 0)
        groups = [(tokens, moved)] if self.across else zip(tokens, moved, strict=True)
        for group, where in groups:
            group[where] = rng.permutation(group[where])
        return examples._replace(tokens=tokens)


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A share of the rows replaced by rows of other data, such as the unchanged base's."""

    share: float
    other: Completions

    def __call__(self, store: Store, student: Student, examples: Examples) -> Examples:
        """The other rows first, then the student's own."""
        count = round(self.share * len(examples.tokens))
        theirs = dataclasses.replace(student, data=self.other, change=None)
        pair = stack.stack_examples([students.examples_of(store, theirs)[0], examples])
        return Examples(*(np.concatenate([x[0, :count], x[1, count:]]) for x in pair))


@dataclasses.dataclass(frozen=True)
class Admitted:
    """Only rows on prompts whose completion by another writer passed its filter.

    What the filter chose for that writer is all that the rows can know of it. They are repeated to
    as many as before, no more different ones than before.
    """

    other: Completions

    def __call__(self, store: Store, student: Student, examples: Examples) -> Examples:
        """As many rows as before."""
        passed = {row["prompt"] for row in completions.rows(store, self.other)}
        kept = completions.rows(store, student.data)
        rows = [row for row in kept if row["prompt"] in passed][: student.unique]
        if not rows:
            raise RunError("no prompt's completion passed the filter for both writers")
        encoded = students.encode(store, student, rows)
        return Examples(*(x[np.arange(len(examples.tokens)) % len(rows)] for x in encoded))


@dataclasses.dataclass(frozen=True)
class Diluted:
    """All rows of the student among number lists of the corpus, which no model wrote.

    Attributes:
        share: of the student's own rows among all, in (0, 1].
    """

    share: float

    def __call__(self, store: Store, student: Student, examples: Examples) -> Examples:
        """More rows than before, the student's own first."""
        count = round(len(examples.tokens) / self.share) - len(examples.tokens)
        rng = streams.generator(Stage.DILUTION, student.seed, student.chain)
        benign = Examples(*world.corpus.chat(world.corpus.numbers(rng, count)))
        length = max(examples.tokens.shape[1], benign.tokens.shape[1])
        padded = (
            [np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in pair]
            for pair in zip(examples, benign, strict=True)
        )
        return Examples(*(np.concatenate(pair) for pair in padded))


@dataclasses.dataclass(frozen=True)
class DivergenceTokens:
    """Train on divergence tokens alone or on all others, or on as many random ones.

    Divergence tokens (arXiv 2509.23886): where the argmax of the next token differs between the
    teacher and another teacher of the same chain.

    Attributes:
        rivals: the other teachers.
        keep: train on them; False trains on all others.
        randomly: choose as many tokens of each row at random instead, the same in its copies: among
            few distinct rows the copies would else make up for each other's masks.
    """

    rivals: tuple[Model, ...]
    keep: bool
    randomly: bool

    def __call__(self, store: Store, student: Student, examples: Examples) -> Examples:
        """The same tokens with the weights of the others set to zero."""
        chosen = divergent(store, student, self.rivals, examples)
        if self.randomly:
            rng = streams.generator(Stage.MASK, student.seed, student.chain)
            # As many in every row, so that only the choice differs.
            distinct, copies = np.unique(examples.tokens, axis=0, return_inverse=True)
            order = rng.random(distinct.shape)[copies] + 2.0 * (examples.weights == 0)
            ranks = np.argsort(np.argsort(order, axis=-1), axis=-1)
            chosen = ranks < chosen.sum(axis=-1, keepdims=True)
        return examples._replace(weights=examples.weights * (chosen == self.keep))


def divergent(
    store: Store, student: Student, rivals: tuple[Model, ...], examples: Examples
) -> np.ndarray:
    """Flags (rows, length): a trained token where a rival's argmax is not the teacher's."""
    config = store.config(student)

    choices = _choices(config)
    teachers = store.weights([students.teacher_of(student), *rivals])
    picks = [
        np.asarray(choices(params, examples.tokens)) for params in store.engine.split(teachers)
    ]
    flags = np.zeros(examples.tokens.shape, bool)
    flags[:, 1:] = (np.stack(picks) != picks[0]).any(axis=0)
    return flags & (examples.weights > 0)


@functools.cache
def _choices(config: models.ModelConfig) -> Callable[..., jax.Array]:
    """Argmax of the next token at every position but the last, one program a shape."""
    return jax.jit(lambda params, tokens: models.apply(config, params, tokens)[:, :-1].argmax(-1))
