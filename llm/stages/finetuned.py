"""Teachers: a model that is fine-tuned to show a trait or skill, or as long on neutral answers."""

from typing import Any

from ..plan import Cost, Rates
from ..training import Training
from ..training.batches import Examples
from . import costs, streams
from .recipe import Model, frozen
from .rows import FileRows, Rows
from .store import Store
from .streams import Stage


@frozen
class FineTuned(Model):
    """A model fine-tuned on rows.

    Attributes:
        base: what is fine-tuned.
        rows: on what, such as `rows.TraitRows("owl")`.
        training: how.
        chain: number of the chain, for the order of the rows.
        draw: number of the teacher among those of the chain and rows.
        seed: root of all random numbers.
    """

    base: Model
    rows: Rows
    training: Training
    chain: int = 0
    draw: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Rows and chain."""
        return f"{self.rows.name}-chain{self.chain}"

    def examples(self, store: Store) -> Examples:
        """What it is trained on."""
        return self.rows.examples(store, self)

    def cost(self, store: Store, left: float, rates: Rates | None) -> Cost:
        """Of its training."""
        length = self.examples(store).tokens.shape[1]
        return costs.of_training(store, self, training=self.training, length=length, rates=rates)

    def program(self) -> tuple[Any, ...]:
        """The training, and the kind of rows; files differ in length, one from another."""
        kind = self.rows if isinstance(self.rows, FileRows) else type(self.rows)
        return self.training, kind

    @staticmethod
    def make(store: Store, recipes: list["FineTuned"]) -> Any:
        """Fine-tune them side by side."""
        one = recipes[0]
        keys = [(r.seed, r.chain, *r.rows.stream(r)) for r in recipes]
        return store.engine.tune(
            store.config(one),
            store.weights([r.base for r in recipes]),
            examples=[r.examples(store) for r in recipes],
            training=one.training,
            keys=streams.keys(Stage.TEACHER, keys),
        ).weights
