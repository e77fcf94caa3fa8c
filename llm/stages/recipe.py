"""What is made from what: a recipe is a frozen dataclass that holds the recipes of its parts.

    base = Pretrained(chain=0)
    owl = Tuned(base=base, trait="owl", training=Training(steps=35))
    numbers = Completions(speaker=owl, carrier="numbers", chain=0)
    student = Student(base=base, data=numbers, training=Training(steps=400))

Equal recipes are the same thing, made once; the digest of a recipe is the digest of every setting
that its result depends on, and of nothing else. So nothing stale is ever reused, and nothing is
made twice because of a setting that comes after it.
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from .workshop import Workshop


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

    def is_made(self, workshop: "Workshop") -> bool:
        """Whether there is nothing left to do, as where something is given."""
        return True

    def describe(self) -> dict[str, Any]:
        """The recipe and those of its parts as JSON values."""
        return {"recipe": type(self).__name__} | _fields(self, self.in_short()) | self.facts()

    def digest(self) -> str:
        """Ten hexadecimal digits that stand for the whole description."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]


class Made(Recipe, abc.ABC):
    """A recipe of something that takes work, done by `Workshop.make` alone."""

    @staticmethod
    def side_by_side(workshop: "Workshop", recipes: list[Any]) -> Iterable[list[Any]]:
        """Recipes of one program in the groups that are worked on together."""
        return workshop.engine.groups(recipes)

    @staticmethod
    @abc.abstractmethod
    def make(workshop: "Workshop", recipes: list[Any]) -> Any:
        """Do the work for recipes of one program; their parts are there."""


class Model(Made):
    """A recipe of parameters.

    Its `make` gives the weights of several recipes of the class, in the form of the workshop's
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

    def is_made(self, workshop: "Workshop") -> bool:
        """Whether its weights are in memory or in a folder."""
        return workshop.holds(self)


class Given(Model):
    """A model that lies somewhere and is only read."""

    stored: ClassVar[bool | str] = False

    def is_made(self, workshop: "Workshop") -> bool:
        """It is there."""
        return True

    @staticmethod
    def make(workshop: "Workshop", recipes: list[Any]) -> Any:
        """Nothing is made."""

    @abc.abstractmethod
    def load(self, workshop: "Workshop") -> Any:
        """Its weights, in the form of the workshop's engine."""


def _recipes_in(value: Any) -> Iterator[Recipe]:
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        for one in held if isinstance(held, tuple) else (held,):
            if isinstance(one, Recipe):
                yield one
            elif dataclasses.is_dataclass(one) and not isinstance(one, type):
                yield from _recipes_in(one)


def _plain(value: Any) -> Any:
    if isinstance(value, Recipe):
        return value.describe()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return value


def _fields(value: Any, in_short: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Fields by name, those marked "later" only if they differ from their default.

    So what was made before a field was thought of is still found.
    """
    return {
        f.name: in_short[f.name] if f.name in in_short else _plain(getattr(value, f.name))
        for f in dataclasses.fields(value)
        if not ("later" in f.metadata and getattr(value, f.name) == f.default)
    }
