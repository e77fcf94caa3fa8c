"""Settings that travel with data and checkpoints: JSON values, compared and written whole."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class RunError(ValueError):
    """A run that cannot go on, with what to do about it; shown as one line."""


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they read back from a file (tuples become lists).

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    return json.loads(json.dumps(settings))


def recorded_name(field: dataclasses.Field[Any]) -> str:
    """What a field is called in files; a new name in the code changes none that is there."""
    return field.metadata.get("recorded", field.name)


def describe_difference(stored: Any, wanted: Any, prefix: str = "") -> str:
    """The settings that differ, as "name: x there, y here"; empty if none do."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        parts = [
            describe_difference(stored.get(n, "absent"), wanted.get(n, "absent"), f"{prefix}{n}.")
            for n in sorted({*stored, *wanted})
        ]
        return "; ".join(part for part in parts if part)
    return "" if stored == wanted else f"{prefix.rstrip('.')}: {stored!r} there, {wanted!r} here"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write beside the target, flush to disk, then rename: readers see old or new, never half."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """Hold what is made under these paths, waiting for other processes that make it.

    The lock is the system's (flock): a process that is killed gives it back. Jobs of one
    experiment share teachers and data, and whoever comes first makes them.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted(set(paths)):  # one order for all, so that nobody waits in a circle
            stack.enter_context(_locked(path.with_name(f".{path.name}.lock")))
        yield


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock file, which is gone afterwards."""
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(lock, file.fileno()):
                continue  # who held it has removed it, and others lock another file of its name
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
