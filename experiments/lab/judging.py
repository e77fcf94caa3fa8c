"""A mean over independent runs against a criterion that was stated before."""

import numpy as np

from experiments.lab import statistics
from experiments.lab.frame import Claim


def judged(
    quantity: str, values: np.ndarray, criterion: str | None = None, paper: str = "", here: str = ""
) -> Claim:
    """A mean over chains as a line of the table.

    Args:
        quantity: what is measured.
        values: one per chain.
        criterion: whether the 95 % interval must lie "above" zero or "covers" it; judged from four
            chains on, fewer decide nothing.
        paper: what the paper reports.
        here: text in place of mean and interval.
    """
    mean, half = statistics.mean_interval(values)
    verdict = {"above": mean - half > 0, "covers": abs(mean) <= half, None: None}
    holds = verdict[criterion if len(values) >= 4 else None]
    return Claim(quantity, paper, "", here or statistics.shown(values, 2), len(values), holds)
