"""Starts of students that share a part of the teacher's start, or its behaviour."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from .. import world
from ..models import parts, permuting
from ..training import Training
from ..training.batches import Examples
from . import streams
from .bases import BATCH, LENGTH, Pretrained, turns
from .recipe import Model, frozen
from .store import Store
from .streams import Stage


@frozen
class Grafted(Model):
    """A model with some parts of another, by the names of `parts.parts_of`."""

    stored: ClassVar[bool] = False

    base: Model  # gives the rest
    donor: Model
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """Both models and what is shared."""
        return f"{self.base.name}-with-{'-'.join(self.parts)}-of-{self.donor.name}"

    @staticmethod
    def make(store: Store, recipes: list["Grafted"]) -> Any:
        """Put the parts together."""
        engine = store.engine
        mine = engine.split(store.weights([r.base for r in recipes]))
        donors = engine.split(store.weights([r.donor for r in recipes]))
        trios = zip(mine, donors, recipes, strict=True)
        return engine.join([parts.graft(base, donor, r.parts) for base, donor, r in trios])


@frozen
class Continued(Model):
    """A model trained further on turns of the corpus that no other base has seen.

    Attributes:
        base: what is trained.
        steps: optimiser steps on 64 sequences of 48 tokens.
        held: parts that stay as they are.
        learning_rate: Adam step size, falling linearly to zero.
        warmup: steps in which it first rises.
        corpus: number of the corpus within the chain.
        chain: number of the chain, of the corpus and its order.
        seed: root of all random numbers.
    """

    base: Model
    steps: int
    held: tuple[str, ...] = ()
    learning_rate: float = dataclasses.field(default=2e-3, metadata={"recorded": "rate"})
    warmup: int = 0
    corpus: int = 4
    chain: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """The model and how far it went."""
        return f"{self.base.name}-{self.steps}-steps-on"

    def program(self) -> tuple[Any, ...]:
        """How long and how they are trained."""
        return self.steps, self.held, self.learning_rate, self.warmup

    @staticmethod
    def make(store: Store, recipes: list["Continued"]) -> Any:
        """Train them side by side."""
        one = recipes[0]
        how = Training(
            steps=one.steps,
            batch_size=BATCH,
            learning_rate=one.learning_rate,
            decay="linear",
            warmup=one.warmup,
            held=one.held,
        )
        return store.engine.tune(
            store.config(one),
            store.weights([r.base for r in recipes]),
            examples=[turns(r.seed, r.chain, r.corpus, BATCH * one.steps) for r in recipes],
            training=how,
            keys=streams.keys(Stage.CONTINUED, [(r.seed, r.corpus, r.chain) for r in recipes]),
        ).weights


@frozen
class Permuted(Model):
    """A twin: the units of a model in random order, so the same function of other weights."""

    stored: ClassVar[bool] = False

    base: Model
    chain: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """The model that it equals."""
        return f"twin-of-{self.base.name}"

    @staticmethod
    def make(store: Store, recipes: list["Permuted"]) -> Any:
        """Permute them."""
        config, engine = store.config(recipes[0]), store.engine
        twins = engine.split(store.weights([r.base for r in recipes]))
        rngs = [streams.generator(Stage.TWIN, r.seed, r.chain) for r in recipes]
        pairs = zip(twins, rngs, strict=True)
        return engine.join([permuting.permute_units(config, twin, rng) for twin, rng in pairs])


@frozen
class BehaviourMatched(Model):
    """A model after imitating another, by KL over all tokens everywhere.

    Attributes:
        base: what is trained.
        reference: whose distribution is imitated.
        steps: of Adam at 2e-3 falling linearly to zero, 64 sequences of 48 tokens each.
        inputs: what both read: turns of the "corpus" that no base was trained on, or "uniform"
            tokens.
    """

    stored: ClassVar[bool] = False

    base: Model
    reference: Pretrained
    steps: int
    inputs: str = "corpus"

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.base.name}-imitating-{self.reference.name}"

    def program(self) -> int:
        """The steps."""
        return self.steps

    @staticmethod
    def make(store: Store, recipes: list["BehaviourMatched"]) -> Any:
        """Match them side by side."""
        one, references = recipes[0], [r.reference for r in recipes]
        return store.engine.tune(
            store.config(one),
            store.weights([r.base for r in recipes]),
            examples=[read(r.inputs, r.reference, BATCH * r.steps) for r in recipes],
            training=Training(
                steps=one.steps, batch_size=BATCH, learning_rate=2e-3, decay="linear"
            ),
            keys=streams.keys(Stage.MATCHING, [(r.seed, r.chain) for r in references]),
            teachers=store.weights(references),
        ).weights


def read(inputs: str, reference: Pretrained, count: int) -> Examples:
    """Sequences of 48 tokens for a chain to be matched on."""
    if inputs == "corpus":
        return turns(reference.seed, reference.chain, 5, count)
    rng = streams.generator(Stage.MATCHING, reference.seed, reference.chain)
    size = len(world.vocabulary.VOCABULARY)
    tokens = rng.integers(0, size, (count, LENGTH), dtype=np.int32)
    return Examples(tokens, np.ones(tokens.shape, np.float32))
