"""The main job: theory, MNIST and the microworld at laptop size, one by one, then the report.

`make reproduce` runs this. Each experiment is the command that is printed above it, so it can
be repeated, resumed or varied alone; what is already in results/ is kept.
"""

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


def main(argv: Sequence[str]) -> None:
    """Run all but the long ones; go on after a failure, and say at the end which failed."""
    cli.OneLineParser(prog="python -m experiments reproduce", description=__doc__).parse_args(argv)
    failed = []
    for name in experiments.NAMES:
        if name in LONG:
            continue
        arguments = ["-m", "experiments", name, *FLAGS.get(name, ())]
        print(f"\n$ {shlex.join(['python', *arguments])}", flush=True)
        if subprocess.run([sys.executable, *arguments]).returncode:
            failed.append(name)
    if subprocess.run([sys.executable, "-m", "experiments", "report"]).returncode:
        failed.append("report")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
