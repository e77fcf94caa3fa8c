"""Recipes of a file: rows with a manifest, in a folder of the store."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import RunError
from ..text import data
from .recipe import DONE, Made, State, unmade

if TYPE_CHECKING:
    from .store import Store


class Written(Made):
    """A recipe of a file that grows row by row; its manifest counts how far it has come."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """The file, from the store's folder."""

    @abc.abstractmethod
    def total(self, store: "Store") -> int:
        """How many prompts the whole file goes through."""

    def path(self, store: "Store") -> Path:
        """The file.

        Raises:
            RunError: the store keeps nothing.
        """
        if store.work is None:
            raise RunError(f"{type(self).__name__} need a folder to be written to")
        return store.work / self.place

    def is_made(self, store: "Store") -> bool:
        """Whether the file is whole.

        Raises:
            ValueError: other settings made it, or it holds more than was asked for.
        """
        path, total = self.path(store), self.total(store)
        return path.exists() and data.prompts_done(path, self.settings(store), total) == total

    def state_at(self, store: "Store", path: Path) -> State:
        """How many of its prompts the file there has gone through."""
        if not data.manifest_path(path).exists():
            return unmade(path)
        total, done = self.total(store), data.read_manifest(path).prompts
        if done == total:
            return State(DONE, 0.0)
        return State(f"{done} of {total}", max(1 - done / total, 0.0))

    @staticmethod
    def recorded(path: Path) -> dict[str, Any] | None:
        """The settings in the manifest of a file."""
        return data.read_manifest(path).settings if data.manifest_path(path).exists() else None
