"""An experiment of a few rows for the tests of the frame: part k draws from its own key.

python -m tests.experiments.counting --out DIR [--pause 0.5]
"""

import dataclasses
import functools
import sys
import time

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings
from experiments.frame import experiment
from experiments.frame.arms import Arm
from experiments.frame.cli import option

RUNTIME = "a second"


@dataclasses.dataclass(frozen=True)
class Config:
    """Three parts of two rows."""

    num_parts: int = option(3, "parts", minimum=1, maximum=9)
    pause: float = option(0.0, "seconds a part takes", minimum=0)
    names: tuple[str, ...] = option(("a", "b"), "conditions", choices=("a", "b", "c"))
    folder: str = option("", "must not be 'broken'")
    verbose: bool = option(False, "say more", recorded=False)

    def __post_init__(self):
        """A check across fields."""
        if self.num_parts == 7 and self.pause == 7:
            raise ValueError("--num-parts and --pause cannot both be 7")


SMOKE = Config(num_parts=1)


def arms(config):
    """One random number for each condition, from a key of the part's own."""
    if config.folder == "broken":
        raise ValueError("--folder is broken")

    def run(index):
        import jax

        time.sleep(config.pause)
        key = jax.random.fold_in(jax.random.key(0), index)
        value = float(jax.random.normal(key))
        return [{"condition": c, "seed": index, "value": value / 3} for c in config.names]

    return {f"part {i}": Arm(measure=functools.partial(run, i)) for i in range(config.num_parts)}


def findings(table, config):
    """The values in order; the mean, beside a text that HTML must escape."""

    def draw():
        figure, (axes,) = drawing.new_figure()
        axes.plot(table["value"])
        return figure

    figure = Figure(
        name="figure",
        title="Random numbers <are> random",
        predicted="noise",
        found="noise",
        follows="nothing",
        draw=draw,
    )
    shown = statistics.shown(table["value"])
    claim = Claim(quantity="mean <value>", here=shown, seeds=len(table), holds=True)
    return Findings([figure], [claim])


if __name__ == "__main__":
    experiment.main(sys.modules[__name__], sys.argv[1:])
