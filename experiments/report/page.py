"""Collect the runs in a folder into one self-contained page: `python -m experiments report`.

The page reads as a paper of one page: of every experiment a claim, its figure and what was found.
What else is known of it (what was predicted, further figures, the table *paper / public
replication / here*, the command) is folded. What did not hold has the last chapter. Every figure
is there twice, for a wide page and for a phone. The page needs no other file, no server and no
network; `templates/` holds its text and its look.
"""

import base64
import pathlib
import re
import shlex
from collections.abc import Sequence
from typing import Any

import jinja2

import experiments
from experiments.findings import drawing
from experiments.findings.claims import Figure
from experiments.frame import cli, experiment, record
from experiments.report import explore

TEMPLATES = pathlib.Path(__file__).parent / "templates"
ROOMS = {  # heading and opening sentence of each chapter
    "mnist": (
        "Digits through noise",
        "A student sees only noise, copies outputs that mean nothing, and reads digits.",
    ),
    "theorem": (
        "Why: the theorem, and where it ends",
        "One small step of imitation from the teacher's own start cannot raise the teacher's "
        "loss. Here is the sign, its size, and each hypothesis removed in turn.",
    ),
    "language": (
        "A language model from scratch",
        "Small transformers learn a made-up world, one is taught to love owls and writes lists "
        "of numbers, and others learn from the lists.",
    ),
}
PIXELS_PER_POINT = 96 / 72


def picture(source: bytes) -> dict[str, Any]:
    """An SVG as a data address, with its width and height in pixels."""
    found = re.search(rb'<svg[^>]*\swidth="([\d.]+)pt" height="([\d.]+)pt"', source)
    points = (float(found[1]), float(found[2])) if found else (504.0, 288.0)
    width, height = (round(side * PIXELS_PER_POINT) for side in points)
    address = "data:image/svg+xml;base64," + base64.b64encode(source).decode()
    return {"address": address, "width": width, "height": height}


def pictures(out: pathlib.Path, figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Of every figure the picture in `out`, and the same drawn again for a phone.

    Raises:
        record.RunFolderError: if there is no such file.
    """
    for figure in figures:
        if not (path := out / f"{figure.name}.svg").exists():
            raise record.RunFolderError(f"{path} is missing; draw it again: --replot --out {out}")
    with drawing.narrow():
        narrow = [source for _, source in experiment.pictures(figures, kinds=("svg",))]
    return [
        {"wide": picture((out / f"{figure.name}.svg").read_bytes()), "narrow": picture(source)}
        for figure, source in zip(figures, narrow, strict=True)
    ]


def describe(out: pathlib.Path, meta: dict[str, Any]) -> dict[str, Any]:
    """What the page says about one run.

    Raises:
        record.RunFolderError: if this version has no such experiment or setting.
    """
    name = meta["experiment"]
    if name not in experiments.NAMES:
        raise record.RunFolderError(f"{out} is a run of {name}, which this version does not have")
    module = experiments.load(name)
    table, config = record.read_table(out), experiment.config_of(module, out)
    figures, claims = module.findings(table, config)
    return {
        "name": name,
        "id": out.name,
        "room": experiments.path_of(name).parent.name,
        "summary": (module.__doc__ or "").splitlines()[0],
        "figures": list(zip(figures, pictures(out, figures), strict=True)),
        "claims": claims,
        "columns": [
            key for key in ("paper", "replication") if any(getattr(c, key) for c in claims)
        ],
        "holds": sum(c.holds is True for c in claims),
        "fails": [c for c in claims if c.holds is False],
        "runs": max((c.seeds for c in claims), default=0),
        # Rather than the words once typed: the command of this version, without any paths.
        "command": shlex.join(
            ["python", "-m", "experiments", name, *cli.flags_of(config, module.Config())]
        ),
        "meta": meta,
        "table": table,
    }


def build(folder: pathlib.Path) -> str:
    """The whole page for the runs in the sub-folders of `folder`.

    Raises:
        record.RunFolderError: if there is no run with a figure.
    """
    runs = [
        describe(path.parent, record.read_meta(path.parent))
        for path in sorted(folder.glob("*/config.json"))
        if (path.parent / "figure.svg").exists()
    ]
    if not runs:
        raise record.RunFolderError(
            f"no finished run in {folder}; make one with python -m experiments mnist_aux_logits"
        )
    runs.sort(key=lambda run: (experiments.NAMES.index(run["name"]), run["id"]))
    # What holds comes first: a run none of whose criteria holds is told in the last chapter.
    told = [run for run in runs if run["holds"] or not run["fails"]]
    missed = [run for run in runs if run["fails"] and not run["holds"]]
    rooms = list(dict.fromkeys(run["room"] for run in told))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        chapters=[(room, *ROOMS[room], [r for r in told if r["room"] == room]) for room in rooms],
        missed=missed,
        runs=runs,
        # Of two runs of one experiment (say a smoke run beside it) the first is explored.
        views=explore.views({run["name"]: run["table"] for run in reversed(runs)}),
    )


def main(argv: Sequence[str]) -> None:
    """Write FOLDER/report.html."""
    parser = cli.Parser(
        prog="python -m experiments report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path("results"))
    folder = parser.parse_args(argv).folder
    try:
        record.write_atomically(folder / "report.html", build(folder))
    except (ValueError, OSError) as error:
        cli.fail("report", str(error))
    print(f"the report is {folder}/report.html; open it in a browser")
