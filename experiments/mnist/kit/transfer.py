"""What accuracies say: whether a trait passed, by criteria that were stated before any run."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.findings import statistics
from experiments.findings.claims import Claim, smallest

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
    above: Sequence[float] | np.ndarray | None = None,
    replication: str = "",
    paper: str = "",
) -> Claim:
    """A claim over all seeds of a table, judged on MNIST only.

    Args:
        table: of the run.
        quantity: what is measured.
        here: in words, or one value a seed.
        holds: whether the criterion is met, if there is one.
        above: values whose mean must lie above zero, in place of `holds`; for `corrected` of
            `experiments.findings.claims`.
        replication: what others reported.
        paper: what the paper reports.
    """
    if above is not None:
        holds = statistics.is_above(above)
    judged = holds is not None and table["dataset"].iloc[0] == "mnist"
    return Claim(
        quantity=quantity,
        paper=paper,
        replication=replication,
        here=here if isinstance(here, str) else statistics.shown(here),
        seeds=table["seed"].nunique(),
        holds=bool(holds) if judged else None,
        p=None if above is None else statistics.above_zero_p(above),
    )


def unstated(table: pd.DataFrame, holds: bool | np.bool_) -> Claim:
    """What a figure says without a criterion of before the run: judged alike, but never printed."""
    return claim(table, "", here="", holds=holds)


Pair = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


def no_transfer(table: pd.DataFrame, accuracies: Mapping[str, Pair]) -> list[Claim]:
    """Claims that nothing passes: equivalence to chance, corrected by Holm over all of them.

    Args:
        table: of the run.
        accuracies: arm -> its accuracies over seeds, and those of the shared start, seed by seed.
    """
    p_values = [no_transfer_p(*pair) for pair in accuracies.values()]
    return [
        claim(
            table,
            f"no transfer: {arm} (TOST p {p:.1g}, Holm over {len(p_values)})",
            here=f"{statistics.shown(pair[0])}, {least(*pair)}",
            holds=holds,
        )
        for (arm, pair), p, holds in zip(
            accuracies.items(), p_values, statistics.holm(p_values), strict=True
        )
    ]


def no_transfer_p(
    accuracies: Sequence[float] | np.ndarray, shared_start: Sequence[float] | np.ndarray
) -> float:
    """The p value of a mean within a fifth of the shared start's gain of chance (paired TOST).

    The gain is itself measured: its scatter over seeds widens the test.
    """
    return statistics.relative_equivalence_p(
        *(np.asarray(values) - CHANCE for values in (accuracies, shared_start)), MARGIN_SHARE
    )


def least(
    accuracies: Sequence[float] | np.ndarray, shared_start: Sequence[float] | np.ndarray
) -> str:
    """The smallest share of the shared start's gain that is still shown to be missed, in words."""
    return smallest(
        statistics.smallest_share(
            *(np.asarray(values) - CHANCE for values in (accuracies, shared_start))
        )
    )


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


def correlation(
    table: pd.DataFrame, arms: Sequence[str], column: str
) -> tuple[float, float, float]:
    """Spearman of a column and the accuracy over the arms' means: rho, low, high.

    Arms of a seed share a teacher and its noise, so they are not independent pairs: the interval
    is the jackknife's over seeds. NaN where a side is constant.
    """
    seeds = table["seed"].unique()

    def over(chosen: np.ndarray) -> float:
        rows = table[table["seed"].isin(seeds[chosen])]
        means = rows.groupby(list(arms), dropna=False)[[column, "accuracy"]].mean()
        return statistics.rank_correlation(means[column].tolist(), means["accuracy"].tolist())

    return statistics.jackknifed_correlation(over, len(seeds))


def draw_chance(panel: Axes, **more: str) -> None:
    """A dotted line at chance."""
    panel.axhline(CHANCE, color="black", linestyle=":", linewidth=1, **more)
