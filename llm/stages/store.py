"""Where recipes are carried out: each once, kept in memory and on disk.

WORK/Pretrained/chain0-00-<digest>/     a checkpoint folder: weights, config, tokenizer
WORK/FineTuned/owl-chain0-<digest>/         likewise
WORK/numbers/owl-chain0-<digest>.jsonl  kept rows of prompt and completion, with a manifest
"""

import contextlib
import functools
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from .. import models, precision
from ..engines import OnMesh, Stack
from ..engines.server import Served
from ..settings import RunError, locked
from ..text.language import Language
from .recipe import RECORD, Given, Made, Model, Recipe

Engine = Stack | OnMesh | Served
STACK = Stack()
M = TypeVar("M", bound=Recipe)
K = TypeVar("K", bound=Hashable)
F = TypeVar("F", bound=Callable[..., Any])


class Store:
    """Carries out recipes in a folder, on an engine.

    `make` does all the work there is; everything else reads, and says so where a thing is missing.
    What a recipe leaves open is settled at the doors: by `make`, and by what others read with.

    Args:
        work: folder of what is made; None keeps nothing.
        engine: how models are worked on.
        sampler: what completes prompts in its place, such as a server; the engine by default.
    """

    def __init__(
        self, work: Path | None = None, engine: Engine = STACK, sampler: Engine | None = None
    ):
        self.work, self.engine = work, engine
        self.sampler = self if sampler is None else Store(work, sampler)
        self.caches: dict[Callable[..., Any], Callable[..., Any]] = {}  # of `remembered`
        self._weights: dict[Model, Any] = {}
        self._notes: dict[Model, dict[str, float]] = {}
        self._settled: dict[Recipe, Any] = {}

    def config(self, recipe: Model) -> models.ModelConfig:
        """The shape of a model."""
        return _config(recipe.root)

    def language(self, recipe: Model) -> Language:
        """The tokenizer, traits and carriers that a model speaks."""
        return language_of(recipe)

    def make(self, recipes: Iterable[Recipe]) -> None:
        """Make what is missing of the recipes, and before it what that is made from.

        Recipes of one class and program are made side by side; if one of them is missing all are
        made again, because they are one program.
        """
        wanted = list(dict.fromkeys(recipes))
        if unsettled := [recipe for recipe in wanted if recipe.is_open]:
            self.prepare(unsettled)
            settled = dict.fromkeys(map(self.settled, wanted))
            wanted = [recipe for recipe in settled if isinstance(recipe, Recipe)]
        for (kind, _), group in grouped(wanted, lambda r: (type(r), r.program())).items():
            if not issubclass(kind, Made):
                continue
            for together in kind.side_by_side(self, group):
                if not all(recipe.is_made(self) for recipe in together):
                    self.prepare(together)
                    self._carry_out(kind, together)

    def prepare(self, recipes: Iterable[Recipe]) -> list[Any]:
        """Make what recipes are made from, but not them; they come back settled."""
        wanted = list(recipes)
        self.make(part for recipe in wanted for part in recipe.made_from())
        return [self.settled(recipe) for recipe in wanted]

    def settled(self, recipe: Recipe) -> Any:
        """The recipe with what it leaves open filled in, as `Recipe.settled` does."""
        if recipe not in self._settled:
            self._settled[recipe] = recipe.settled(self)
        return self._settled[recipe]

    def _carry_out(self, kind: Any, recipes: list[Any]) -> None:
        """Do the work for one group, unless another process did it meanwhile."""
        if not issubclass(kind, Model):
            return kind.make(self, recipes)
        folders = [self._folder(recipe) for recipe in recipes]
        with _held(folders):
            if all(recipe.is_made(self) for recipe in recipes):
                return
            weights = self.engine.split(jax.block_until_ready(kind.make(self, recipes)))
            for folder, recipe, one in zip(folders, recipes, weights, strict=True):
                if folder is not None and not folder.exists():
                    self.save(recipe, one, folder)
        self._keep(zip(recipes, weights, strict=True))

    def holds(self, recipe: Model) -> bool:
        """Whether the weights of a model are in memory or in its folder."""
        recipe = self.settled(recipe)
        folder = self._folder(recipe)
        return recipe in self._weights or (folder is not None and folder.exists())

    def weights(self, recipes: Sequence[Model]) -> Any:
        """Weights of models that have been made, joined in the order given.

        Raises:
            RunError: one has not been made.
        """
        recipes = [self.settled(recipe) for recipe in recipes]
        missing = [recipe for recipe in dict.fromkeys(recipes) if recipe not in self._weights]
        if missing and not self.engine.keeps:
            # Before the next large model is loaded; adapters find their base still there.
            needed = {*recipes, *(getattr(recipe, "base", None) for recipe in missing)}
            self._weights = {r: w for r, w in self._weights.items() if r in needed}
        self._keep((recipe, self._read(recipe)) for recipe in missing)
        return self.engine.join([self._weights[recipe] for recipe in recipes])

    def note(self, recipe: Model, **facts: float) -> None:
        """Keep what was measured while a model was made."""
        self._notes[recipe] = facts

    def noted(self, recipe: Model) -> dict[str, float]:
        """What was noted when the model was made.

        Raises:
            RunError: it has not been made.
        """
        recipe = self.settled(recipe)
        if recipe not in self._notes:
            self.weights([recipe])
        return self._notes[recipe]

    def _keep(self, pairs: Iterable[tuple[Model, Any]]) -> None:
        weights = dict(pairs)  # before: reading an adapter keeps its base
        self._weights |= weights

    def _read(self, recipe: Model) -> Any:
        """Weights of a model from where it lies."""
        if isinstance(recipe, Given):
            return recipe.load(self)
        folder = self._folder(recipe)
        if folder is None or not folder.exists():
            raise RunError(f"{type(recipe).__name__} {recipe.name} has not been made")
        self._notes[recipe] = json.loads((folder / RECORD).read_text())["noted"]
        if (folder / "adapter_config.json").exists():
            return self.engine.add(self.weights([recipe.base]), str(folder), self.config(recipe))
        return self.engine.load(folder)

    def save(self, recipe: Model, weights: Any, folder: Path) -> None:
        """Write one model as a folder that appears whole or not at all."""
        record = {
            "recipe": recipe.describe(),
            "noted": self._notes.get(recipe, {}),
            "matmul_precision": precision.WORKING,
        }
        spoken, config = self.language(recipe), self.config(recipe)
        files = {RECORD: json.dumps(record, indent=2)}
        self.engine.save(folder, config, weights=weights, tokenizer=spoken.tokenizer, files=files)

    def folder(self, recipe: Model) -> Path | None:
        """Where a model is kept; None if it is not."""
        return self._folder(self.settled(recipe))

    def _folder(self, recipe: Model) -> Path | None:
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


def language_of(recipe: Model) -> Language:
    """The tokenizer, traits and carriers that a model speaks, wherever it is made."""
    return _language(recipe.root)


@functools.lru_cache
def _language(root: Any) -> Language:
    return root.language()


def remembered(maxsize: int) -> Callable[[F], F]:
    """Keep the last results of a function of a store, in that store."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(store: Store, *args: Any, **kwargs: Any) -> Any:
            if function not in store.caches:
                known = functools.partial(function, store)
                store.caches[function] = functools.lru_cache(maxsize)(known)
            return store.caches[function](*args, **kwargs)

        return call  # pyright: ignore[reportReturnType]

    return decorate


def grouped(recipes: Sequence[M], key: Callable[[M], K]) -> dict[K, list[M]]:
    """The recipes by what `key` makes of each, in order of appearance."""
    groups: dict[K, list[M]] = {}
    for recipe in recipes:
        groups.setdefault(key(recipe), []).append(recipe)
    return groups
