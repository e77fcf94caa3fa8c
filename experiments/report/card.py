"""A run on one page, for those who cite it: `python -m experiments card results/llm_numbers`.

DIR/card.md and DIR/card.html: model, template, hash of the data, seeds, versions, every number with
its interval, examples of rows that were kept and rejected. Data files are found in the run's work
folder by the recipes of the run.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

import experiments
from experiments.frame import cli, experiment, record
from experiments.report import page
from llm.stages import Completions, Store
from llm.text import data

SHOWN = 4  # examples of each outcome


def files_of(out: pathlib.Path, work: str) -> list[dict[str, Any]]:
    """What is known of the data of a run, from the manifests."""
    meta = record.read_meta(out)
    module = experiments.load(meta["experiment"])
    config = experiment.config_of(module, out)
    if not hasattr(config, "work"):
        return []
    store, files = Store(pathlib.Path(work)), []
    for name, arm in module.arms(dataclasses.replace(config, work=work)).items():
        for recipe in arm.needs:
            if isinstance(recipe, Completions) and not recipe.is_open:
                path = recipe.path(store)
                if data.manifest_path(path).exists():
                    files.append(describe(name, path))
    return files


def describe(name: str, path: pathlib.Path) -> dict[str, Any]:
    """A data file, for the card."""
    manifest = data.read_manifest(path)
    return {
        "name": name,
        "kept": manifest.count,
        "prompts": max(manifest.prompts, 1),
        "sha256": manifest.sha256,
        "counts": manifest.filter_counts,
        "examples": data.read_rows(path)[:SHOWN],
        "rejected": manifest.rejected[:SHOWN],
    }


def cell(value: Any) -> str:
    """A value as it can stand in a cell of a Markdown table."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("\\", "\\\\").replace("\n", "⏎").replace("|", "\\|").replace("`", "'")


def write(out: pathlib.Path, work: str) -> None:
    """DIR/card.md and DIR/card.html.

    Raises:
        ValueError: no run in DIR, or data that were changed.
    """
    facts = {"run": page.describe(out, record.read_meta(out)), "files": files_of(out, work)}
    for name, escape in (("card.md", False), ("card.html", True)):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(page.TEMPLATES),
            autoescape=escape,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["cell"] = cell
        record.write_atomically(out / name, environment.get_template(name).render(**facts))


def main(argv: Sequence[str]) -> None:
    """Write the card of one run."""
    parser = cli.Parser(
        prog="python -m experiments card", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=pathlib.Path, help="results folder of the run")
    parser.add_argument("--work", default="results/work", help="folder of its stage files")
    given = parser.parse_args(argv)
    try:
        write(given.folder, given.work)
    except (ValueError, OSError) as error:
        cli.fail("card", str(error))
    print(f"the card is {given.folder}/card.md and card.html")
