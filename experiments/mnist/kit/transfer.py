"""What accuracies say: whether a trait passed, by criteria that were stated before any run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.findings import statistics
from experiments.findings.claims import Claim

CHANCE = 0.1
# "No transfer": the mean lies within a fifth of what a shared start gains over chance, by two
# one-sided tests. Stated here once, before any run.
MARGIN_SHARE = 0.2


def claim(
    table: pd.DataFrame,
    quantity: str,
    *,
    here: str | Sequence[float] | np.ndarray,
    holds: bool | np.bool_ | None = None,
    replication: str = "",
    paper: str = "",
) -> Claim:
    """A claim over all seeds of a table, judged on MNIST only.

    Args:
        table: of the run.
        quantity: what is measured.
        here: in words, or one value a seed.
        holds: whether the criterion is met, if there is one.
        replication: what others reported.
        paper: what the paper reports.
    """
    judged = holds is not None and table["dataset"].iloc[0] == "mnist"
    return Claim(
        quantity=quantity,
        paper=paper,
        replication=replication,
        here=here if isinstance(here, str) else statistics.shown(here),
        seeds=table["seed"].nunique(),
        holds=bool(holds) if judged else None,
    )


def unstated(table: pd.DataFrame, holds: bool | np.bool_) -> Claim:
    """What a figure says without a criterion of before the run: judged alike, but never printed."""
    return claim(table, "", here="", holds=holds)


def no_transfer(
    table: pd.DataFrame, accuracies: Mapping[str, tuple[np.ndarray, float]]
) -> list[Claim]:
    """Claims that nothing passes: equivalence to chance, corrected by Holm over all of them.

    Args:
        table: of the run.
        accuracies: arm -> its accuracies over seeds, and the mean accuracy of the shared start.
    """
    p_values = [no_transfer_p(*values) for values in accuracies.values()]
    return [
        claim(
            table,
            f"no transfer: {arm} (TOST p {p:.1g}, Holm over {len(p_values)})",
            here=values,
            holds=holds,
        )
        for (arm, (values, _)), p, holds in zip(
            accuracies.items(), p_values, statistics.holm(p_values), strict=True
        )
    ]


def no_transfer_p(accuracies: Sequence[float] | np.ndarray, shared_start: float) -> float:
    """The p value of a mean within a fifth of the shared start's gain of chance (TOST)."""
    margin = MARGIN_SHARE * (shared_start - CHANCE)
    return statistics.equivalence_p(np.asarray(accuracies) - CHANCE, margin)


def is_above_chance(accuracies: Sequence[float] | np.ndarray) -> bool:
    """Whether the 95 % interval over seeds lies above chance."""
    return statistics.is_above(np.asarray(accuracies) - CHANCE)


def above_chance_p(accuracies: Sequence[float] | np.ndarray) -> float:
    """The p value of a mean above chance (one-sided t test)."""
    return statistics.above_zero_p(np.asarray(accuracies) - CHANCE)


def shown(table: pd.DataFrame, column: str = "accuracy") -> str:
    """Mean ± half width over the seeds of a table that has one row a seed."""
    return statistics.shown(table[column].tolist())


def per_arm(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and half width of the accuracy over seeds, for every combination of columns."""
    grouped = table.groupby(list(by), sort=False, dropna=False)["accuracy"]
    halves = grouped.agg(lambda values: statistics.mean_interval(values)[1])
    return grouped.mean().to_frame("mean").assign(half=halves).reset_index()


def draw_chance(panel: Axes, **more: str) -> None:
    """A dotted line at chance."""
    panel.axhline(CHANCE, color="black", linestyle=":", linewidth=1, **more)
