"""The result store: one folder a run, written atomically, resumed part by part.

DIR/config.json   config, command, commit, versions, device, wall time
DIR/results.csv   one tidy row per condition and seed; `part` names the resumable piece
DIR/claims.csv    what the rows say: one line a claim, computed from results.csv alone
DIR/*.png, *.svg  drawn from results.csv alone
"""

import csv
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pandas as pd

from llm.settings import RunError, write_atomically

Row = dict[str, Any]
JOBS = "jobs"  # folder of parts that were run alone
TEXTS = ("config.json", "results.csv", "claims.csv")
ENDINGS = (".png", ".svg")  # of figures
CARDS = ("card.md", "card.html")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy")


class RunFolderError(RunError):
    """A results folder that cannot be used."""


def plain(config: Any) -> dict[str, Any]:
    """The recorded fields as JSON values, so that stored and given configs compare equal."""
    fields = [f.name for f in dataclasses.fields(config) if f.metadata.get("recorded", True)]
    return json.loads(json.dumps({name: getattr(config, name) for name in fields}, default=str))


def number_or_text(text: str) -> Any:
    """A CSV cell as int, float or text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_rows(out: pathlib.Path) -> list[Row]:
    """All rows of DIR/results.csv with numbers parsed; empty if there is no such file.

    Cells come back exactly as they were, so a resumed file is that of an uninterrupted run.
    """
    path = out / "results.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{k: number_or_text(v) for k, v in row.items()} for row in csv.DictReader(file)]


def read_table(out: pathlib.Path) -> pd.DataFrame:
    """DIR/results.csv for figures and claims; an empty cell, where nothing was measured, is NaN.

    Raises:
        RunFolderError: if there are no rows.
    """
    path = out / "results.csv"
    if not path.exists():
        raise RunFolderError(f"no rows in {out}: {path} is missing or empty")
    return pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])


def write_rows(out: pathlib.Path, rows: Sequence[Row]) -> None:
    """Replace DIR/results.csv; floats keep every digit. A row leaves out what it does not have."""
    write_atomically(out / "results.csv", csv_text(rows))


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as CSV with the columns in order of appearance."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def results_hash(out: pathlib.Path) -> str:
    """SHA-256 of DIR/results.csv: the rows that claims and figures were computed from."""
    return hashlib.sha256((out / "results.csv").read_bytes()).hexdigest()


def read_meta(out: pathlib.Path) -> dict[str, Any]:
    """The content of DIR/config.json.

    Raises:
        RunFolderError: if there is none or it is not JSON.
    """
    path = out / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunFolderError(f"no run in {out}: {path} is missing") from None
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path} is not JSON ({error}); delete it or use --overwrite"
        ) from None


def describe_device() -> str:
    """The accelerator, or the processor with its core count."""
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{os.cpu_count()} x CPU {model}"


def commit() -> str:
    """Commit of the checkout, with `-dirty` for local changes, or `unknown` outside git."""
    root = pathlib.Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def describe_run(name: str, config: Any, inputs: Row, command: str) -> dict[str, Any]:
    """What config.json holds before the first part has run."""
    return {
        "experiment": name,
        "command": command,
        "config": plain(config),
        "inputs": inputs,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": describe_device(),
        "wall_seconds": 0.0,
        "finished": False,
    }


def resumed(meta: dict[str, Any], name: str) -> None:
    """Note in a run's description that other code goes on with it, and say so.

    Rows of two commits may not mean the same: whoever reads the run must know both.
    """
    earlier, now = [meta["commit"], *meta.get("resumed_at", [])], commit()
    if now not in earlier:
        meta["resumed_at"] = [*earlier[1:], now]
        print(
            f"{name}: its first parts are of commit {earlier[-1][:10]}, the next of {now[:10]}; "
            "config.json names both. --overwrite begins again"
        )


def write_meta(out: pathlib.Path, meta: dict[str, Any]) -> None:
    """Replace DIR/config.json."""
    write_atomically(out / "config.json", json.dumps(meta, indent=2) + "\n")


def is_ours(path: pathlib.Path) -> bool:
    """Whether a file of a results folder is one that runs write."""
    name = path.name.removeprefix(".").removesuffix(".tmp")
    return name in (*TEXTS, JOBS, *CARDS) or name.endswith(ENDINGS)


def difference(meta: dict[str, Any], config: Any, inputs: Row) -> str:
    """The first setting in which a stored run differs; empty if it is the same run."""
    stored = {**meta.get("config", {}), **meta.get("inputs", {})}
    given = {**plain(config), **inputs}
    for key in sorted(stored.keys() | given.keys()):
        if stored.get(key) != given.get(key):
            return f"{key} is {stored.get(key)} there, {given.get(key)} here"
    return ""


def open_folder(
    out: pathlib.Path, config: Any, inputs: Row, overwrite: bool
) -> dict[str, Any] | None:
    """Make DIR ready: the stored description of a run with the same config, or None for a new one.

    Args:
        out: DIR.
        config: the experiment's config.
        inputs: facts on the input of this run, which a stored run must share.
        overwrite: replace a stored run.

    Raises:
        RunFolderError: DIR is no folder, holds foreign files, or a run with another config.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"--out {out} is a file; give a folder")
    if out.is_dir() and not (out / "config.json").exists():
        foreign = sorted(path.name for path in out.iterdir() if not is_ours(path))
        if foreign:
            raise RunFolderError(
                f"--out {out} holds other files ({foreign[0]}, ...); choose an empty folder"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make --out {out}: {error.strerror}") from None
    if overwrite:
        for path in filter(is_ours, list(out.iterdir())):  # only what a run writes
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not (out / "config.json").exists():
        (out / "results.csv").unlink(missing_ok=True)  # rows without a config belong to no run
        return None
    meta = read_meta(out)
    if differs := difference(meta, config, inputs):
        raise RunFolderError(
            f"{out} holds a run with another config ({differs}); use another --out, or "
            "--overwrite to replace it"
        )
    return meta
