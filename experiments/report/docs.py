"""README.md and docs/*.md from their templates and the checked-in tables: `make docs`.

docs/templates/NAME.jinja becomes NAME: README.md in the root, all others in docs/. What a template
may say is told in `experiments/report/told.py`; its prose is wrapped anew, its links are those of
the page. docs/templates/failed.toml says of failed claims what a person knows.
"""

import pathlib
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from experiments.frame import cli, presets, record
from experiments.report import told, wrapping

TEMPLATES = told.ROOT / "docs" / "templates"
ENDING = ".jinja"
NOTES = TEMPLATES / "failed.toml"
LAST = "what-stands.md"  # says which pages quote a claim, so all others come first
FILTERS = (
    told.interval,
    told.number,
    told.least,
    told.bounded,
    told.negated,
    told.signed,
    told.factor,
    told.heard,
    told.bare,
    told.fixed,
    told.percent,
    told.thousands,
    told.cell,
)
Quoted = Mapping[tuple[str, str], Sequence[str]]  # run and quantity -> pages


class Note(NamedTuple):
    """What a person wrote of the failed claims of one experiment.

    Attributes:
        asked: claim, by the beginning of its quantity -> what it asked, in words.
        why: what the failures mean, with expressions like a template; may be empty.
    """

    asked: Mapping[str, str]
    why: str = ""


def page_of(template: str) -> str:
    """Where the page of a template lies, from the root."""
    name = template.removesuffix(ENDING)
    return name if name == "README.md" else f"docs/{name}"


def templates() -> list[str]:
    """Names of all templates, in the order in which they are rendered."""
    names = sorted(path.name for path in TEMPLATES.glob(f"*.md{ENDING}"))
    return sorted(names, key=lambda name: name == LAST + ENDING)


def notes() -> dict[str, Note]:
    """Experiment -> notes of docs/templates/failed.toml.

    Raises:
        ValueError: if it is not such a file.
    """
    try:
        return {name: Note(**table) for name, table in tomllib.loads(NOTES.read_text()).items()}
    except (TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{NOTES.name} has [experiment] with asked and why: {error}") from None


def asked(run: told.Run, known: Mapping[str, Note]) -> dict[str, str]:
    """Quantity of a failed claim -> what it asked.

    Raises:
        Untold: if a note is of a claim that holds, or of none.
    """
    failed = [claim.quantity for claim in run.failed]
    note = known.get(run.name, Note({}))
    if note.why and not failed:
        raise told.Untold(f"{NOTES.name} says why claims of {run.name} fail, but none does")
    where = f"{NOTES.name}, {run.name}: of its failed claims, the run"
    return {told.named(name, failed, where): words for name, words in note.asked.items()}


def link(page: str) -> str:
    """A link to a page, as seen from docs/."""
    path = pathlib.PurePosixPath(page)
    return f"[{path.stem}]({'../' * (path.parent.name != 'docs')}{path.name})"


def environment(results: pathlib.Path, runs: dict[str, told.Run], quoted: Quoted) -> Any:
    """The vocabulary of one page.

    Args:
        results: folder of the runs.
        runs: name -> the runs that the page asks for, which grows as it asks.
        quoted: which pages quote a claim, for the page that says so.
    """

    def run(name: str) -> told.Run:
        if not (results / name).is_dir():
            raise told.Untold(f"no run of {name!r} is checked in")
        return runs.setdefault(name, told.Run(results / name))

    every = [told.Run(results / name) for name in told.CHECKED_IN if (results / name).is_dir()]
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {filter.__name__: filter for filter in FILTERS}
    made.filters["link"] = link
    made.filters["fill"] = lambda text: made.from_string(text).render()
    made.globals |= {
        "run": run,
        "runs": every,
        "judged": [claim for one in every for claim in one.judged],
        "failed": [claim for one in every for claim in one.failed],
        "stands": told.stands,
        "falls": told.falls,
        "given": told.given,
        "constant": told.constant,
        "measured": told.measured,
        "preset": presets.read,
        "presets": presets.names(),
        "notes": notes(),
        "asked": asked,
        "quoted": quoted,
    }
    return made


def render(
    template: str, results: pathlib.Path = told.RESULTS, quoted: Quoted | None = None
) -> tuple[str, set[tuple[str, str]]]:
    """The page of a template, and the run and quantity of each claim that it quotes.

    Args:
        template: its name.
        results: folder of the runs.
        quoted: which pages quote a claim, for the page that says so.

    Raises:
        ValueError: in one line, where the template asks for what the tables do not say.
    """
    runs: dict[str, told.Run] = {}
    try:
        text = environment(results, runs, quoted or {}).get_template(template).render()
    except (ValueError, TypeError, KeyError, jinja2.TemplateError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename.endswith(ENDING)]
        line = getattr(error, "lineno", None) or (lines or ["?"])[-1]
        raise ValueError(f"docs/templates/{template}, line {line}: {error}") from error
    made_by = f"\n<!-- Made by `make docs` from docs/templates/{template}: edit that. -->\n"
    return wrapping.wrapped(text + made_by), {
        (name, q) for name, run in runs.items() for q in run.quoted
    }


def rendered(results: pathlib.Path = told.RESULTS) -> dict[str, str]:
    """Every page by its path from the root.

    Raises:
        ValueError: as `render`.
    """
    pages: dict[str, str] = {}
    quoted: dict[tuple[str, str], list[str]] = {}
    for template in templates():
        page = page_of(template)
        pages[page], claims = render(template, results, quoted)
        for claim in claims:
            quoted.setdefault(claim, []).append(page)
    return pages


def main(argv: Sequence[str]) -> None:
    """Write the pages that the tables or templates have changed; none if one cannot be rendered."""
    cli.Parser(
        prog="python -m experiments docs", description=(__doc__ or "").splitlines()[0]
    ).parse_args(argv)
    try:
        for page, text in rendered().items():
            path = told.ROOT / page
            if not path.exists() or path.read_text() != text:
                record.write_atomically(path, text)
                print(f"written: {page}")
    except (ValueError, OSError) as error:
        cli.fail("docs", str(error))
