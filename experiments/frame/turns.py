"""The parts of a run one after the other, and how far they have come."""

import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


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
