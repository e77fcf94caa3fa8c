"""Starts of students that share a part of the teacher's start, or its behaviour."""

import dataclasses
from typing import Any, ClassVar

from .. import matching
from ..training import Training
from . import streams
from .bases import BATCH, Pretrained, turns
from .recipe import Model
from .streams import Stage
from .workshop import Workshop


@dataclasses.dataclass(frozen=True)
class Grafted(Model):
    """The body of one model under the (tied) embeddings of another."""

    stored: ClassVar[bool] = False

    base: Model  # gives the body
    embeddings: Model

    @property
    def name(self) -> str:
        """Both parts."""
        return f"{self.base.name}-under-{self.embeddings.name}"

    @staticmethod
    def make(workshop: Workshop, recipes: list["Grafted"]) -> Any:
        """Put the parts together."""
        bodies = workshop.models([r.base for r in recipes])
        other = workshop.models([r.embeddings for r in recipes])
        return bodies | {"embedding": other["embedding"]}


@dataclasses.dataclass(frozen=True)
class UnitsMatched(Model):
    """A model whose units are permuted to lie closest to those of another: the same function.

    Gradient descent and Adam are equivariant under permutations of units, and imitation only sees
    outputs: students of this start equal those of `base` up to round-off.
    """

    stored: ClassVar[bool] = False

    base: Model
    reference: Model

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.base.name}-matched-to-{self.reference.name}"

    @staticmethod
    def make(workshop: Workshop, recipes: list["UnitsMatched"]) -> Any:
        """Permute them."""
        config, engine = workshop.config(recipes[0]), workshop.engine
        pairs = zip(
            engine.split(workshop.models([r.reference for r in recipes])),
            engine.split(workshop.models([r.base for r in recipes])),
            strict=True,
        )
        return engine.join([matching.match_units(config, *pair) for pair in pairs])


@dataclasses.dataclass(frozen=True)
class BehaviourMatched(Model):
    """A model after imitating another on turns of the corpus, by KL over all tokens everywhere.

    Attributes:
        base: what is trained.
        reference: whose distribution is imitated.
        steps: of Adam at 2e-3 falling linearly to zero, 64 sequences of 48 tokens each.
    """

    stored: ClassVar[bool] = False

    base: Pretrained
    reference: Pretrained
    steps: int = 400

    @property
    def name(self) -> str:
        """Both models."""
        return f"{self.base.name}-imitating-{self.reference.name}"

    @staticmethod
    def make(workshop: Workshop, recipes: list["BehaviourMatched"]) -> Any:
        """Match them."""
        one = recipes[0]
        references = [r.reference for r in recipes]
        # A corpus that no base was trained on.
        examples = [turns(r.seed, r.chain, 5, BATCH * one.steps) for r in references]
        return workshop.engine.tune(
            workshop.config(one),
            workshop.models([r.base for r in recipes]),
            examples,
            Training(one.steps, BATCH, rate=2e-3, decay="linear"),
            streams.keys(Stage.MATCHING, [(r.seed, r.chain) for r in references]),
            teachers=workshop.models(references),
        ).weights
