"""What every experiment shares: flags, the resumable run, the figures, the printed table.

An experiment is a module with

    RUNTIME                             expected wall time, as text
    Config, SMOKE                       a frozen dataclass of `option` fields; a config of seconds
    arms(config) -> {name: Arm}         resumable pieces, in order. Input is read and checked here:
                                        a ValueError or OSError raised now is the user's to mend
                                        and is shown as one line
    findings(table, config) -> Findings figures of one claim each, the first called "figure", and
                                        claims beside what others reported, from the table of
                                        results.csv alone
    inputs(config) -> dict              optional: facts on what is read, recorded in config.json;
                                        a resumed run must find the same
    PRECISION                           optional: of matrix products (`llm.precision`), recorded too

`python -m experiments NAME` runs it.
"""

import dataclasses
import io
import pathlib
import shlex
import time
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.findings.claims import Claim, Figure, refuse_uncorrected
from experiments.frame import cli, jobs, record, tables
from experiments.frame.record import Row
from experiments.frame.turns import in_turn


def claims_text(claims: Sequence[Claim]) -> str:
    """Claims as the content of a claims.csv; p values stand in their words, rounded.

    Raises:
        ValueError: a claim is not corrected.
    """
    refuse_uncorrected(claims)
    lines = [dataclasses.asdict(claim) for claim in claims]
    return record.csv_text([{k: v for k, v in line.items() if k != "p"} for line in lines])


def pictures(
    figures: Sequence[Figure], kinds: Sequence[str] = ("png", "svg")
) -> Iterator[tuple[str, bytes]]:
    """File names and contents of the figures, each of every kind."""
    from experiments.findings import drawing

    with drawing.style():
        for figure in figures:
            picture = figure.draw()
            drawing.fit(picture)
            for suffix in kinds:
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
    from experiments.findings import drawing

    figures, claims = module.findings(record.read_table(out), config)
    record.write_atomically(out / "claims.csv", claims_text(claims))
    for name, content in pictures(figures):
        record.write_atomically(out / name, content)
    meta = record.read_meta(out)
    meta |= {"results_sha256": record.results_hash(out), "drawn_with": drawing.versions()}
    record.write_meta(out, meta)


def run(module: Any, name: str, command: cli.Command, shown: str) -> None:
    """Run what is not yet in DIR, one part at a time; a kill loses the current part only."""
    from llm import precision  # here, for it imports JAX, which a look at the flags does without

    out, config = command.out, command.config
    try:
        inputs = module.inputs(config) if hasattr(module, "inputs") else {}
        pieces = module.arms(config)
    except (ValueError, OSError) as error:
        cli.fail(name, str(error))
    known: list[Row] = []
    if command.only is not None:
        alone = jobs.chosen(list(pieces), command.only)
        known = jobs.read_by(pieces[alone], out, config, inputs)
        pieces, out = {alone: pieces[alone]}, jobs.folder_of(out, alone)
    meta = record.open_folder(out, config, inputs, command.overwrite)
    if meta is None:
        meta = record.describe_run(name, config, inputs, shown)
        meta["matmul_precision"] = _precision(module)
        record.write_meta(out, meta)
    rows = record.read_rows(out)
    finished = {row["part"] for row in rows}
    todo = [part for part in pieces if part not in finished]
    if finished and todo:
        print(f"{name}: resuming, {len(finished)} of {len(pieces)} parts are in {out}")
        record.resumed(meta, name)
    for part in in_turn(name, todo, len(pieces)):
        start = time.monotonic()
        of_job = jobs.rows_of(out, part, config, inputs)
        with precision.at(_precision(module)):
            rows += of_job or pieces[part].rows(part, [*known, *rows])
        record.write_rows(out, rows)
        meta["wall_seconds"] = round(meta["wall_seconds"] + time.monotonic() - start, 1)
        record.write_meta(out, meta)
    if command.only is None:
        save_findings(module, out, config)
        meta = record.read_meta(out)
    meta["finished"] = True
    record.write_meta(out, meta)


def _precision(module: Any) -> str:
    return getattr(module, "PRECISION", "default")


def look(module: Any, name: str, command: cli.Command) -> None:
    """Print the jobs of a run, or how far it has come; nothing is made."""
    try:
        if command.list_jobs:
            print(jobs.listing(module.arms(command.config)))
        else:
            pieces = module.arms(command.config)
            for text in jobs.progress_of(module, pieces, command):
                print(text, flush=True)
    except (ValueError, OSError) as error:
        cli.fail(name, str(error))


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
    tables.print_claims(module.findings(table, command.config).claims)
    print(f"results.csv and the figures are in {command.out}")
