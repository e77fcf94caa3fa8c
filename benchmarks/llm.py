"""Training and sampling speed of the language-model path against transformers + peft.

    python -m benchmarks.llm              # about 4 minutes on two cores
    python -m benchmarks.llm --only SmolLM2-135M
    python -m benchmarks.llm --smoke      # toy shapes, seconds

Weights are random, so nothing is downloaded. Each case is timed in turns (ours, theirs, ours,
...) in one process; medians and their ratio go into benchmarks/results/ with the machine. The
opponent is optional: `make opponents` installs it. For a GPU there is `benchmarks.accelerator`.
"""

import argparse
import datetime
import functools
import gc
import importlib
import json
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import llm_shapes, units
from benchmarks.llm_shapes import Shape
from llm import models, plan, sampling

RANK = 8
DTYPES = ("float32", "bfloat16")


def make_sample(
    shape: Shape, bfloat16: bool, prompts: np.ndarray
) -> tuple[Callable[[], None], int]:
    """Our sampler on the whole batch as a function, and the bytes of weights and cache."""
    params = units.random_params(shape.config, jnp.bfloat16 if bfloat16 else jnp.float32)
    sampler = sampling.make_sampler(functools.partial(models.bind, shape.config))
    rows = prompts.tolist()

    def run() -> None:
        completions = sampler(
            params,
            rows,
            key=jax.random.key(3),
            max_new_tokens=shape.num_new,
            choice=sampling.Choice(temperature=1.0),
            batch_size=len(rows),
        )
        if {len(completion) for completion in completions} != {shape.num_new}:
            raise ValueError("a completion ended early")

    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return run, weights + llm_shapes.cache_bytes(shape, 2 if bfloat16 else 4)


def make_train(
    shape: Shape, rank: int | None, bfloat16: bool, tokens: np.ndarray
) -> tuple[Callable[[], None], int]:
    """One optimiser step as a function, and the bytes that its program needs."""
    work = units.make_train(shape, rank, bfloat16=bfloat16, tokens=tokens, stacked=shape.stacked)
    return work.run, work.num_bytes


def in_turns(ours: Callable[[], None], theirs: Callable[[], None] | None, repeats: int):
    """Median seconds of each side, run alternately after two warm-up turns."""
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(repeats + 2):
        for name, run in (("ours", ours), ("theirs", theirs)):
            if run is not None:
                seconds = units.timed(run)
                if turn >= 2:
                    times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items() if seconds}


def measure(shape: Shape, kind: str, *, bfloat16: bool, opponent: Any, repeats: int) -> dict:
    """One row of the results; a side that runs out of memory says so in its place."""
    rng = np.random.default_rng(0)
    rank = RANK if kind == "LoRA" else None
    theirs, errors = None, {}
    if kind == "sampling":
        tokens = rng.integers(1, shape.config.vocab_size, (shape.prompts, shape.prompt_length))
        count = shape.prompts * shape.num_new
        make = functools.partial(make_sample, shape, bfloat16)
        their_make = functools.partial(
            opponent.make_sample if opponent else _absent, shape.config, bfloat16
        )
        their_arguments = (tokens, shape.num_new)
    else:
        tokens = rng.integers(1, shape.config.vocab_size, (shape.rows, shape.length))
        count = shape.rows * shape.length
        make = functools.partial(make_train, shape, rank, bfloat16)
        their_make = functools.partial(
            opponent.make_train if opponent else _absent, shape, rank, bfloat16
        )
        their_arguments = (tokens,)
    tokens = tokens.astype(np.int32)
    row: dict[str, Any] = {
        "shape": shape.name,
        "kind": kind,
        "dtype": "bfloat16" if bfloat16 else "float32",
    }
    try:
        ours, row["our_bytes"] = make(tokens)
        if opponent:
            theirs = their_make(*their_arguments)
        times = in_turns(ours, theirs, repeats)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error):
            raise
        times = {}
        errors = {"error": "out of memory: " + str(error).splitlines()[0][:120]}
    row |= {f"{name}_tokens_per_s": count / seconds for name, seconds in times.items()}
    if len(times) == 2:
        row["ratio"] = times["theirs"] / times["ours"]
    if theirs is not None:
        row["their_bytes"] = opponent.peak_bytes()
    del theirs
    gc.collect()
    if opponent:
        opponent.release()
    return row | errors


def _absent(*_: Any) -> None:
    raise ValueError("the opponent is not installed")


def run(
    shapes: tuple[Shape, ...],
    opponent: Any,
    *,
    dtypes: Sequence[str],
    repeats: int,
    toy: bool,
) -> list[dict]:
    """All rows of the results, with the share of what the hardware allows."""
    which = [dtype == "bfloat16" for dtype in dtypes]
    rates = {bfloat16: units.matmul_rate(bfloat16, 256 if toy else 1536) for bfloat16 in which}
    rows = []
    for shape in shapes:
        for kind in ("full", "LoRA", "sampling"):
            for bfloat16 in which:
                row = measure(shape, kind, bfloat16=bfloat16, opponent=opponent, repeats=repeats)
                if rate := row.get("ours_tokens_per_s"):
                    row |= limit(shape, kind, bfloat16, rates[bfloat16])
                    row["share"] = rate / row["limit"]
                rows.append(row)
                print(describe(row), flush=True)
    return [*rows, {"kind": "hardware", **_named(rates)}]


def limit(shape: Shape, kind: str, bfloat16: bool, flops_per_s: float) -> dict[str, Any]:
    """Tokens per second at which the hardware would be used to the full."""
    if kind == "sampling":
        item = 2 if bfloat16 else 4
        weights = plan.matmul_weights(shape.config) * item
        steps = units.bandwidth(weights) / llm_shapes.sample_bytes(shape, item)
        return {"limit": shape.prompts * steps, "limit_name": "bandwidth"}
    flops = llm_shapes.train_flops(shape, RANK if kind == "LoRA" else None)
    per_token = flops / (shape.rows * shape.length)
    return {"limit": flops_per_s / per_token, "limit_name": "matmul"}


def _named(rates: dict[bool, float]) -> dict[str, float]:
    names = {True: "bfloat16_flops_per_s", False: "float32_flops_per_s"}
    return {names[bfloat16]: rate for bfloat16, rate in rates.items()}


def machine(opponent: Any, *, load: float) -> dict[str, Any]:
    """The machine and the versions, and how busy it was when the run began: `load`, its average."""
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        **(opponent.VERSIONS if opponent else {}),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe(row: dict) -> str:
    """One row of the table in Markdown."""

    def number(name: str, form: str, scale: float = 1.0) -> str:
        return "–" if row.get(name) is None else format(row[name] * scale, form)

    cells = [
        row["shape"],
        row["kind"],
        row["dtype"],
        number("ours_tokens_per_s", ",.0f"),
        number("theirs_tokens_per_s", ",.0f"),
        number("ratio", ".2f"),
        f"{number('share', '.0%')} of {row.get('limit_name', '–')}",
        number("our_bytes", ".2f", 1e-9),
        number("their_bytes", ".2f", 1e-9),
        row.get("error", ""),
    ]
    return f"| {' | '.join(cells)} |"


HEADER = """\
| shape | kind | compute | ours, tokens/s | transformers, tokens/s | ratio | share of the limit \
| ours, GB | theirs, GB | note |
|---|---|---|---|---|---|---|---|---|---|"""


# PyTorch's threads spin while they wait for each other, so a second program slows it far more
# than XLA: ratios of a busy machine flatter us.
BUSY = """
**The machine was busy when this began (load average above 0.5): do not quote the ratios.**
"""


def report(rows: list[dict], facts: dict[str, Any]) -> str:
    """The results as a Markdown page."""
    hardware, cases = rows[-1], rows[:-1]
    table = "\n".join([HEADER, *map(describe, cases)])
    limits = ", ".join(f"{name} {value:.3g}" for name, value in hardware.items() if name != "kind")
    busy = "" if facts["load_before"] < 0.5 else BUSY
    return f"""# Language-model path against transformers + peft, {facts["date"]}

{"; ".join(f"{name} {value}" for name, value in facts.items())}

Measured limits: {limits}.
{busy}
Medians of alternate runs in one process. Ratio: our speed over theirs. Share: of the measured
matrix-product rate in training (model operations only, so 1 would be perfect), of the measured
memory bandwidth in sampling (weights and cache read once per token; an array as large as the
weights is scaled in place). LoRA has rank {RANK} on all
linear layers. Ours, GB: what the compiled program holds; theirs: peak of the allocator.

{table}
"""


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--smoke", action="store_true", help="toy shapes, no meaning in the numbers")
    names = [shape.name for shape in llm_shapes.CPU_SHAPES]
    which.add_argument("--only", choices=names, help="one shape alone")
    parser.add_argument("--dtype", choices=DTYPES, help="one compute type alone")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns per case")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--no-opponent", action="store_true", help="time our side only")
    given = parser.parse_args()
    load = os.getloadavg()[0]  # read first, for the opponent's import is work too
    opponent = None if given.no_opponent else load_opponent()
    facts = machine(opponent, load=load)
    shapes = llm_shapes.TOYS if given.smoke else llm_shapes.CPU_SHAPES
    shapes = tuple(shape for shape in shapes if shape.name in (given.only or shape.name))
    print(HEADER if facts["load_before"] < 0.5 else BUSY + HEADER)
    dtypes = [given.dtype] if given.dtype else DTYPES
    rows = run(shapes, opponent, dtypes=dtypes, repeats=given.repeats, toy=given.smoke)
    given.out.mkdir(parents=True, exist_ok=True)
    name = f"llm-{facts['date']}-cpu"
    (given.out / f"{name}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1))
    (given.out / f"{name}.md").write_text(report(rows, facts))
    print(f"written to {given.out / name}.md")


def load_opponent() -> Any:
    """The opponent's side, or None with a word on how to get it."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers' own
    try:
        return importlib.import_module("benchmarks.llm_torch")
    except ImportError as error:
        print(f"no opponent ({error}): our side only. Install it with: make opponents")
        return None


if __name__ == "__main__":
    main()
