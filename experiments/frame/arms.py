"""An arm: one resumable piece of a run, which says what it is called and what it stands on."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from experiments.frame.record import Row


class Maker(Protocol):
    """Makes recipes, each once, as `llm.stages.Store` does."""

    def make(self, recipes: Iterable[Any]) -> None:
        """Make what is missing of the recipes, and of what they are made from."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """A piece of an experiment that is run, stored and resumed as a whole.

    Attributes:
        measure: the arm's tidy rows; it is handed the rows of `reads`, if there are any.
        columns: that stand in every row.
        needs: recipes (`llm.stages`) that are made before it is measured.
        store: where they are made.
        reads: names of other arms whose rows `measure` is handed.
    """

    measure: Callable[..., list[Row]]
    columns: Row = dataclasses.field(default_factory=dict)
    needs: Iterable[Any] = ()
    store: Maker | None = None
    reads: tuple[str, ...] = ()

    def rows(self, name: str, known: Sequence[Row]) -> list[Row]:
        """The rows of the table, under the arm's name; what it needs is made first.

        Args:
            name: of the arm.
            known: rows of other arms, under theirs.
        """
        if self.store is not None:
            self.store.make(self.needs)
        read = [[row for row in known if row["part"] in self.reads]] if self.reads else []
        return [{"part": name, **self.columns, **row} for row in self.measure(*read)]
