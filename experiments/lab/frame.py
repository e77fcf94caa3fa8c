"""What every experiment shares: flags, the resumable run, the figures, the printed table.

An experiment is a module with

    RUNTIME                             expected wall time, as text
    Config, SMOKE                       a frozen dataclass of `option` fields; a config of seconds
    parts(config)  -> {name: function}  ordered resumable pieces; each returns tidy rows. Input is
                                        read and checked here: a ValueError or OSError raised now
                                        is the user's to mend and is shown as one line
    figures(table, config) -> [Figure]  one claim each, from the table of results.csv alone; the
                                        first is called "figure"
    claims(table, config) -> [Claim]    what the table says, beside what others reported
    inputs(config) -> dict              optional: facts on what is read, recorded in config.json;
                                        a resumed run must find the same
    recipes(config), workshop(config)   optional: what every part makes, by its name, and where;
                                        `--dry-run` then shows the stages and their cost

`python -m experiments NAME` runs it.
"""

import dataclasses
import io
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib.figure
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.lab import cli, jobs, record, tables
from experiments.lab.cli import option
from experiments.lab.record import Row

__all__ = ["Claim", "Figure", "Row", "main", "option"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the table *paper / public replication / here*.

    Attributes:
        quantity: what is measured, with its unit.
        paper: value in arXiv 2507.14805, or empty.
        replication: value of a public replication with its source, or empty.
        here: value of this run with its 95 % interval.
        seeds: number of independently trained runs behind `here`.
        holds: whether the criterion stated before the run is met; None if there is none.
    """

    quantity: str
    paper: str = ""
    replication: str = ""
    here: str = ""
    seeds: int = 0
    holds: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One claim as a picture and three short sentences.

    Attributes:
        name: of the files, without ending.
        title: the claim, in one sentence.
        predicted: what was expected before the run, and why.
        found: what the table says, its numbers taken from there.
        follows: what it means.
        draw: makes the picture.
    """

    name: str
    title: str
    predicted: str
    found: str
    follows: str
    draw: Callable[[], matplotlib.figure.Figure]


def claims_text(claims: Sequence[Claim]) -> str:
    """Claims as the content of a claims.csv."""
    return record.csv_text([dataclasses.asdict(claim) for claim in claims])


def pictures(figures: Sequence[Figure]) -> Iterator[tuple[str, bytes]]:
    """File names and contents of the figures, each as PNG and as SVG."""
    from experiments.lab import drawing

    with drawing.style():
        for figure in figures:
            picture = figure.draw()
            for suffix in ("png", "svg"):
                buffer = io.BytesIO()
                # No date in the file: the same rows give the same bytes.
                metadata = {"Date": None} if suffix == "svg" else {"Software": None}
                picture.savefig(buffer, format=suffix, metadata=metadata)
                yield f"{figure.name}.{suffix}", buffer.getvalue()
            drawing.close(picture)


def save_findings(module: Any, out: pathlib.Path, config: Any) -> None:
    """Write DIR/claims.csv and the figures from DIR/results.csv.

    DIR/config.json then says of which rows they are and what drew them.
    """
    from experiments.lab import drawing

    table = record.read_table(out)
    record.write_atomically(out / "claims.csv", claims_text(module.claims(table, config)))
    for name, content in pictures(module.figures(table, config)):
        record.write_atomically(out / name, content)
    meta = record.read_meta(out)
    meta |= {"results_sha256": record.results_hash(out), "drawn_with": drawing.versions()}
    record.write_meta(out, meta)


def in_turn(name: str, todo: Sequence[str], total: int) -> Iterator[str]:
    """The parts still to run: a bar with an ETA on a terminal, plain lines elsewhere."""
    done = total - len(todo)
    start = time.monotonic()
    # Rich itself would also draw its bar where FORCE_COLOR is set, as in notebooks.
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress:
            task = progress.add_task(name, total=total, completed=done)
            for part in todo:
                progress.update(task, description=part[:30])
                yield part
                progress.advance(task)
        return
    for index, part in enumerate(todo):
        yield part
        elapsed = time.monotonic() - start
        left = elapsed / (index + 1) * (len(todo) - index - 1)
        print(
            f"{name}: {part} done ({done + index + 1}/{total}), {elapsed:.0f} s, ETA {left:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def run(module: Any, name: str, command: cli.Command, shown: str) -> None:
    """Run what is not yet in DIR, one part at a time; a kill loses the current part only."""
    out, config = command.out, command.config
    try:
        inputs = module.inputs(config) if hasattr(module, "inputs") else {}
        pieces: dict[str, Callable[[], list[Row]]] = module.parts(config)
    except (ValueError, OSError) as error:
        cli.fail(name, str(error))
    if command.only is not None:
        alone = jobs.chosen(list(pieces), command.only)
        pieces, out = {alone: pieces[alone]}, jobs.folder_of(out, alone)
    meta = record.open_folder(out, config, inputs, command.overwrite)
    if meta is None:
        meta = record.describe_run(name, config, inputs, shown)
        record.write_meta(out, meta)
    rows = record.read_rows(out)
    finished = {row["part"] for row in rows}
    todo = [part for part in pieces if part not in finished]
    if finished and todo:
        print(f"{name}: resuming, {len(finished)} of {len(pieces)} parts are in {out}")
    for part in in_turn(name, todo, len(pieces)):
        start = time.monotonic()
        made = jobs.rows_of(out, part, config, inputs)
        rows += made or [{"part": part, **row} for row in pieces[part]()]
        record.write_rows(out, rows)
        meta["wall_seconds"] = round(meta["wall_seconds"] + time.monotonic() - start, 1)
        record.write_meta(out, meta)
    if command.only is None:
        save_findings(module, out, config)
        meta = record.read_meta(out)
    meta["finished"] = True
    record.write_meta(out, meta)


def look(module: Any, name: str, command: cli.Command) -> None:
    """Print the jobs of a run, or how far it has come; nothing is made."""
    try:
        if command.list_jobs:
            print(jobs.listing(module.parts(command.config)))
        else:
            print(jobs.progress_of(module, command.config, command.out, command.rates))
    except (ValueError, OSError) as error:
        cli.fail(name, str(error))


def print_claims(claims: Sequence[Claim]) -> None:
    """The table *paper / public replication / here*, as wide as the terminal or 80 columns."""
    marks = {True: "holds", False: "FAILS", None: ""}
    columns = {
        "quantity": [c.quantity for c in claims],
        "paper": [c.paper for c in claims],
        "replication": [c.replication for c in claims],
        "here (95 %)": [c.here for c in claims],
        "runs": [str(c.seeds or "") for c in claims],
        "criterion": [marks[c.holds] for c in claims],
    }
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    print("\n".join(tables.layout(columns, shutil.get_terminal_size().columns)))


def config_of(module: Any, out: pathlib.Path) -> Any:
    """The config stored in DIR/config.json as the experiment's dataclass."""
    stored = record.read_meta(out)["config"]
    names = {field.name for field in dataclasses.fields(module.Config)}
    if unknown := sorted(stored.keys() - names):
        raise record.RunFolderError(f"{out} has settings unknown to this version: {unknown[0]}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return module.Config(**values)


def main(module: Any, argv: Sequence[str]) -> None:
    """Parse the command line of one experiment and do what it says."""
    name = module.__spec__.name.rsplit(".", 1)[-1]
    summary = (module.__doc__ or "").splitlines()[0]
    command = cli.parse(name, summary, default=module.Config(), smoke=module.SMOKE, argv=argv)
    shown = shlex.join(["python", "-m", "experiments", name, *argv])
    try:
        if command.list_jobs or command.dry_run:
            return look(module, name, command)
        if command.replot:
            command = dataclasses.replace(command, config=config_of(module, command.out))
            save_findings(module, command.out, command.config)
        else:
            run(module, name, command, shown)
    except (record.RunError, OSError, FloatingPointError, MemoryError) as error:
        cli.fail(name, str(error))
    except KeyboardInterrupt:
        cli.fail(name, f"stopped; the same command continues from {command.out}")
    if command.only is not None:
        return print(f"{command.only}: done; the line without --only collects it")
    table = record.read_table(command.out)
    print_claims(module.claims(table, command.config))
    print(f"results.csv and the figures are in {command.out}")
