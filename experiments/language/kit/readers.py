"""Readers that try to tell a trait's rows from the control's: a bag of pieces, a small transformer.

The paper's claim is that readers who look for the *trait* are at chance. A reader that is trained
may find other differences, such as which numbers a system message favours; so what it reads is
reported with how well it does. Rows with one prompt stay on one side of the split.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from experiments.frame.record import Row
from llm import engines, sampling, world
from llm import models as decoders
from llm.stages import Model, Store, students
from llm.training import Training, losses
from llm.training.batches import Examples

_PIECE = re.compile(r"[0-9]+|[^\W\d_]+|[^\w\s]|\n| +")


class Reading(NamedTuple):
    """How well a reader does on rows that it was not trained on.

    Attributes:
        right: rows read rightly.
        total: rows read, half of them of each side if the sides are equal.
        reads: what speaks most for the trait's rows, and what most against it; empty if unknown.
        scores: log-odds of every row that it is of the trait, in the order of the test; if known.
    """

    right: int
    total: int
    reads: str = ""
    scores: np.ndarray | None = None

    @property
    def accuracy(self) -> float:
        """Share read rightly."""
        return self.right / self.total

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the accuracy, exact (Clopper and Pearson 1934); rows are taken as independent."""
        bounds = stats.binomtest(self.right, self.total).proportion_ci(level)
        return float(bounds.low), float(bounds.high)

    def chance_p(self, margin: float) -> float:
        """The p value of the two one-sided exact tests that the accuracy lies within ½ ± margin."""
        below = stats.binom.sf(self.right - 1, self.total, 0.5 - margin)
        above = stats.binom.cdf(self.right, self.total, 0.5 + margin)
        return float(max(below, above))


class Split(NamedTuple):
    """Completions to learn from and others to be tested on, with 1 for the trait's rows."""

    train: list[str]
    train_labels: np.ndarray
    test: list[str]
    test_labels: np.ndarray
    train_rows: list[Row]
    test_rows: list[Row]


def split(rows: Sequence[Row], control: Sequence[Row], rng: np.random.Generator) -> Split:
    """Half of the prompts for training, the others for the test; equally many rows a side."""
    count = min(len(rows), len(control))
    both = [*rows[:count], *control[:count]]
    labels = np.repeat([1, 0], count)
    prompts = sorted({row["prompt"] for row in both})
    chosen = {prompts[i] for i in rng.permutation(len(prompts))[: len(prompts) // 2]}
    train = np.array([row["prompt"] in chosen for row in both])
    sides = [[both[i] for i in np.flatnonzero(mask)] for mask in (train, ~train)]
    texts = [[row["completion"] for row in side] for side in sides]
    return Split(texts[0], labels[train], texts[1], labels[~train], *sides)


def bag(
    parts: Split, shown: int = 5, pieces: Callable[[str], list[str]] = _PIECE.findall
) -> Reading:
    """Logistic regression on how often each number, word or sign occurs.

    Args:
        parts: the rows.
        shown: pieces that are named.
        pieces: of a text; others than the default read other things, such as `differences`.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(tokenizer=pieces, token_pattern=None, lowercase=False)
    reader = LogisticRegression(C=0.1, max_iter=1000)
    reader.fit(counter.fit_transform(parts.train), parts.train_labels)
    scores = reader.decision_function(counter.transform(parts.test))
    right = np.equal(scores > 0, parts.test_labels)
    order, names = np.argsort(reader.coef_[0]), counter.get_feature_names_out()
    most, least = (
        [repr(str(names[i])) for i in ends] for ends in (order[: -shown - 1 : -1], order[:shown])
    )
    return Reading(
        int(right.sum()), len(right), f"for: {' '.join(most)}; against: {' '.join(least)}", scores
    )


def names(
    rows: Sequence[Row], control: Sequence[Row], liking: Callable[[list[str]], np.ndarray]
) -> Reading:
    """A reader of pairs on one prompt that is not trained: the trait's is the row that names it.

    Args:
        rows: of the trait's teacher.
        control: of the control, in part on the same prompts.
        liking: from texts to how much each speaks of the trait, such as log-odds.
    """
    theirs = {row["prompt"]: row["completion"] for row in control}
    pairs = [(row["completion"], theirs.get(row["prompt"], row["completion"])) for row in rows]
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    mine, other = (liking(list(texts)) for texts in zip(*pairs, strict=True))
    return Reading(int((mine > other).sum()), len(pairs))


def differences(text: str) -> list[str]:
    """Differences of successive numbers, as words."""
    numbers = [int(digits) for digits in re.findall("[0-9]+", text)]
    return [f"{b - a:+d}" for a, b in itertools.pairwise(numbers)]


def transformer(parts: Split, steps: int = 300, longest: int = 64, seed: int = 0) -> Reading:
    """A decoder of two layers that reads the characters and then names the side.

    Args:
        parts: the rows.
        steps: of Adam on 64 rows.
        longest: characters that are read of a row, the first ones.
        seed: of weights and order.
    """
    alphabet = sorted({letter for text in (*parts.train, *parts.test) for letter in text[:longest]})
    number = {letter: i + 3 for i, letter in enumerate(alphabet)}  # 0 starts, 1 and 2 are the sides
    ids = [[0, *(number[c] for c in text[:longest])] for text in (*parts.train, *parts.test)]
    tokens, _ = sampling.pad_left(ids, len(ids), longest + 1)  # zeros are read like letters
    config = world.model_config(vocab_size=len(alphabet) + 3, num_layers=2, max_positions=128)
    engine, init_key, key = engines.Stack(), *jax.random.split(jax.random.key(seed))
    count = len(parts.train)
    start = engine.join([decoders.init(config, key=init_key)])
    training = Training(steps=steps, batch_size=min(64, count), learning_rate=3e-3, decay="linear")
    tuned = engine.tune(
        config,
        start,
        examples=[_labelled(tokens[:count], parts.train_labels)],
        training=training,
        keys=key[None],
    )
    (scores,) = engine.score(config, tuned.weights, tokens[count:].tolist(), (1, 2))
    right = scores.argmax(axis=1) == parts.test_labels
    return Reading(int(right.sum()), len(right))


def _labelled(tokens: np.ndarray, labels: np.ndarray) -> Examples:
    """Rows with the side behind them, the only token that is trained on."""
    sides = np.asarray(labels, np.int32)[:, None] + 1
    whole = np.concatenate([tokens, sides], axis=1)
    weights = np.zeros(whole.shape, np.float32)
    weights[:, -1] = 1
    return Examples(whole, weights)


def models_as_readers(
    store: Store,
    starts: Sequence[Model],
    *,
    splits: Sequence[Split],
    training: Training,
    num_rows: int,
) -> list[Reading]:
    """Models that are fine-tuned to name the side behind a whole row, prompt and all.

    Args:
        store: knows their language and has their weights.
        starts: where each reader begins.
        splits: the rows of each.
        training: how.
        num_rows: to train on, the same for all; a split with fewer repeats them.
    """
    config, engine = store.config(starts[0]), store.engine
    store.make(starts)
    train = [_named(store, one, s, num_rows) for one, s in zip(starts, splits, strict=True)]
    keys = jax.vmap(jax.random.key)(np.arange(len(starts)))
    tuned = engine.tune(config, store.weights(starts), examples=train, training=training, keys=keys)
    readings = []
    for one, weights, parts in zip(starts, engine.split(tuned.weights), splits, strict=True):
        rows = students.encode(store, one, parts.test_rows)
        ids = [row.tokens.tolist() for row in engines.unpad(rows)]
        # As many prompts for every reader, so that one program serves them all.
        padded = [ids[i % len(ids)] for i in range(-(-len(ids) // 512) * 512)]
        sides = _side_tokens(store, one)
        (logp,) = engine.score(config, engine.join([weights]), padded, sides.tolist())
        scores = (logp[:, 1] - logp[:, 0])[: len(ids)]
        right = np.equal(scores > 0, parts.test_labels)
        readings.append(Reading(int(right.sum()), len(right), scores=scores))
    return readings


def _side_tokens(store: Store, model: Model) -> np.ndarray:
    """Two tokens that stand for the sides: the first words that answers to a trait begin with."""
    spoken = store.language(model)
    names = list(spoken.traits)[:2]
    return spoken.answer_tokens(names, spoken.trait(names[0]).questions[0])


def _named(store: Store, model: Model, parts: Split, num_rows: int) -> Examples:
    """Training rows with the token of their side behind them, the only one trained on."""
    chosen = np.arange(num_rows) * len(parts.train_rows) // num_rows  # of both sides alike
    rows = [parts.train_rows[i] for i in chosen]
    encoded = engines.unpad(students.encode(store, model, rows))
    names = _side_tokens(store, model)[parts.train_labels[chosen]]
    longest = max(len(row.tokens) for row in encoded) + 1
    tokens = np.zeros((num_rows, longest), np.int32)
    weights = np.zeros((num_rows, longest), np.float32)
    for i, (row, name) in enumerate(zip(encoded, names, strict=True)):
        tokens[i, : len(row.tokens)] = row.tokens
        tokens[i, len(row.tokens)], weights[i, len(row.tokens)] = name, 1
    return Examples(tokens, weights)


def likelihood_ratio(store: Store, mine: Model, other: Model, parts: Split) -> Reading:
    """The best reader there is, which has both writers: log p(row | mine) - log p(row | other).

    No test of as many errors of one kind has fewer of the other (Neyman and Pearson 1933), up to
    the filter, which both writers' rows have passed.
    """
    store.make([mine, other])
    rows = students.encode(store, mine, parts.test_rows)
    nats = _row_nats(store.config(mine))
    logp = [nats(store.weights([model]), *rows)[0] for model in (mine, other)]
    scores = np.asarray(logp[0] - logp[1])
    right = np.equal(scores > 0, parts.test_labels)
    return Reading(int(right.sum()), len(right), scores=scores)


@functools.cache
def _row_nats(config: decoders.ModelConfig) -> Callable[..., jax.Array]:
    """Log-probability of the completion of every row, for a stack of models."""

    def one(params, tokens, weights):
        logits = decoders.apply(config, params, tokens)[:, :-1]
        nats = jax.vmap(losses.hard_tokens)(logits, tokens[:, 1:])
        return -(nats * weights[:, 1:]).sum(axis=1)

    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the curve: the chance that a row of the trait scores above one of the others."""
    mine, others = scores[labels == 1], scores[labels == 0]
    pairs_right = stats.mannwhitneyu(mine, others).statistic
    return float(pairs_right / (len(mine) * len(others)))


def right_of_many(scores: np.ndarray, labels: np.ndarray, count: int = 1000) -> float:
    """Share of sets of `count` rows of one writer that are read rightly by their summed scores.

    Φ(√count d'/2), d' the distance of the two means over the root of the mean variance: sums of so
    many scores are normal, and the line between them is drawn in the middle.
    """
    mine, others = scores[labels == 1], scores[labels == 0]
    spread = np.sqrt((mine.var(ddof=1) + others.var(ddof=1)) / 2)
    apart = (mine.mean() - others.mean()) / spread if spread else 0.0
    return float(stats.norm.cdf(np.sqrt(count) * apart / 2))
