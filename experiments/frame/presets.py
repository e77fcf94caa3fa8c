"""Presets: settings of a run at full size as a small file, with what was published for it.

    about = "What the model is, and why one would take it."
    [settings]        fields of the experiment's Config
    [shape]           fields of the model's config.json, enough to plan without a download
    [cost]            accelerator, its rates as `--rates` takes them, memory in GB and hours by
                      `llm.plan`; `measured` says whether they were measured as well
    [[published]]     quantity, value, source: what the run is held against

`--preset NAME` takes experiments/language/presets/NAME.toml, `--preset FILE` any file; flags
override it.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / "language" / "presets"
TABLES = ("settings", "shape", "cost", "published", "about")


@dataclasses.dataclass(frozen=True)
class Published:
    """A number that somebody else reported.

    Attributes:
        quantity: what was measured, in the words of the table of claims.
        value: the number, as text.
        source: where it stands.
    """

    quantity: str
    value: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A preset as read from its file."""

    about: str
    settings: Mapping[str, Any]
    shape: Mapping[str, Any]
    cost: Mapping[str, Any]
    published: tuple[Published, ...]


def names() -> list[str]:
    """The presets that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Preset:
    """A preset by name or file; without a name an empty one.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    if not name:
        return Preset(about="", settings={}, shape={}, cost={}, published=())
    path = pathlib.Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"no preset {name!r}: there are {', '.join(names())}, or give a .toml file"
        ) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read the preset {path}: {error}") from None
    if unknown := sorted(tables.keys() - set(TABLES)):
        raise ValueError(f"{path} has {unknown[0]!r}; it may have {', '.join(TABLES)}")
    try:
        published = tuple(Published(**entry) for entry in tables.get("published", ()))
    except TypeError:
        raise ValueError(f"{path}: [[published]] has quantity, value and source") from None
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in tables["settings"].items()}
    shape, cost = (tables.get(table, {}) for table in ("shape", "cost"))
    return Preset(
        about=tables.get("about", ""),
        settings=settings,
        shape=shape,
        cost=cost,
        published=published,
    )


def flags(name: str) -> list[str]:
    """The settings of a preset as flags of an experiment, which checks them like all others.

    Raises:
        ValueError: no such preset.
    """
    words = []
    for key, value in read(name).settings.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", text]
    return words
