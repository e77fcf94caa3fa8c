"""From measured runs to effects: student minus its control, chain by chain."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.lab import statistics
from experiments.lab.chain import CONTROL, Chain
from experiments.lab.frame import Claim
from experiments.lab.record import Row

Effects = dict[tuple[str, str], np.ndarray]  # (teacher, measured trait) -> one value per chain


def tidy(chain: Chain, measured: dict[str, dict[str, list[float]]], **columns: Any) -> list[Row]:
    """Rows of a stack of runs: one for every teacher, seed and measured trait.

    Args:
        chain: names the runs.
        measured: trait -> quantity -> value of every run, as `Chain.measure` gives it.
        **columns: further columns; a list has one value per run.
    """
    return [
        {
            **{k: v[run] if isinstance(v, list) else v for k, v in columns.items()},
            "teacher": chain.teachers_names[run // chain.recipe.num_seeds],
            "trait": trait,
            "seed": run % chain.recipe.num_seeds,
            **{quantity: values[run] for quantity, values in quantities.items()},
        }
        for trait, quantities in measured.items()
        for run in range(len(chain.runs()))
    ]


def traits_of(rows: list[Row]) -> list[str]:
    """The measured traits in the order of the config."""
    return list(dict.fromkeys(row["trait"] for row in rows))


def effects(rows: list[Row], **where: Any) -> Effects:
    """Effect of each chain: its margin minus that of its control, over rows that match `where`.

    The control is the student of the unchanged base's data, trained in the same way on the same
    prompts: what any such data does to the trait cancels. It may see more different rows than a
    student whose teacher kept few (column `kept`).
    """
    values: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if all(row[column] == value for column, value in where.items()):
            values.setdefault((row["teacher"], row["trait"]), {})[row["seed"]] = row["margin"]
    return {
        (teacher, trait): np.array([m - values[CONTROL, trait][s] for s, m in by_seed.items()])
        for (teacher, trait), by_seed in values.items()
        if teacher != CONTROL
    }


def diagonal(effect: Effects, traits: list[str]) -> np.ndarray:
    """Own effect of each chain, averaged over traits."""
    return np.mean([effect[t, t] for t in traits], axis=0)


def others(effect: Effects, traits: list[str]) -> np.ndarray:
    """Effect on the traits that the teacher does not have, of each chain, averaged."""
    return np.mean([effect[t, u] for t in traits for u in traits if u != t], axis=0)


def excess(effect: Effects, traits: list[str]) -> np.ndarray:
    """Diagonal excess of each chain: own effect minus that on the other traits."""
    return diagonal(effect, traits) - (others(effect, traits) if len(traits) > 1 else 0)


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


def draw_matrix(
    panel: Axes,
    cells: Effects,
    names: list[str],
    limit: float,
    labels: tuple[str, str] = ("trait of the teacher", "trait measured"),
    mark: Callable[[np.ndarray], str] = lambda values: "",
) -> None:
    """Mean of every cell (row, column), with the mark of its chains; colours to ±limit."""
    panel.grid(visible=False)
    means = np.array([[cells[row, column].mean() for column in names] for row in names])
    panel.imshow(means, cmap="PuOr_r", vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(means):
        shade = "white" if abs(value) > 0.55 * limit else "black"
        text = f"{value:+.2f}{mark(cells[names[i], names[j]])}"
        panel.text(j, i, text, ha="center", va="center", color=shade)
    panel.set_xticks(range(len(names)), names)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylabel(labels[0])
    panel.set_xlabel(labels[1])


def draw_chains(panel: Axes, x: float, values: np.ndarray, colour: str, label: str | None) -> None:
    """Every chain as a point, and their mean with its interval."""
    mean, half = statistics.mean_interval(values)
    spread = np.linspace(-0.07, 0.07, len(values))
    panel.scatter(x + spread, values, s=9, color=colour, alpha=0.5)
    error = half if np.isfinite(half) else None
    panel.errorbar(x, mean, error, color=colour, marker="o", capsize=4, label=label)
