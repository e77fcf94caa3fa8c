"""The main job: MNIST, theory, a real language model and the microworld at laptop size, one by one.

The report comes last.

`make reproduce` runs this. Each experiment is the command that is printed above it, so it can
be repeated, resumed or varied alone; what is already in results/ is kept.
"""

import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

from experiments.frame import cli

MODEL = pathlib.Path("results/models/smollm2-135m")

# What runs, and the flags that bring it to laptop size: together about 15 minutes on two cores,
# the first figure within two. All other experiments are run by hand.
STEPS: dict[str, tuple[str, ...]] = {
    "equality_cases": (),  # seconds
    "mnist_aux_logits": ("--num-seeds", "6"),
    "gradient_alignment": ("--num-nets", "200", "--families", "two-layer ReLU,MNIST MLP"),
    "beyond_the_theorem": ("--num-nets", "200"),
    "real_model": (  # five minutes: one animal beside another's and the unchanged model's students
        *("--questions", "diagonal", "--animals", "lion,bear", "--num-texts", "8"),
        *("--num-rows", "48", "--student-steps", "8", "--model", str(MODEL)),
    ),
    # Chains enough for a verdict, and therefore few traits.
    "microworld": ("--num-seeds", "6", "--traits", "owl,wolf", "--targets", "soft_numbers"),
    "report": (),
}


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


def steps() -> dict[str, tuple[str, ...]]:
    """What can run here: the real model is left out, with a note, where its weights are not had."""
    from llm import fetch

    try:
        fetch.fetch("smollm2-135m", MODEL, hub=False)  # the weights of the checked-in runs
    except (ValueError, OSError) as error:
        print(f"note: without real_model: {error}")
        return {name: flags for name, flags in STEPS.items() if name != "real_model"}
    return STEPS


def main(argv: Sequence[str]) -> None:
    """Run every step; go on after a failure, and say at the end which failed."""
    cli.Parser(
        prog="python -m experiments reproduce", description=(__doc__ or "").splitlines()[0]
    ).parse_args(argv)
    surroundings = environment()
    failed = []
    for name, flags in steps().items():
        arguments = ["-m", "experiments", name, *flags]
        print(f"\n$ {shlex.join(['python', *arguments])}", flush=True)
        try:
            code = subprocess.run([sys.executable, *arguments], env=surroundings).returncode
        except KeyboardInterrupt:
            cli.fail("reproduce", "stopped; the same command continues")
        if code:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the same command tries them again")
