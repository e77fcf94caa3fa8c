"""Which number, known before or after training, predicts how well a student was taught?

Over every student of mnist_matching, mnist_sweeps, mnist_heads, mnist_init_ladder and
mnist_defences whose rows carry them: alignment of the starts' kernels, the same with the teacher's
whole displacement, first-order share and gain, mismatch of the starts, KL that the teacher moved
on the student's images, accuracy of the linearised student (all before the first step), and CKA,
angle to the teacher's displacement and KL left (after the last). Rank correlations with accuracy
*across* arms (arms' means) and *within* them (seeds, after the means of their arm are taken off).

Predictions, written before the run: across arms the alignment is the best of those known before;
the KL moved is not, since it does not see the student; after training the angle predicts best.
Within arms everything predicts worse, for what differs between seeds is not in the first order.

Criteria: alignment across arms above .8 in
mnist_matching and mnist_init_ladder, and larger in absolute value than that of the KL moved in
every experiment. No criterion within arms.
"""

import dataclasses
import functools
import pathlib

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
from experiments.frame import record
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.mnist import (
    mnist_defences,
    mnist_heads,
    mnist_init_ladder,
    mnist_matching,
    mnist_sweeps,
)

RUNTIME = "seconds, from the tables of other runs"
BEFORE = ("alignment", "aligned_far", "share", "gain", "mismatch", "moved", "linearised")
AFTER = ("cka", "angle", "left")
SOURCES = {
    "mnist_matching": mnist_matching,
    "mnist_sweeps": mnist_sweeps,
    "mnist_heads": mnist_heads,
    "mnist_init_ladder": mnist_init_ladder,
    "mnist_defences": mnist_defences,
}
IN_WORDS = {
    "alignment": "alignment",
    "aligned_far": "alignment, far",
    "share": "first-order share",
    "gain": "first-order gain",
    "mismatch": "mismatch",
    "moved": "KL moved",
    "linearised": "linearised student",
    "cka": "CKA",
    "angle": "angle",
    "left": "KL left",
}
STATED = ("mnist_matching", "mnist_init_ladder")  # where alignment was expected above .8
COLUMNS = 3  # of the figure
FEWEST = 5  # pairs for a correlation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where the tables are."""

    runs: str = option("experiments/results", "folder of finished runs; empty: toy runs made now")
    sources: tuple[str, ...] = option(tuple(SOURCES), "experiments read", choices=tuple(SOURCES))


SMOKE = Config(runs="", sources=("mnist_init_ladder",))


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every experiment that is there.

    Raises:
        ValueError: if none of them has been run.
    """
    folder = pathlib.Path(config.runs)
    there = [s for s in config.sources if not config.runs or (folder / s / "results.csv").exists()]
    if not there:
        raise ValueError(
            f"no tables in {folder}; run {config.sources[0]} first, or give the folder by --runs"
        )
    return {
        source: Arm(
            columns={"experiment": source}, measure=functools.partial(rows_of, config, source)
        )
        for source in there
    }


def rows_of(config: Config, source: str) -> list[Row]:
    """Correlations of an experiment, by predictor."""
    if config.runs:
        table = record.read_table(pathlib.Path(config.runs) / source)
    else:
        module = SOURCES[source]
        toys = module.arms(module.SMOKE)
        table = pd.DataFrame([row for name, arm in toys.items() for row in arm.rows(name, [])])
    facts = [c for c in table.columns if is_fact(c)]
    measured = [c for c in (*BEFORE, *AFTER) if c in table and table[c].notna().any()]
    table = table.dropna(subset=["accuracy"])
    keys = table.groupby(facts, dropna=False).ngroup()
    rows: list[Row] = []
    for name in measured:
        pairs = table.assign(arm=keys, predictor=table[name]).dropna(subset=["predictor"])
        means = pairs.groupby("arm")[["predictor", "accuracy"]].mean()
        inside = pairs[["predictor", "accuracy"]] - means.loc[pairs["arm"]].to_numpy()
        for over, part in (("arms", means), ("seeds within arms", inside)):
            rho, low, high = statistics.spearman(part["predictor"], part["accuracy"])
            if np.isfinite(rho) and len(part) >= FEWEST:
                rows.append(
                    {
                        "predictor": name,
                        "over": over,
                        "rho": rho,
                        "low": low,
                        "high": high,
                        "pairs": len(part),
                        "known": "before" if name in BEFORE else "after",
                        "dataset": table["dataset"].iloc[0],
                    }
                )
    return rows


def is_fact(column: str) -> bool:
    """Whether a column says what an arm is, rather than what was measured."""
    results = {"part", "seed", "accuracy", "teacher_accuracy", "arrived", "dataset"}
    return column not in results | set(BEFORE) | set(AFTER)


def best(table: pd.DataFrame, known: str, over: str = "arms") -> tuple[str, float]:
    """The predictor of the largest mean absolute correlation, and that mean."""
    rows = table[(table["over"] == over) & (table["known"] == known)]
    means = rows.assign(size=rows["rho"].abs()).groupby("predictor")["size"].mean()
    return (IN_WORDS[str(means.idxmax())], means.max()) if len(means) else ("none", np.nan)


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """All correlations across arms, and the criteria of the docstring."""
    on_mnist = table["dataset"].iloc[0] == "mnist"
    across = table[table["over"] == "arms"].set_index(["experiment", "predictor"])
    claims = []
    for (experiment, predictor), row in across.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        holds = None
        if on_mnist and predictor == "alignment":
            moved = across["rho"].get((experiment, "moved"), 0.0)
            enough = experiment not in STATED or row["rho"] > 0.8
            holds = bool(enough and abs(row["rho"]) > abs(moved))
        claims.append(
            Claim(
                quantity=f"{experiment}: {predictor}, over {row['pairs']} arms",
                here=statistics.shown_correlation(row["rho"], row["low"], row["high"]),
                seeds=int(row["pairs"]),
                holds=holds,
            )
        )
    (before, size), (after, size_after) = best(table, "before"), best(table, "after")
    within = best(table, "before", "seeds within arms")[1]
    # No criterion of before the run, so not in the table.
    recipes_only = Claim(quantity="", holds=bool(size > 0.7 and within < 0.2) if on_mnist else None)
    leading = f"Known before training, {before} predicts best which arm is taught"
    figure = Figure(
        name="figure",
        title=say(
            [recipes_only],
            holds=leading,
            fails=leading,
            open="Which number, known before training, predicts best which arm is taught?",
        ),
        predicted="Alignment predicts best before training, the angle after it.",
        found=f"Mean absolute rank correlation across arms: before {before} ({size:.2f}), after "
        f"{after} ({size_after:.2f}).",
        follows=say(
            [recipes_only],
            holds="Which recipe transmits can be computed beforehand, which seed of it cannot.",
            fails=f"Known before, {before} orders recipes by {size:.2f}, seeds of one by at most "
            f"{within:.2f}.",
            open="Whether recipes can be told beforehand, and seeds cannot, is not judged.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def plot(table: pd.DataFrame, config: Config):
    """Correlation of each predictor with accuracy, across arms and within."""
    names = table["experiment"].unique()
    figure, panels = drawing.new_grid(len(names), COLUMNS, width=4.3, height=3.8)
    predictors = [*BEFORE, *AFTER]
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for offset, (over, part) in zip(
            (-0.15, 0.15), table[table["experiment"] == name].groupby("over"), strict=False
        ):
            y = [predictors.index(p) + offset for p in part["predictor"]]
            errors = np.abs(part[["low", "high"]].to_numpy().T - part["rho"].to_numpy())
            axes.errorbar(part["rho"], y, xerr=errors, fmt="o", ms=4, capsize=2, label=str(over))
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axhline(len(BEFORE) - 0.5, color="black", linestyle=":", linewidth=1)
        shown = [IN_WORDS[p] for p in predictors] if i % COLUMNS == 0 else []
        axes.set_yticks(range(len(predictors)), shown, fontsize=9)
        axes.set_ylim(len(predictors) - 0.5, -0.5)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks((-1, -0.5, 0, 0.5, 1))
        axes.set_title(name.removeprefix("mnist_").replace("_", " "))
        axes.set_xlabel("Spearman with accuracy")
    panels[0].legend(fontsize=8, loc="lower right")
    return figure
