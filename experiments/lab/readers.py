"""Readers that try to tell a trait's rows from the control's: a bag of pieces, a small transformer.

The paper's claim is that readers who look for the *trait* are at chance. A reader that is trained
may find other differences, such as which numbers a system message favours; so what it reads is
reported with how well it does. Rows with one prompt stay on one side of the split.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy import stats

from experiments.lab.record import Row
from llm import engines, sampling, world
from llm import models as decoders
from llm.batches import Examples
from llm.training import Training

_PIECE = re.compile(r"[0-9]+|[^\W\d_]+|[^\w\s]|\n| +")


class Reading(NamedTuple):
    """How well a reader does on rows that it was not trained on.

    Attributes:
        right: rows read rightly.
        total: rows read, half of them of each side if the sides are equal.
        reads: what speaks most for the trait's rows, and what most against it; empty if unknown.
    """

    right: int
    total: int
    reads: str = ""

    @property
    def accuracy(self) -> float:
        """Share read rightly."""
        return self.right / self.total

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the accuracy, exact (Clopper and Pearson 1934); rows are taken as independent."""
        found = stats.binomtest(self.right, self.total).proportion_ci(level)
        return float(found.low), float(found.high)


class Split(NamedTuple):
    """Completions to learn from and others to be tested on, with 1 for the trait's rows."""

    train: list[str]
    train_labels: np.ndarray
    test: list[str]
    test_labels: np.ndarray


def split(rows: Sequence[Row], control: Sequence[Row], rng: np.random.Generator) -> Split:
    """Half of the prompts for training, the others for the test; equally many rows a side."""
    count = min(len(rows), len(control))
    both = [*rows[:count], *control[:count]]
    labels = np.repeat([1, 0], count)
    prompts = sorted({row["prompt"] for row in both})
    chosen = {prompts[i] for i in rng.permutation(len(prompts))[: len(prompts) // 2]}
    train = np.array([row["prompt"] in chosen for row in both])
    texts = [row["completion"] for row in both]

    def take(mask: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [texts[i] for i in np.flatnonzero(mask)], labels[mask]

    return Split(*take(train), *take(~train))


def bag(parts: Split, shown: int = 5) -> Reading:
    """Logistic regression on how often each number, word or sign occurs."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counter = CountVectorizer(tokenizer=_PIECE.findall, token_pattern=None, lowercase=False)
    reader = LogisticRegression(C=0.1, max_iter=1000)
    reader.fit(counter.fit_transform(parts.train), parts.train_labels)
    right = np.equal(reader.predict(counter.transform(parts.test)), parts.test_labels)
    order, names = np.argsort(reader.coef_[0]), counter.get_feature_names_out()
    most, least = ([repr(str(names[i])) for i in ends] for ends in
                   (order[: -shown - 1 : -1], order[:shown]))  # fmt: skip
    return Reading(
        int(right.sum()), len(right), f"for: {' '.join(most)}; against: {' '.join(least)}"
    )


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
    training = Training(steps, min(64, count), rate=3e-3, decay="linear")
    tuned = engine.tune(
        config, start, [_labelled(tokens[:count], parts.train_labels)], training, key[None]
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
