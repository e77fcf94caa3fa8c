"""Teachers with a skill of the synthetic world: a function of two numbers that no base knows."""

from typing import Any

from .. import world
from ..batches import Examples
from ..training import Training
from . import streams
from .recipe import Model, frozen
from .streams import Stage
from .workshop import Workshop

NUM_ROWS = 1024


@frozen
class Skilled(Model):
    """A model fine-tuned on the answers of its chain's function.

    Attributes:
        base: what is fine-tuned.
        training: how.
        chain: number of the chain, for the function and the order of the rows.
        seed: root of all random numbers.
    """

    base: Model
    training: Training
    chain: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """The chain."""
        return f"skilled-chain{self.chain}"

    def skill(self) -> world.skills.Skill:
        """The function."""
        return world.skills.draw(streams.generator(Stage.SKILL, self.seed, self.chain))

    def examples(self) -> Examples:
        """Questions with their answers."""
        rng = streams.generator(Stage.TEACHER_ROWS, self.seed, self.chain, "skill")
        return Examples(*world.skills.lessons(rng, self.skill(), NUM_ROWS))

    def program(self) -> Training:
        """The training."""
        return self.training

    @staticmethod
    def make(workshop: Workshop, recipes: list["Skilled"]) -> Any:
        """Fine-tune them side by side."""
        one = recipes[0]
        return workshop.engine.tune(
            workshop.config(one),
            workshop.models([r.base for r in recipes]),
            examples=[r.examples() for r in recipes],
            training=one.training,
            keys=streams.keys(Stage.TEACHER, [(r.seed, r.chain, "skill") for r in recipes]),
        ).weights
