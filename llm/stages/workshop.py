"""Where recipes are carried out: each once, kept in memory and on disk.

WORK/Pretrained/chain0-00-<digest>/     a checkpoint folder: weights, config, tokenizer
WORK/Tuned/owl-chain0-<digest>/         likewise
WORK/numbers/owl-chain0-<digest>.jsonl  kept rows of prompt and completion, with a manifest
"""

import contextlib
import functools
import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from .. import models
from ..engines import OnMesh, Stack
from ..language import Language
from ..served import Served
from ..settings import locked
from .recipe import Model, Recipe

Engine = Stack | OnMesh | Served
STACK = Stack()
M = TypeVar("M", bound=Recipe)
RECORD = "recipe.json"  # beside the weights: what made them, and what was noted then


class Workshop:
    """Carries out recipes in a folder, on an engine.

    Args:
        work: folder of what is made; None keeps nothing.
        engine: how models are worked on.
        sampler: what completes prompts in its place, such as a server; the engine by default.
    """

    def __init__(
        self, work: Path | None = None, engine: Engine = STACK, sampler: Engine | None = None
    ):
        self.work, self.engine = work, engine
        self.sampler = self if sampler is None else Workshop(work, sampler)
        self._weights: dict[Model, Any] = {}
        self._notes: dict[Model, dict[str, float]] = {}

    def config(self, recipe: Model) -> models.ModelConfig:
        """The shape of a model."""
        return _config(recipe.root)

    def language(self, recipe: Model) -> Language:
        """The tokenizer, traits and carriers that a model speaks."""
        return _language(recipe.root)

    def models(self, recipes: Sequence[Model]) -> Any:
        """Weights of the models, joined in the order given; those that do not exist are made."""
        wanted = [recipe for recipe in dict.fromkeys(recipes) if recipe not in self._weights]
        if wanted and not self.engine.keeps:
            # Before the next large model is loaded; adapters find their base still there.
            needed = {getattr(recipe, "base", None) for recipe in wanted}
            self._weights = {r: w for r, w in self._weights.items() if r in needed}
        found = dict(self._weights)
        for kind, group in grouped(wanted, type).items():
            for together in self.engine.groups(group):
                found |= zip(together, self._carry_out(kind, together), strict=True)
        self._weights |= found
        return self.engine.join([found[recipe] for recipe in recipes])

    def note(self, recipe: Model, **facts: float) -> None:
        """Keep what was measured while a model was made."""
        self._notes[recipe] = facts

    def noted(self, recipe: Model) -> dict[str, float]:
        """What was noted when the model was made, which it is first if need be."""
        if recipe not in self._notes:
            self.models([recipe])
        return self._notes[recipe]

    def _carry_out(self, kind: Any, recipes: list[Any]) -> list[Any]:
        """Weights of recipes of one kind: from their folders, or made and stored."""
        folders = [self.folder(recipe) for recipe in recipes]
        if self._are_there(folders):
            return [self._load(*pair) for pair in zip(recipes, folders, strict=True)]
        with _held(folders):
            if self._are_there(folders):  # made by another process meanwhile
                return [self._load(*pair) for pair in zip(recipes, folders, strict=True)]
            # All are made again if one is missing: what runs side by side is one program.
            weights = self.engine.split(jax.block_until_ready(kind.make(self, recipes)))
            for folder, recipe, one in zip(folders, recipes, weights, strict=True):
                if folder is not None and not folder.exists():
                    self.save(recipe, one, folder)
        return weights

    @staticmethod
    def _are_there(folders: Sequence[Path | None]) -> bool:
        return all(folder is not None and folder.exists() for folder in folders)

    def _load(self, recipe: Model, folder: Path) -> Any:
        self._notes[recipe] = json.loads((folder / RECORD).read_text())["noted"]
        if (folder / "adapter_config.json").exists():
            return self.engine.add(self.models([recipe.base]), str(folder), self.config(recipe))
        return self.engine.load(folder)

    def save(self, recipe: Model, weights: Any, folder: Path) -> None:
        """Write one model as a folder that appears whole or not at all."""
        record = {"recipe": recipe.describe(), "noted": self._notes.get(recipe, {})}
        spoken, config = self.language(recipe), self.config(recipe)
        files = {RECORD: json.dumps(record, indent=2)}
        self.engine.save(folder, config, weights=weights, tokenizer=spoken.tokenizer, files=files)

    def folder(self, recipe: Model) -> Path | None:
        """Where a model is kept; None if it is not."""
        if self.work is None or not recipe.stored:
            return None
        if recipe.stored == "large" and self.engine.keeps:
            return None
        return self.work / type(recipe).__name__ / f"{recipe.name}-{recipe.digest()}"


def _held(folders: Sequence[Path | None]) -> contextlib.AbstractContextManager[None]:
    """The lock of what is made; the processes of one run make it together."""
    if jax.process_count() > 1:
        return contextlib.nullcontext()
    return locked(*(folder for folder in folders if folder is not None))


@functools.lru_cache
def _config(root: Any) -> models.ModelConfig:
    return root.config()


@functools.lru_cache
def _language(root: Any) -> Language:
    return root.language()


def grouped(recipes: Sequence[M], key: Callable[[M], Hashable]) -> dict[Hashable, list[M]]:
    """The recipes by what `key` makes of each, in order of appearance."""
    groups: dict[Hashable, list[M]] = {}
    for recipe in recipes:
        groups.setdefault(key(recipe), []).append(recipe)
    return groups
