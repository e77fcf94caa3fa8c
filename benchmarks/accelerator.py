"""Everything worth knowing of one GPU in under nine minutes, written to one dated file.

    python -m benchmarks.accelerator            # one GPU of 80 GB or more
    python -m benchmarks.accelerator --smoke    # toy sizes, on any machine

Weights are random and made on the device, so nothing is downloaded. Every part is a process with
a time budget of its own; the most wanted come first. Each number is printed and appended to the
file as it is measured, so a run that is cut off leaves what it had. The file is JSON, one row a
line: part, case, quantity, value, unit.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
SECONDS = 530.0

# What others have published for one GPU, to stand beside.
ANCHORS = """\
NeMo AutoModel, docs/performance-summary.md (2025-10-02), one H100, bf16, Qwen2.5-7B LoRA, rows of
4096 tokens: 14,110 tokens/s = 423 TFLOP/s at 4 N a token, 43 % of the card's nominal 989.
Ceiling by bandwidth of a 7B in bf16 at batch 256 with short rows on an H200: 65,000 to 77,000
tokens/s (15 GB of weights and 1 to 4 GB of cache at the nominal 4.8 TB/s)."""


def append(path: Path, part: str, **row: Any) -> None:
    """Print a row, and add it to the file."""
    with path.open("a") as file:
        file.write(json.dumps({"part": part, **row}) + "\n")
    value = row["value"]
    shown = value if isinstance(value, str) else f"{value:,.4g}" if value < 1e3 else f"{value:,.0f}"
    print(f"{part:34s} {row['case']:22s} {row['quantity']}: {shown} {row['unit']}", flush=True)


def note(path: Path, part: str, *, quantity: str, value: Any, unit: str = "") -> None:
    """A row about the run itself."""
    append(path, part, case="", quantity=quantity, value=value, unit=unit)


def measure(part: str, path: Path, smoke: bool) -> None:
    """One part in this process; what breaks it becomes a row."""
    from benchmarks import parts

    try:
        for row in parts.PARTS[part].measure(smoke):
            append(path, part, **row._asdict())
    except Exception as error:  # whatever it is, the other parts go on
        note(
            path,
            part,
            quantity="failed",
            value=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        )
        raise SystemExit(1) from error


def run_part(part: str, path: Path, *, smoke: bool, seconds: float, alone: bool) -> None:
    """One part in a process of its own, ended after so many seconds."""
    start, environment = time.monotonic(), dict(os.environ)
    environment.setdefault("XLA_CLIENT_MEM_FRACTION", ".92")
    if alone:
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--part", part, "--out", str(path)]
    try:
        done = subprocess.run(
            [*command, *["--smoke"] * smoke], env=environment, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        note(path, part, quantity="cut off", value=round(seconds, 1), unit="s")
        return
    if done.returncode < 0:
        note(path, part, quantity="failed", value=f"ended by signal {-done.returncode}")
    note(path, part, quantity="wall time", value=round(time.monotonic() - start, 1), unit="s")


def machine(smoke: bool) -> str:
    """Machine and versions, without starting the accelerator in this process."""
    versions = [f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "flax", "optax")]
    facts = [platform.platform(), f"Python {platform.python_version()}", *versions]
    return "; ".join([*facts, f"{os.cpu_count()} cores", *["toy sizes"] * smoke])


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="toy sizes")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of the whole run")
    parser.add_argument("--out", type=Path, help="file (default benchmarks/results/<date>-...)")
    parser.add_argument("--only", help="comma-separated parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # this process measures one
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Measure part after part for as long as there is time."""
    given = build_parser().parse_args(argv)
    if given.part:
        return measure(given.part, given.out, given.smoke)
    from benchmarks import parts

    start = time.monotonic()
    path = given.out or RESULTS / f"{datetime.datetime.now():%Y-%m-%d-%H%M}-accelerator.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    note(path, "run", quantity="versions", value=machine(given.smoke))
    for name in given.only.split(",") if given.only else parts.PARTS:
        part, left = parts.PARTS[name], given.seconds - (time.monotonic() - start)
        if left < 10:
            note(path, name, quantity="left out", value="no time left")
            continue
        run_part(name, path, smoke=given.smoke, seconds=min(part.budget, left), alone=part.alone)
    print(f"{ANCHORS}\nwritten to {path}")


if __name__ == "__main__":
    main()
