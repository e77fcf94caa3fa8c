"""Flags from a frozen dataclass: one `option` per field, one line per error."""

import argparse
import dataclasses
import pathlib
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from experiments.frame import presets
from llm.flags import Number, Parser, shown


def option(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
    recorded: bool = True,
) -> Any:
    """A dataclass field that is also a flag.

    Args:
        default: value of the reported run.
        help: what it is, with its unit.
        minimum: smallest allowed value (of each entry, for tuples).
        above: what the value must exceed.
        maximum: largest allowed value.
        choices: allowed words.
        recorded: whether results depend on it; if not, a stored run with another value is the
            same run.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum}
    facts = {"help": help, "bounds": bounds, "choices": choices, "recorded": recorded}
    return dataclasses.field(default=default, metadata=facts)


def _element_type(annotation: Any) -> tuple[type, bool]:
    """The scalar type of a field, and whether the field is a tuple of it."""
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    if isinstance(annotation, types.UnionType):  # `Path | None`
        return next(t for t in typing.get_args(annotation) if t is not type(None)), False
    return annotation, False


def _allowed(field: dataclasses.Field, kind: type, many: bool) -> str:
    """Which values a field takes, in words."""
    if field.metadata["choices"]:
        text = "one of " + ", ".join(field.metadata["choices"])
    elif kind in (int, float):
        text = str(Number(kind, **field.metadata["bounds"]))
    else:
        text = {str: "a text"}.get(kind, "a path")
    return f"comma-separated values, each {text}" if many else text


def _reader(field: dataclasses.Field, annotation: Any):
    """Text to value, with the allowed range in the error."""
    kind, many = _element_type(annotation)
    allowed, choices = _allowed(field, kind, many), field.metadata["choices"]
    read_one = Number(kind, **field.metadata["bounds"]) if kind in (int, float) else kind

    def read(text: str):
        values = [read_one(part) for part in (text.split(",") if many else [text])]
        if choices and not set(values) <= set(choices):
            raise argparse.ArgumentTypeError(f"got {shown(text)}, needs {allowed}")
        return tuple(values) if many else values[0]

    return read


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value) or "none"


def build_parser(name: str, summary: str, default: Any) -> Parser:
    """A parser with a flag for every field of the config and the flags all experiments share."""
    parser = Parser(
        prog=f"python -m experiments {name}",
        description=summary,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=80),
    )
    parser.add_argument("--smoke", action="store_true", help="a run of seconds at toy size")
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="DIR", help=f"results folder (default results/{name})"
    )
    parser.add_argument("--replot", action="store_true", help="draw again from results.csv only")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a run that has another config"
    )
    parser.add_argument("--list-jobs", action="store_true", help="a line for every part, and end")
    parser.add_argument("--only", metavar="JOB", help="run that part alone, by number or name")
    parser.add_argument(
        "--dry-run",
        "--plan",
        action="store_true",
        help="show what is done and what the rest costs, and end",
    )
    parser.add_argument(
        "--rates", metavar="X", help="FLOPs,bytes a second or a file of benchmarks.accelerator"
    )
    parser.add_argument(
        "--topology", metavar="T", help="ask the compiler of h200:8, v5e:4x4, ... (llm.ahead)"
    )
    hints = typing.get_type_hints(type(default))
    group = parser.add_argument_group("config")
    for field in dataclasses.fields(default):
        flag = "--" + field.name.replace("_", "-")
        kind, many = _element_type(hints[field.name])
        help_text = f"{field.metadata['help']} (default {_shown(getattr(default, field.name))}"
        if kind is bool:
            help_text += ")"
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
            continue
        limits = (field.metadata["choices"], *field.metadata["bounds"].values())
        limited = any(limit is not None for limit in limits)
        help_text += f"; {_allowed(field, kind, many)})" if limited else ")"
        reader = _reader(field, hints[field.name])
        group.add_argument(flag, type=reader, help=help_text.replace("%", "%%"), metavar="X")
    return parser


def flags_of(config: Any, default: Any) -> list[str]:
    """The flags that turn `default` into `config`, without those that change no result."""
    flags = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not field.metadata["recorded"] or value == getattr(default, field.name):
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [
                f"--{name}",
                ",".join(map(str, value)) if isinstance(value, tuple) else str(value),
            ]
    return flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A parsed command line: the experiment's config and what to do with it."""

    config: Any
    out: pathlib.Path
    replot: bool = False
    overwrite: bool = False
    list_jobs: bool = False
    only: str | None = None
    dry_run: bool = False
    rates: str | None = None
    topology: str | None = None


def preset_flags(parser: Parser, argv: Sequence[str]) -> list[str]:
    """The flags of the preset that a command line names; its own come behind and override them."""
    only = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    only.add_argument("--preset", default="")
    try:
        return presets.flags(only.parse_known_args(argv)[0].preset)
    except argparse.ArgumentError:
        return []  # a flag without its value, which the parser itself will name
    except ValueError as error:
        parser.error(str(error))


def parse(name: str, summary: str, *, default: Any, smoke: Any, argv: Sequence[str]) -> Command:
    """Read a command line; wrong values end the program with one line and exit code 2."""
    base = smoke if "--smoke" in argv else default
    parser = build_parser(name, summary, base)
    given = vars(parser.parse_args([*preset_flags(parser, argv), *argv]))
    is_smoke = given.pop("smoke", False)
    out = given.pop("out", pathlib.Path("results") / (f"{name}-smoke" if is_smoke else name))
    ways = {field.name for field in dataclasses.fields(Command)} & given.keys()
    todo = {way: given.pop(way) for way in ways}
    if not todo.get("dry_run"):
        for idle in ("rates", "topology"):
            if idle in todo:
                parser.error(f"--{idle} has no effect without --dry-run: leave it out")
    try:
        config = dataclasses.replace(base, **given)
    except ValueError as error:  # a config's own check across fields
        parser.error(str(error))
    return Command(config=config, out=out, **todo)


def fail(name: str, message: str) -> NoReturn:
    """End the program with one clear line and exit code 2."""
    print(
        f"python -m experiments {name}".rstrip() + f": {' '.join(message.split())}", file=sys.stderr
    )
    raise SystemExit(2)
