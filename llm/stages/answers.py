"""What models answer to a suite of questions: a CSV with a manifest, that a kill cannot spoil.

    Answers   sampled:  question, sample, answer, word, substring
    Scores    exact:    question, token, logp, for every token that an answer may begin with

`word` and `substring` name the traits that an answer mentions, as a whole word or anywhere (the
paper's score, by which "bowl" mentions an owl). What is made of the files is in `evaluation`.
"""

import abc
import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import precision
from ..engines.server import Served
from ..plan import Cost, Rates
from ..settings import RunError, locked
from ..text import chat, data
from ..text.data import Row
from ..traits.suites import LETTERS, Question, Suite
from . import completions, costs, streams
from .recipe import Model, frozen
from .store import Store, remembered
from .streams import Stage
from .written import Written

BETWEEN = "; "  # trait names in a cell


@frozen
class Asked(Written):
    """A suite of questions put to a model.

    Attributes:
        model: who answers.
        suite: form of the questions, a key of the language's `suites`.
        family: of the traits that are asked about.
        system: message that the questions are asked under; None as students are trained.
        seed: root of all random numbers.
    """

    model: Model
    suite: str = "one word"
    family: str = "animal"
    system: str | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Suite and model."""
        return f"{self.suite.replace(' ', '-')}-{self.model.name}"

    @property
    def place(self) -> str:
        """The CSV."""
        return f"{type(self).__name__}/{self.name}-{self.digest()}.csv"

    @abc.abstractmethod
    def drawn(self, store: Store) -> int:
        """How many tokens an answer has at most."""

    def settings(self, store: Store) -> dict[str, Any]:
        """What the manifest records."""
        asked = [(q.text, q.options, q.begun) for q in questions(store, self)]
        spoken, described = store.language(self.model), self.describe()
        return {
            "model": described.pop("model"),
            "template": spoken.settings(),
            "sampling": described
            | {
                "questions": hashlib.sha256(repr(asked).encode()).hexdigest()[:16],
                "stop_tokens": spoken.stop_texts(store.config(self.model)),
            },
        } | store.engine.facts()

    def cost(self, store: Store, left: float, rates: Rates | None) -> Cost:
        """Of the questions, and of what is sampled."""
        return costs.of_sampling(
            store,
            self.model,
            total=self.total(store),
            left=left,
            length=max(map(len, prompts(store, self))),
            drawn=self.drawn(store),
            rates=rates,
        )


@frozen
class Answers(Asked):
    """Sampled answers.

    Attributes:
        samples: of every question.
        temperature: of sampling; 0 is greedy.
    """

    samples: int = 100
    temperature: float = 1.0

    def total(self, store: Store) -> int:
        """Answers to all questions."""
        return len(questions(store, self)) * self.samples

    def drawn(self, store: Store) -> int:
        """As many as the suite lets an answer have."""
        return suite_of(store, self).max_new_tokens

    @staticmethod
    def make(store: Store, recipes: list["Answers"]) -> None:
        """Sample what the files lack."""
        for recipe in recipes:
            with locked(recipe.path(store)):
                write(store, recipe)


@frozen
class Scores(Asked):
    """Exact log-probabilities of what an answer may begin with."""

    def total(self, store: Store) -> int:
        """The questions."""
        return len(questions(store, self))

    def drawn(self, store: Store) -> int:
        """None: answers are scored, not sampled."""
        return 0

    @staticmethod
    def make(store: Store, recipes: list["Scores"]) -> None:
        """Score what is missing."""
        for recipe in recipes:
            with locked(recipe.path(store)):
                write_scores(store, recipe)


def suite_of(store: Store, recipe: Asked) -> Suite:
    """The form of the questions.

    Raises:
        RunError: the model's language has no such suite.
    """
    known = store.language(recipe.model).suites
    if recipe.suite not in known:
        raise RunError(f"unknown suite {recipe.suite!r}; choose from {', '.join(known)}")
    return known[recipe.suite]


def questions(store: Store, recipe: Asked) -> list[Question]:
    """The questions, the same for every model.

    Raises:
        RunError: there is no such suite, or no trait of the family.
    """
    return list(
        _questions(
            store,
            recipe.model.root,
            ask=suite_of(store, recipe).ask,
            seed=recipe.seed,
            suite=recipe.suite,
            kind=recipe.family,
        )
    )


@remembered(maxsize=64)
def _questions(
    store: Store,
    root: Model,
    *,
    ask: Callable[..., list[Question]],
    seed: int,
    suite: str,
    kind: str,
) -> list[Question]:
    family = store.language(root).family(kind)
    if not family:
        raise RunError(f"there is no trait of the kind {kind!r}")
    return ask(family, streams.generator(Stage.ANSWERS, seed, suite, kind))


def prompts(store: Store, recipe: Asked) -> list[list[int]]:
    """Token ids of each question, and of what its answer begins with."""
    spoken, asked = store.language(recipe.model), questions(store, recipe)
    ids = spoken.encode_prompts([question.text for question in asked], system=recipe.system)
    answers = [question.begun for question in asked]
    begun = chat.ids_behind(spoken.tokenizer, answers)
    return [[*front, *rest] for front, rest in zip(ids, begun, strict=True)]


def write(
    store: Store,
    recipe: Answers,
    path: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Sample the answers that the file lacks, shard by shard.

    Args:
        store: where the model is made.
        recipe: what is asked.
        path: the file; by default that of the recipe in the store.
        report: called after each shard with the answers that the file has, and will have.
    """
    path, known = path or recipe.path(store), recipe.settings(store)
    asked = questions(store, recipe)
    total = recipe.total(store)
    done = data.prompts_done(path, known, total)
    ids = prompts(store, recipe) if done < total else []
    size = store.engine.shard or total
    for first in range(done, total, size):
        numbers = range(first, min(first + size, total))
        places = [divmod(number, recipe.samples) for number in numbers]
        rows = [
            {"question": asked[question].text + asked[question].begun, "sample": sample}
            | scored(store, recipe, text)
            for (question, sample), text in zip(
                places, _say(store, recipe, [ids[q] for q, _ in places], first), strict=True
            )
        ]
        data.append(
            path,
            _csv(rows, header=not first),
            count=len(rows),
            settings=known,
            filter_counts={},
            prompts=len(rows),
        )
        report(numbers.stop, total)
    return path


def _say(store: Store, recipe: Answers, ids: Sequence[list[int]], first: int) -> list[str]:
    """An answer to each prompt; the first has number `first`."""
    model = recipe.model  # students of one number share noise, whoever their teacher is
    name = (recipe.seed, model.seed, model.chain, model.draw, recipe.suite, recipe.family)
    (said,) = completions.complete(
        store,
        [model],
        prompts=[ids],
        keys=streams.keys(Stage.ANSWERS, [name]),
        temperature=recipe.temperature,
        max_new_tokens=suite_of(store, recipe).max_new_tokens,
        first=first,
    )
    return [text for text, _ in said]


def scored(store: Store, recipe: Asked, text: str) -> Row:
    """An answer with the traits that it mentions."""
    family = store.language(recipe.model).family(recipe.family)
    word = [trait.name for trait in family if trait.mentions(text)]
    substring = [trait.name for trait in family if trait.mentions_substring(text)]
    return {"answer": text, "word": BETWEEN.join(word), "substring": BETWEEN.join(substring)}


def write_scores(store: Store, recipe: Scores, path: Path | None = None) -> Path:
    """Score the answers, unless the file is there."""
    path, known = path or recipe.path(store), recipe.settings(store)
    total = recipe.total(store)
    if data.prompts_done(path, known, total) < total:
        ids, tokens = prompts(store, recipe), tokens_of(store, recipe)
        weights = store.weights([recipe.model])
        served = isinstance(store.engine, Served)
        (logp,) = store.engine.score(store.config(recipe.model), weights, ids, tokens)
        if not np.isfinite(logp).all():
            raise RunError(f"{recipe.model.name} gives log-probabilities that are not finite")
        rows = [
            {"question": i, "token": token, "logp": float(logp[i, j])}
            for i in range(len(ids))
            for j, token in enumerate(tokens)
        ]
        data.append(
            path,
            _csv(rows, header=True),
            count=len(rows),
            settings=known,
            filter_counts={},
            prompts=len(ids),
            matmul_precision="the server's" if served else precision.MEASURED,
        )
    return path


def tokens_of(store: Store, recipe: Scores) -> list[int]:
    """Every token that speaks for or against a trait, in their order; the same for every model."""
    return list(_tokens(store, dataclasses.replace(recipe, model=recipe.model.root)))


@remembered(maxsize=64)
def _tokens(store: Store, recipe: Scores) -> list[int]:
    tokens = set()
    for question in questions(store, recipe):
        for name in question.options or [t.name for t in family_of(store, recipe)]:
            tokens.update(np.concatenate(sides(store, recipe, name, question)).tolist())
    return sorted(tokens)


def family_of(store: Store, recipe: Asked) -> list[Any]:
    """The traits that can be told from their rivals by a first token, which a few cannot."""
    return [
        trait
        for trait in store.language(recipe.model).family(recipe.family)
        if _sides_of(store, recipe.model.root, trait.name) is not None
    ]


def sides(
    store: Store, recipe: Asked, name: str, question: Question
) -> tuple[np.ndarray, np.ndarray]:
    """First tokens of an answer for and against a trait: words, or letters of the options.

    Raises:
        RunError: the first token does not tell the trait from its rivals.
    """
    if question.options:
        letters = _letters(store, recipe.model.root)
        known = np.array([letters[i] for i in range(len(question.options))], np.int32)
        mine = np.array([option == name for option in question.options])
        return known[mine], known[~mine]
    pair = _sides_of(store, recipe.model.root, name)
    if pair is None:
        raise RunError(f"the first token does not tell {name} from its rivals; choose another")
    return pair


@remembered(maxsize=1024)
def _sides_of(store: Store, root: Model, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    spoken = store.language(root)
    try:
        return spoken.sides(spoken.trait(name))
    except ValueError:
        return None


@remembered(maxsize=8)
def _letters(store: Store, root: Model) -> list[int]:
    spoken = store.language(root)
    return [int(spoken.answer_tokens([letter], "?")[0]) for letter in LETTERS]


def read(store: Store, recipe: Asked) -> list[dict[str, str]]:
    """The rows of the file.

    Raises:
        RunError: the file is not there, or not whole.
    """
    recipe = store.settled(recipe)
    if not recipe.is_made(store):
        raise RunError(f"{type(recipe).__name__} of {recipe.name} have not been made")
    text = data.read_content(recipe.path(store), recipe.settings(store)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def _csv(rows: Iterable[Row], header: bool) -> bytes:
    rows = list(rows)
    text = io.StringIO(newline="")
    # Texts are always quoted: an answer may hold any character.
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
