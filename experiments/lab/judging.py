"""A mean over independent runs against a criterion that was stated before."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from experiments.lab import statistics
from experiments.lab.frame import Claim


def judged(
    quantity: str,
    values: np.ndarray,
    *,
    criterion: str | None = None,
    paper: str = "",
    here: str = "",
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
    return Claim(
        quantity=quantity,
        paper=paper,
        replication="",
        here=here or statistics.shown(values, 2),
        seeds=len(values),
        holds=holds,
    )


class Nothing(NamedTuple):
    """An effect that is claimed to be none, beside the one whose fifth is the margin."""

    values: np.ndarray  # one per chain
    reference: np.ndarray  # one per chain, in the same order


def equivalences(claimed: Mapping[str, Nothing], share: float = 0.2) -> list[Claim]:
    """Claims of "no transfer": two one-sided tests each, corrected by Holm over all of them.

    Args:
        claimed: quantity -> what is claimed to be none.
        share: of the reference's mean that still counts as nothing, fixed before the run.
    """
    p_values = [statistics.relative_equivalence_p(*pair, share) for pair in claimed.values()]
    shown = statistics.holm(p_values)
    out = []
    for (quantity, (values, reference)), p, holds in zip(
        claimed.items(), p_values, shown, strict=True
    ):
        margin = share * reference.mean()
        here = f"{statistics.shown(values, 2)} within ±{margin:.2f}: p {p:.1g}"
        count = f" (1 of {len(claimed)}, Holm)" if len(claimed) > 1 else ""
        out.append(
            Claim(
                quantity=f"{quantity}, equivalent to none{count}",
                paper="",
                replication="",
                here=here,
                seeds=len(values),
                holds=holds if len(values) >= 4 else None,
            )
        )
    return out
