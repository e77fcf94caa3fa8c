"""Does it fit? Every task on every machine, asked of the compilers: compiled, not timed.

    python -m benchmarks.ahead                       # goes on with what the file lacks
    python -m benchmarks.ahead --only h200:8,7B      # cases whose name has both words

Rows go to benchmarks/results/<date>-ahead.jsonl as they are found; the table beside it is written
from them, and `make docs` takes it into docs/does-it-fit.md. Needs the extras ahead-cuda and
ahead-tpu.
"""

import argparse
import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import llm_shapes
from llm import ahead
from llm.flags import real
from llm.training import Training, finetune, lora

RESULTS = Path(__file__).with_name("results")
MACHINES = ("h200:1", "h200:2", "h200:8", "v5e:2x2", "v5e:4x4", "v5p:2x2x1")
MODELS = {"7B": llm_shapes.LARGER, "1.5B": llm_shapes.LARGE}
TASKS = ("LoRA", "full", "soft", "sampling", "sampling with LoRA")
ROWS, LENGTH, PROMPTS, PROMPT, NEW = 64, 192, 256, 128, 128
ADAPTERS = lora.LoraConfig(rank=8, alpha=8.0)
# What is tried in turn until it fits: microbatches, then activations made again.
SETTINGS = ({}, {"accumulate": 4}, {"accumulate": 4, "remat": True})
EXTRAS = ("jax", "jax-cuda13-plugin", "libtpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table."""

    model: str
    task: str
    machine: str

    @property
    def name(self) -> str:
        """For --only."""
        return f"{self.model} {self.task} {self.machine}"

    def job(self, **limits: Any) -> ahead.Job:
        """What the compiler is asked."""
        config = MODELS[self.model]
        if self.task.startswith("sampling"):
            adapters = ADAPTERS if self.task.endswith("LoRA") else None
            return ahead.Drawing(
                config=config, adapters=adapters, rows=PROMPTS, prompt=PROMPT, new=NEW
            )
        training = Training(
            steps=1000,
            batch_size=ROWS,
            optimizer="adamw",
            learning_rate=2e-4,
            decay="linear",
            warmup=5,
            clip_norm=1.0,
            dtype="bfloat16",
            adapters=None if self.task == "full" else ADAPTERS,
        )
        return ahead.Tuning(
            config=config,
            training=training,
            limits=finetune.Limits(**limits),
            length=LENGTH,
            soft=self.task == "soft",
        )


def cases() -> Iterator[Case]:
    """All of them."""
    for model in MODELS:
        for task in TASKS:
            for machine in MACHINES:
                yield Case(model, task, machine)


def measure(case: Case, seconds: float) -> dict[str, Any] | None:
    """The first settings under which a case fits, or the last that were tried.

    None if a compiler took longer than so many seconds, which says nothing about the case.
    """
    target = ahead.target(case.machine)
    choices = SETTINGS[:1] if case.task.startswith("sampling") else SETTINGS
    answers, flags = [], {}
    for flags in choices:
        answers = ahead.ask(target, case.job(**flags), seconds)
        if any(answer.late for answer in answers):
            return None
        if all(not a.error and a.num_bytes <= target.room for a in answers):
            break
    return {
        **dataclasses.asdict(case),
        "flags": flags,
        "room": target.room,
        "memory": target.memory,
        "answers": [dataclasses.asdict(answer) for answer in answers],
    }


def flags_of(row: dict[str, Any]) -> str:
    """The settings as flags of `python -m llm`."""
    words = [
        f"--{name}" + ("" if value is True else f" {value}") for name, value in row["flags"].items()
    ]
    return " ".join(words) or "none"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a case, in Markdown."""
    lines = [
        "| model | task | machine | mesh | fits | GB a device | of JAX's | products | "
        "collectives, GB | flags |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        answers, room = row["answers"], row["room"]
        error = next((a["error"] for a in answers if a["error"]), "")
        size = max((a["num_bytes"] for a in answers), default=0.0)
        fits = "no" if error or size > room else "yes"
        last = answers[-1]
        mesh = " × ".join(map(str, answers[0]["mesh"].values())) or "–"
        found = [
            "–" if error else f"{size / 1e9:.1f}",
            f"{room / 1e9:.1f}",
            "–" if error else f"{last['ratio']:.2f}",
            "–" if error else f"{last['moved'] / 1e9:.2f} a {last['unit']}",
            f"`{flags_of(row)}`" if row["flags"] else "",
        ]
        cells = [row["model"], row["task"], row["machine"], mesh, fits, *found]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reasons(rows: Sequence[dict[str, Any]]) -> str:
    """What the compiler says of the cases that do not compile."""
    found = [
        f"- {row['model']} {row['task']} on {row['machine']}: {answer['error']}"
        for row in rows
        for answer in row["answers"]
        if answer["error"]
    ]
    return "\n".join(["", "Not compiled:", "", *found, ""]) if found else ""


def write(rows: Sequence[dict[str, Any]], path: Path, date: str) -> None:
    """The table beside the rows."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in EXTRAS if _installed(name))
    about = (
        f"Compiled on {date} with {versions}, not timed: no such device was there. Rows of "
        f"{LENGTH} tokens, {ROWS} a step, all positions trained on; {PROMPTS} prompts of {PROMPT} "
        f"tokens side by side, {NEW} drawn; bfloat16, float32 masters, adapters of rank "
        f"{ADAPTERS.rank}. The mesh is data × fsdp × tensor, by default. Products are those of "
        "all devices over what the task needs (4 N a token for LoRA, 6 N for full training, 2 N "
        "for sampling); collectives are the bytes of their results on one device."
    )
    path.with_suffix(".md").write_text(
        f"# Compiled ahead, {date}\n\n{about}\n\n{table(rows)}\n{reasons(rows)}"
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Ask about every case that the file lacks, then write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="comma-separated words of the cases")
    parser.add_argument("--seconds", type=real(above=0), default=600.0, help="of one question")
    parser.add_argument("--date", default=f"{datetime.datetime.now():%Y-%m-%d}", help="of the file")
    given = parser.parse_args(argv)
    path = RESULTS / f"{given.date}-ahead.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = {(r["model"], r["task"], r["machine"]): r for r in map(json.loads, lines)}
    for case in cases():
        known = dataclasses.astuple(case) in found
        if known or not all(word in case.name for word in given.only.split(",")):
            continue
        row = measure(case, given.seconds)
        if row is None:
            print(f"{case.name}: not compiled within {given.seconds:.0f} s, left for another time")
            continue
        found[dataclasses.astuple(case)] = row
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(table([row]).splitlines()[-1], flush=True)
    rows = [found[dataclasses.astuple(c)] for c in cases() if dataclasses.astuple(c) in found]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))  # in the table's order
    write(rows, path, given.date)
    print(f"written to {path} and {path.with_suffix('.md')}; the page is made by make docs")


if __name__ == "__main__":
    main()
