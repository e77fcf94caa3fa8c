"""The main job: MNIST, theory and the microworld at laptop size, one by one, then the report.

`make reproduce` runs this. Each experiment is the command that is printed above it, so it can
be repeated, resumed or varied alone; what is already in results/ is kept.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

import experiments
from experiments.lab import cli

# Flags that bring an experiment to laptop size; without an entry it runs its defaults.
FLAGS = {
    "mnist_aux_logits": ("--num-seeds", "8"),
    "microworld": ("--num-seeds", "4", "--targets", "soft_numbers"),
}
LONG = ("paper_on_a_laptop", "mechanism")  # run by hand


def commands() -> dict[str, list[str]]:
    """The arguments of `python` for every step, in order."""
    short = [name for name in experiments.NAMES if name not in LONG]
    steps = {name: ["-m", "experiments", name, *FLAGS.get(name, ())] for name in short}
    return steps | {"report": ["-m", "experiments", "report"]}


def environment() -> dict[str, str]:
    """That of this process; without MNIST the steps are told not to look for it again."""
    from mnist_mlp import data

    try:
        data.load("mnist")
    except data.DataNotFoundError as error:
        print(f"note: {error}")
        return {**os.environ, "SUBLIMINAL_OFFLINE": "1"}
    except data.DataError as error:
        cli.fail("reproduce", str(error))
    return dict(os.environ)


def main(argv: Sequence[str]) -> None:
    """Run all but the long ones; go on after a failure, and say at the end which failed."""
    cli.OneLineParser(
        prog="python -m experiments reproduce", description=(__doc__ or "").splitlines()[0]
    ).parse_args(argv)
    surroundings = environment()
    failed = []
    for name, arguments in commands().items():
        print(f"\n$ {shlex.join(['python', *arguments])}", flush=True)
        if subprocess.run([sys.executable, *arguments], env=surroundings).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the same command tries them again")
