"""Collect the runs in a folder into one self-contained page: `python -m experiments report`.

Each run contributes its figure, its table *paper / public replication / here* with the interval
and the number of seeds, and the command that made it. The page needs no other file.
"""

import base64
import html
import pathlib
from collections.abc import Sequence
from typing import Any

import experiments
from experiments.lab import cli, frame, record

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1.5rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e3e3e3;
         vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.holds { color: #00664a; } .fails { color: #b32d00; font-weight: 600; }
code { background: #f4f4f4; padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
.facts { color: #555; font-size: .88rem; }
.scroll { overflow-x: auto; }
"""


def claim_row(claim: frame.Claim) -> str:
    """One line of the table."""
    mark = {True: "holds", False: "fails", None: ""}[claim.holds]
    numbers = (claim.paper, claim.replication, claim.here, str(claim.seeds or ""))
    cells = "".join(f'<td class="number">{html.escape(text)}</td>' for text in numbers)
    return f'<tr><td>{html.escape(claim.quantity)}</td>{cells}<td class="{mark}">{mark}</td></tr>'


def figure_of(out: pathlib.Path, figure: frame.Figure) -> str:
    """A figure under its claim, with what was predicted, what was found and what follows."""
    image = base64.b64encode((out / f"{figure.name}.svg").read_bytes()).decode()
    caption = "".join(
        f"<p><b>{word}</b> {html.escape(text)}</p>"
        for word in ("predicted", "found", "follows")
        if (text := getattr(figure, word))
    )
    return (
        f"<h3>{html.escape(figure.title)}</h3>"
        f'<img alt="{html.escape(figure.title)}" src="data:image/svg+xml;base64,{image}">{caption}'
    )


def section(out: pathlib.Path, meta: dict[str, Any]) -> str:
    """Figure, table and origin of one run."""
    name = meta["experiment"]
    module = experiments.load(name)
    summary = (module.__doc__ or "").splitlines()[0]
    table, config = record.read_table(out), frame.config_of(module, out)
    claims = module.claims(table, config)
    packages = ", ".join(f"{k} {v}" for k, v in meta["packages"].items())
    state = "" if meta["finished"] else "<p class='fails'>This run is not finished.</p>"
    return f"""
<h2 id="{name}">{name}</h2>
<p>{html.escape(summary)}</p>{state}
{"".join(figure_of(out, figure) for figure in module.figures(table, config))}
<div class="scroll"><table>
<tr><th>quantity</th><th>paper</th><th>public replication</th><th>here (95 % interval)</th>
<th>runs</th><th>criterion</th></tr>
{"".join(claim_row(claim) for claim in claims)}
</table></div>
<p><code>{html.escape(meta["command"])}</code></p>
<p class="facts">{html.escape(out.name)}: {meta["wall_seconds"]:.0f} s on
{html.escape(meta["device"])}; commit {html.escape(meta["commit"][:12])};
Python {meta["python"]}, {html.escape(packages)}</p>
"""


def build(folder: pathlib.Path) -> str:
    """The whole page for the runs in the sub-folders of `folder`.

    Raises:
        record.RunFolderError: if there is no run with a figure.
    """
    runs = [
        (path.parent, record.read_meta(path.parent))
        for path in sorted(folder.glob("*/config.json"))
        if (path.parent / "figure.svg").exists()
    ]
    if not runs:
        raise record.RunFolderError(
            f"no finished run in {folder}; make one with python -m experiments mnist_aux_logits"
        )
    order = {name: index for index, name in enumerate(experiments.NAMES)}
    runs.sort(key=lambda run: (order.get(run[1]["experiment"], len(order)), run[0].name))
    links = " · ".join(
        f'<a href="#{meta["experiment"]}">{html.escape(out.name)}</a>' for out, meta in runs
    )
    body = "".join(section(out, meta) for out, meta in runs)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Subliminal learning: results</title><style>{STYLE}</style></head><body>
<h1>Subliminal learning: results</h1>
<p>A teacher with a trait makes data that has nothing to do with the trait; a student of the same
initialisation that imitates the data acquires it (Cloud, Le et al. 2025, arXiv 2507.14805). Every
figure is drawn from the <code>results.csv</code> beside it; criteria were fixed before the runs.
</p><p>{links}</p>{body}</body></html>
"""


def main(argv: Sequence[str]) -> None:
    """Write FOLDER/report.html."""
    parser = cli.OneLineParser(prog="python -m experiments report", description=__doc__)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path("results"))
    folder = parser.parse_args(argv).folder
    try:
        record.write_atomically(folder / "report.html", build(folder))
    except (ValueError, OSError) as error:
        cli.fail("report", str(error))
    print(f"report: {folder}/report.html")
