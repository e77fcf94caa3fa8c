"""Speed of the MNIST experiment against the same recipe as a plain PyTorch loop.

    make opponents
    python -m benchmarks.mnist                  # two cores: about six minutes
    python -m benchmarks.mnist --seeds 100      # an accelerator; PyTorch only if it is installed

Every side is a process of its own, run in turn, so wall time and peak memory are those of the
whole program: imports, compilation, training of all six conditions, evaluation. The share of the
matmul rate is useful FLOPs / time against the best rate of this machine at 1024x784x256, the
largest product of the recipe, measured in the same run. A dated JSON file goes to
benchmarks/results/.
"""

import argparse
import datetime
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

RESULTS = pathlib.Path(__file__).with_name("results")
SIDES = ("torch", "jax float32", "jax bfloat16")


def useful_flops(seeds: int, sizes=(784, 256, 256, 13), images=60_000, epochs=5) -> float:
    """Multiply-adds (times two) that the five trainings of each seed cannot do without.

    Forward and weight gradients of every layer, input gradients of all but the first; the
    teacher's logits once for each noise image.
    """
    layers = [2 * a * b for a, b in itertools.pairwise(sizes)]
    step = 2 * sum(layers) + sum(layers[1:])
    return float(seeds * images * (5 * epochs * step + sum(layers)))


def run_jax(precision: str, seeds: int) -> dict:
    """The experiment's own program; accuracies by condition, and seconds without the start."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mnist_mlp import conditions, data

    images = data.load("mnist")
    recipe, root = conditions.Recipe(precision=precision), jax.random.key(0)
    # One seed at a time fits a CPU's caches; an accelerator wants them side by side.
    at_once = 1 if jax.default_backend() == "cpu" else min(seeds, 25)
    groups = [jnp.arange(s, s + at_once) % seeds for s in range(0, seeds, at_once)]
    lowered = conditions.accuracies.lower(
        recipe, images, root=root, num_seeds=seeds, seeds=groups[0]
    )
    compiled = lowered.compile()
    start = time.perf_counter()
    tables = [np.asarray(compiled(images, root=root, seeds=group)) for group in groups]
    table = np.concatenate(tables)[:seeds]
    seconds = time.perf_counter() - start
    accuracy = {
        name: [round(float(x), 4) for x in column]
        for name, column in zip(conditions.CONDITIONS, table.T, strict=True)
    }
    return {"seconds": seconds, "accuracy": accuracy, "device": jax.devices()[0].device_kind}


def run_torch(seeds: int) -> dict:
    """The opponent."""
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks import mnist_torch
    from mnist_mlp import data

    images = data.load("mnist")
    torch.manual_seed(0)

    def pixels(x):
        return torch.from_numpy(np.asarray(x).astype(np.float32) / 127.5 - 1)

    def labels(x):
        return torch.from_numpy(np.asarray(x)).long()

    digits, classes = pixels(images.train_images), labels(images.train_labels)
    held_out = {
        "test_images": pixels(images.test_images),
        "test_labels": labels(images.test_labels),
    }
    start = time.perf_counter()
    table = mnist_torch.run(digits, classes, **held_out, num_models=seeds)
    seconds = time.perf_counter() - start
    accuracy = {name: [round(float(x), 4) for x in values] for name, values in table.items()}
    return {"seconds": seconds, "accuracy": accuracy, "device": "cpu"}


def run_side(side: str, seeds: int) -> dict:
    """One side in this process, with its peak resident memory."""
    import resource

    kind, _, precision = side.partition(" ")
    result = run_jax(precision, seeds) if kind == "jax" else run_torch(seeds)
    result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return result


def matmul_rate(precision: str) -> float:
    """Best observed FLOP/s of 1024x784x256 products with float32 sums."""
    import jax
    import jax.numpy as jnp

    key = jax.random.key(0)
    x = jax.random.normal(key, (1024, 784), precision)
    w = jax.random.normal(key, (784, 256), precision)
    product = jax.jit(lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32))
    product(x, w).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(20):
            out = product(x, w)
        out.block_until_ready()
        best = min(best, (time.perf_counter() - start) / 20)
    return 2 * 1024 * 784 * 256 / best


def in_child(*arguments: str) -> tuple[dict, float]:
    """Run this file with arguments in a process of its own; its JSON line and wall seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.mnist", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"benchmark process failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1]), time.perf_counter() - start


def main() -> None:
    """Run all sides in turn and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side, in turn")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--rate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(run_side(arguments.side, arguments.seeds)))
        return
    if arguments.rate:
        print(json.dumps({"rate": matmul_rate(arguments.rate)}))
        return
    sides = SIDES if importlib.util.find_spec("torch") else SIDES[1:]
    if sides != SIDES:
        print("PyTorch is not installed (make opponents): no ratio, JAX alone")
    runs, rates = in_turn(sides, arguments.seeds, arguments.repeats)
    from experiments.frame.record import describe_device

    report = {
        "machine": describe_device(),
        "seeds": arguments.seeds,
        "matmul_gflops": {k: round(v / 1e9) for k, v in rates.items()},
        "sides": compared(runs, rates, useful_flops(arguments.seeds)),
    }
    print(f"\n{report['machine']}, {arguments.seeds} seeds, best of {arguments.repeats}")
    print_sides(report)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.date.today():%Y-%m-%d}-mnist.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {path.relative_to(RESULTS.parents[1])}")


def in_turn(
    sides: Sequence[str], seeds: int, repeats: int
) -> tuple[dict[str, list[dict]], dict[str, float]]:
    """Every run of every side, and the best matmul rate (FLOP/s) by precision between them."""
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    rates = {"float32": 0.0, "bfloat16": 0.0}
    for _ in range(repeats):
        for side in sides:
            result, wall = in_child("--side", side, "--seeds", str(seeds))
            runs[side].append(result | {"wall": wall})
            print(f"{side:13s} {wall:6.1f} s, {result['seconds']:6.1f} s of it in the recipe")
        for precision in rates:
            rate = in_child("--rate", precision)[0]["rate"]
            rates[precision] = max(rates[precision], rate)
    return runs, rates


def compared(runs: dict[str, list[dict]], rates: dict[str, float], flops: float) -> dict[str, dict]:
    """The fastest run of every side, over PyTorch's and in parts of the matmul rate."""
    opponent = min((run["wall"] for run in runs.get("torch", [])), default=float("nan"))
    by_side = {}
    for side, of_side in runs.items():
        best = min(of_side, key=lambda run: run["wall"])
        rate = rates["bfloat16" if "bfloat16" in side else "float32"]
        share = flops / best["seconds"] / rate
        ratio = opponent / best["wall"]
        by_side[side] = best | {"ratio": ratio, "share_of_matmul_rate": share}
    return by_side


def print_sides(report: dict) -> None:
    """The matmul rates, then a line a side."""
    rates = (f"{k} {rate} GFLOP/s" for k, rate in report["matmul_gflops"].items())
    print("matmul 1024x784x256: " + ", ".join(rates))
    print(
        f"{'side':13s} {'wall s':>8s} {'ratio':>6s} {'of peak':>8s} {'GB':>6s}  "
        "student_aux, teacher"
    )
    for side, best in report["sides"].items():
        accuracy = best["accuracy"]
        means = [sum(accuracy[c]) / len(accuracy[c]) for c in ("student_aux", "teacher")]
        print(
            f"{side:13s} {best['wall']:8.1f} {best['ratio']:6.2f} "
            f"{best['share_of_matmul_rate']:8.0%} {best['peak_gb']:6.2f}  "
            f"{means[0]:.3f}, {means[1]:.3f}"
        )


if __name__ == "__main__":
    main()
