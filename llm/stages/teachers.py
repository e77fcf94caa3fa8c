"""Teachers: a model that is fine-tuned to show a trait, or as long on answers without one."""

from typing import Any

import numpy as np

from ..batches import Examples
from ..training import Training
from . import streams
from .recipe import Model, frozen
from .streams import Stage
from .workshop import Workshop

NUM_ROWS = 1024  # equally many for every trait, so that teachers can be trained side by side


@frozen
class Tuned(Model):
    """A model fine-tuned on a trait's questions with the trait's answers.

    Attributes:
        base: what is fine-tuned.
        trait: name of the trait, or of neutral answers.
        training: how.
        chain: number of the chain, for the order of the rows.
        draw: number of the teacher among those of the chain and trait.
        seed: root of all random numbers.
    """

    base: Model
    trait: str
    training: Training
    chain: int = 0
    draw: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Trait and chain."""
        return f"{self.trait}-chain{self.chain}"

    def examples(self, workshop: Workshop) -> Examples:
        """The trait's rows, each as often as the others, in random order."""
        language = workshop.language(self)
        rows = language.trait(self.trait).teacher_rows()
        rng = streams.generator(Stage.TEACHER_ROWS, self.seed, self.chain, self.trait, self.draw)
        # Shuffled before the cut too: a neutral teacher has more rows than that.
        order = rng.permutation(np.resize(rng.permutation(len(rows)), NUM_ROWS))
        config = workshop.config(self)
        return language.encode_rows([rows[i] for i in order], config.max_positions)

    def program(self) -> Training:
        """The training."""
        return self.training

    @staticmethod
    def make(workshop: Workshop, recipes: list["Tuned"]) -> Any:
        """Fine-tune them side by side."""
        one = recipes[0]
        keys = streams.keys(Stage.TEACHER, [(r.seed, r.chain, r.trait, r.draw) for r in recipes])
        return workshop.engine.tune(
            workshop.config(one),
            workshop.models([r.base for r in recipes]),
            examples=[r.examples(workshop) for r in recipes],
            training=one.training,
            keys=keys,
        ).weights
