"""The parts of an experiment as jobs of a scheduler: one line each, in any order, on any machine.

    python -m experiments llm_numbers --list-jobs      # 0 teacher control, 1 teacher cat, ...
    python -m experiments llm_numbers --only 3         # that part alone
    python -m experiments llm_numbers                  # collects them, makes what is missing

A job is a run of its own in DIR/jobs: killed and started again by the same line, it goes on. What
jobs share (teachers, data) lies in the work folder, and whoever comes first makes it.
"""

import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from experiments.frame import record
from experiments.frame.arms import Arm
from experiments.frame.cli import Command
from experiments.frame.record import Row, RunError


def listing(parts: Iterable[str]) -> str:
    """A line for every job: its number and its name."""
    return "\n".join(f"{number} {part}" for number, part in enumerate(parts))


def chosen(parts: Sequence[str], wanted: str) -> str:
    """The part of that number or name.

    Raises:
        RunError: there is none.
    """
    if wanted in parts:
        return wanted
    if wanted.isdecimal() and int(wanted) < len(parts):
        return parts[int(wanted)]
    raise RunError(
        f"no job {wanted!r}: --list-jobs shows {len(parts)}, from 0 {parts[0]} to "
        f"{len(parts) - 1} {parts[-1]}"
    )


def folder_of(out: pathlib.Path, part: str) -> pathlib.Path:
    """Where a job keeps its run."""
    return out / record.JOBS / re.sub(r"[^\w.-]+", "-", part)


def rows_of(out: pathlib.Path, part: str, config: Any, inputs: Row) -> list[Row]:
    """The rows that a job has left; none if it has not run, or with another config."""
    rows = _rows_in(folder_of(out, part), config, inputs)
    return [row for row in rows if row["part"] == part]


def _rows_in(folder: pathlib.Path, config: Any, inputs: Row) -> list[Row]:
    if not (folder / "config.json").exists():
        return []
    if record.difference(record.read_meta(folder), config, inputs):
        return []
    return record.read_rows(folder)


def read_by(arm: Arm, out: pathlib.Path, config: Any, inputs: Row) -> list[Row]:
    """Rows of the arms that one arm reads, from the run or from jobs.

    Raises:
        RunError: some of them have not run.
    """
    there = _rows_in(out, config, inputs)
    known = [row for row in there if row["part"] in arm.reads]
    have = {row["part"] for row in known}
    for name in (name for name in arm.reads if name not in have):
        rows = rows_of(out, name, config, inputs)
        if not rows:
            raise RunError(f"this arm reads the rows of {name!r}: run that first (--only {name!r})")
        known += rows
    return known


def progress_of(module: Any, arms: Mapping[str, Arm], command: Command) -> Iterator[str]:
    """What a run has done and still has to do: its arms, and the stages they are made from.

    With a topology, what its compiler says of each program of the stages to be made follows.

    Args:
        module: the experiment.
        arms: its arms under the config of the command.
        command: the command line.

    Raises:
        RunError: rates or a topology that cannot be read, or one where nothing is compiled.
    """
    config, out = command.config, command.out
    inputs = getattr(module, "inputs", lambda config: {})
    store = next((arm.store for arm in arms.values() if arm.store is not None), None)
    if store is None:
        if command.topology is not None:
            raise RunError("--topology has no effect: this experiment has no stages of a model")
        yield _states(arms, out, config, inputs(config))
        return
    from llm import ahead, models, plan  # here, for three seconds of imports: few have stages
    from llm.stages import compiled, progress

    known = None if command.rates is None else plan.rates_of(command.rates)
    target = None if command.topology is None else ahead.target(command.topology)
    with models.without_weights():
        states = _states(arms, out, config, inputs(config))
        recipes = [recipe for arm in arms.values() for recipe in arm.needs]
        planned = progress.stages(store, recipes, known)
        asked = {} if target is None else compiled.jobs_of(store, planned)
    yield f"{states}\n\n{progress.table(planned)}"
    for job, made in asked.items():
        yield f"\n{made}"
        for answer in ahead.ask(target, job):
            yield ahead.describe(answer, target)


def _states(names: Iterable[str], out: pathlib.Path, config: Any, inputs: Row) -> str:
    """A line for every arm: whether it is done."""
    there = {row["part"] for row in _rows_in(out, config, inputs)}
    return "\n".join(
        f"{part:44s} {'done' if part in there or rows_of(out, part, config, inputs) else 'missing'}"
        for part in names
    )
