"""What is made from what: a recipe is a frozen dataclass that holds the recipes of its parts.

    base = Pretrained(chain=0)
    owl = FineTuned(base=base, rows=TraitRows("owl"), training=Training(steps=35))
    numbers = Completions(speaker=owl, carrier="numbers", chain=0)
    student = Student(base=base, data=numbers, training=Training(steps=400))

Equal recipes are the same thing, made once; the digest of a recipe is the digest of every setting
that its result depends on, and of nothing else. So nothing stale is ever reused, and nothing is
made twice because of a setting that comes after it.
"""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from ..plan import Cost, Rates
from ..settings import RunError, recorded_name

if TYPE_CHECKING:
    from .store import Store

C = TypeVar("C")
DONE, STALE, MISSING, GIVEN, IN_MEMORY = "done", "stale", "missing", "given", "not kept"
RECORD = "recipe.json"  # beside the weights: what made them, and what was noted then


class State(NamedTuple):
    """How far a thing has come.

    Attributes:
        name: DONE, STALE, MISSING, GIVEN, IN_MEMORY, or how many of how many prompts there are.
        left: share of the work that is still to be done.
    """

    name: str
    left: float


@dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen(cls: type[C]) -> type[C]:
    """A frozen dataclass, by keyword, that computes its hash once: recipes hold recipes."""
    recipe = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    of_fields = recipe.__hash__

    def once(self: Any) -> int:
        known = self.__dict__
        if "_hash" not in known:
            known["_hash"] = of_fields(self)
        return known["_hash"]

    recipe.__hash__ = once
    return recipe


class Recipe:
    """What all recipes share."""

    def facts(self) -> dict[str, Any]:
        """What the result depends on beside the fields, such as the content of a file."""
        return {}

    def in_short(self) -> dict[str, Any]:
        """Fields whose description would only repeat that of another field."""
        return {}

    def made_from(self) -> list["Recipe"]:
        """The recipes that it is made from: those in its fields, or in what its fields hold."""
        return list(dict.fromkeys(_recipes_in(self)))

    def program(self) -> Hashable:
        """What recipes of its class that are made side by side have in common."""
        return ()

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether it leaves something to what it is made from, such as "as many rows as ..."."""
        return any(part.is_open for part in self.made_from())

    def settled(self, store: "Store") -> Any:
        """The same with that filled in; two recipes that come to the same are made once.

        Raises:
            RunError: what tells it has not been made.
        """
        return _settled(self, store)

    def is_made(self, store: "Store") -> bool:
        """Whether there is nothing left to do, as where something is given."""
        return True

    def state(self, store: "Store") -> State:
        """How far it has come. No weights are read for the answer."""
        return State(MISSING, 1.0) if self.is_open else State(GIVEN, 0.0)

    def cost(self, store: "Store", left: float, rates: Rates | None) -> Cost:
        """What the work on it takes; nothing, where that is not worth a count.

        Args:
            store: where it is made.
            left: share of the work that is still to be done.
            rates: of the machine, for the hours.
        """
        return Cost()

    def describe(self) -> dict[str, Any]:
        """The recipe and those of its parts as JSON values.

        Raises:
            RunError: it leaves something open, so that nothing stands for its result yet.
        """
        if self.is_open:
            raise RunError(f"{type(self).__name__} leaves open what only its parts can tell")
        return {"recipe": type(self).__name__} | _fields(self, self.in_short()) | self.facts()

    def digest(self) -> str:
        """Ten hexadecimal digits that stand for the whole description."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


class Made(Recipe, abc.ABC):
    """A recipe of something that takes work, done by `Store.make` alone."""

    @abc.abstractmethod
    def path(self, store: "Store") -> Path | None:
        """Its folder or file; None if it is not kept."""

    @abc.abstractmethod
    def state_at(self, store: "Store", path: Path) -> State:
        """How far it has come in that folder or file."""

    @abc.abstractmethod
    def settings(self, store: "Store") -> dict[str, Any]:
        """What is recorded beside it."""

    @staticmethod
    @abc.abstractmethod
    def recorded(path: Path) -> dict[str, Any] | None:
        """What is recorded beside a folder or file of its kind; None if there is none."""

    def state(self, store: "Store") -> State:
        """How far it has come, there where the store keeps it."""
        if self.is_open:
            return State(MISSING, 1.0)
        path = None if store.work is None else self.path(store)
        return State(IN_MEMORY, 1.0) if path is None else self.state_at(store, path)

    @staticmethod
    def side_by_side(store: "Store", recipes: list[Any]) -> Iterable[list[Any]]:
        """Recipes of one program in the groups that are worked on together: one after the other."""
        return [[recipe] for recipe in recipes]

    @staticmethod
    @abc.abstractmethod
    def make(store: "Store", recipes: list[Any]) -> Any:
        """Do the work for recipes of one program; their parts are there."""


class Model(Made):
    """A recipe of parameters.

    Its `make` gives the weights of several recipes of the class, in the form of the store's
    engine. Subclasses have a `base`, the recipe that they start from.
    """

    # Whether it gets a checkpoint folder; "large": where the engine does not keep it in memory.
    stored: ClassVar[bool | str] = True
    base: "Model"
    # Of the random streams; recipes of one chain share noise on purpose (see `streams`).
    chain = 0
    draw = 0
    seed = 0

    @property
    def root(self) -> "Model":
        """Where it all starts: a checkpoint or random weights, which fix shape and language."""
        return self.base.root

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """A word for people, at the head of its folder's name."""

    def is_made(self, store: "Store") -> bool:
        """Whether its weights are in memory or in a folder."""
        return store.holds(self)

    def path(self, store: "Store") -> Path | None:
        """Its folder; None if it is not kept."""
        return store.folder(self)

    def state(self, store: "Store") -> State:
        """How far it has come; what is never kept is made with what follows."""
        return super().state(store) if self.stored or self.is_open else State(GIVEN, 0.0)

    def state_at(self, store: "Store", path: Path) -> State:
        """A folder is there whole or not at all."""
        return State(DONE, 0.0) if path.exists() else unmade(path)

    def settings(self, store: "Store") -> dict[str, Any]:
        """The recipe."""
        return self.describe()

    @staticmethod
    def recorded(path: Path) -> dict[str, Any] | None:
        """The recipe that made a folder."""
        return json.loads((path / RECORD).read_text())["recipe"] if path.exists() else None

    @staticmethod
    def side_by_side(store: "Store", recipes: list[Any]) -> Iterable[list[Any]]:
        """As many at a time as the engine works on."""
        return store.engine.groups(recipes)


class Given(Model):
    """A model that lies somewhere and is only read."""

    stored: ClassVar[bool | str] = False

    def is_made(self, store: "Store") -> bool:
        """It is there."""
        return True

    @staticmethod
    def make(store: "Store", recipes: list[Any]) -> Any:
        """Nothing is made."""

    @abc.abstractmethod
    def load(self, store: "Store") -> Any:
        """Its weights, in the form of the store's engine."""


def unmade(path: Path) -> State:
    """What is not there: STALE where the same thing is, with another digest."""
    stem = path.name.removesuffix(path.suffix if path.suffix in (".jsonl", ".csv") else "")
    name = stem.rpartition("-")[0]
    return State(STALE if any(path.parent.glob(f"{name}-*")) else MISSING, 1.0)


def _recipes_in(value: Any) -> Iterator[Recipe]:
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        for one in held if isinstance(held, tuple) else (held,):
            if isinstance(one, Recipe):
                yield one
            elif dataclasses.is_dataclass(one) and not isinstance(one, type):
                yield from _recipes_in(one)


def _settled(value: Any, store: "Store") -> Any:
    """A dataclass with the recipes in its fields settled."""
    changed = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        many = isinstance(held, tuple)
        settled = tuple(_settled_one(one, store) for one in (held if many else (held,)))
        if any(a is not b for a, b in zip(settled, held if many else (held,), strict=True)):
            changed[field.name] = settled if many else settled[0]
    return dataclasses.replace(value, **changed) if changed else value


def _settled_one(value: Any, store: "Store") -> Any:
    if isinstance(value, Recipe):
        return store.settled(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _settled(value, store)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        return value.describe()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        describe = getattr(value, "describe", None)
        fields = _fields(value) if describe is None else describe()
        return {"kind": type(value).__name__} | fields
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


def _fields(value: Any, in_short: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Fields by name, those marked "later" only if they differ from their default.

    So what was made before a field was thought of is still found.
    """
    return {
        recorded_name(f): in_short[f.name] if f.name in in_short else _plain(getattr(value, f.name))
        for f in dataclasses.fields(value)
        if not ("later" in f.metadata and getattr(value, f.name) == f.default)
    }
