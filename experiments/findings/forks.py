"""What both fork curves share: the starts, the barrier between two models, a picture.

A fork shares a trunk's training up to a step and goes its own way from there. Beside the forks
stand the trunk itself, its twin with permuted units, and a stranger that shares nothing.
"""

from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.findings import drawing

SAME, TWIN, STRANGER = "same", "permuted twin", "stranger"
SHARES = np.linspace(0, 1, 9)  # of the trunk in the models on the line to it, the ends included


def named(step: int) -> str:
    """The start that leaves the trunk at a step, for people."""
    return f"fork at {step}"


def check(forks: Sequence[int], last: int, flag: str) -> None:
    """Refuse steps that no curve can be drawn over.

    Args:
        forks: steps at which forks leave their trunk.
        last: of the trunk, as `flag` gives it.
        flag: for the message.

    Raises:
        ValueError: they do not rise, or do not stay below the trunk's last step.
    """
    if list(forks) != sorted(set(forks)) or forks[-1] >= last:
        raise ValueError(
            f"--forks must rise and stay below {flag} {last}: they are {', '.join(map(str, forks))}"
        )


def by_start(table: pd.DataFrame, column: str) -> dict[str, np.ndarray]:
    """A column by start, a value a run, means over what else was varied; rows without it aside."""
    known = table[table[column].notna()]
    means = known.pivot_table(index="seed", columns="start", values=column)
    return {str(start): means[start].to_numpy() for start in known["start"].unique()}


def barrier(
    losses: Float[np.ndarray, "shares *runs"],
) -> Float[np.ndarray, "*runs"]:
    """The largest excess of the losses of the models at `SHARES` over the line of their ends."""
    along = SHARES.reshape(-1, *[1] * (losses.ndim - 1))
    return (losses - (1 - along) * losses[0] - along * losses[-1]).max(axis=0)


def draw(
    shown: Mapping[str, Mapping[str, np.ndarray]], steps: Sequence[int]
) -> matplotlib.figure.Figure:
    """Panels against the step at which a fork leaves the trunk, beside twin and stranger.

    Args:
        shown: label of a panel -> values of every start, one a run.
        steps: of the forks.
    """
    figure, panels = drawing.new_figure(1, len(shown), width=12.0, height=3.8)
    line = [*map(named, steps), SAME]
    ticks = [*map(str, steps), "never", "twin", "stranger"]
    for panel, (label, values) in zip(panels, shown.items(), strict=True):
        drawing.lines(panel, range(len(line)), {"forks": [values[name] for name in line]})
        for place, name in enumerate((TWIN, STRANGER), start=len(line)):
            drawing.runs(panel, place, values=values[name], colour=drawing.COLOURS[1])
        panel.set_xticks(range(len(ticks)), ticks, rotation=45)
        panel.set_xlabel("step at which the start leaves the trunk")
        panel.set_ylabel(label)
        if "barrier" in label:  # those of twins and strangers are many times those of forks
            panel.set_yscale("symlog", linthresh=0.01)
            panel.set_ylim(0, 2 * max(wall.max() for wall in values.values()))
    return figure
