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
from collections.abc import Callable

import numpy as np
import pandas as pd

import experiments
from experiments.lab import drawing, record, statistics
from experiments.lab.frame import Claim, Figure, Row, option

RUNTIME = "seconds, from the tables of other runs"
BEFORE = ("alignment", "aligned_far", "share", "gain", "mismatch", "moved", "linearised")
AFTER = ("cka", "angle", "left")
SOURCES = ("mnist_matching", "mnist_sweeps", "mnist_heads", "mnist_init_ladder", "mnist_defences")
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
COLUMNS = 3  # of the figure
FEWEST = 5  # pairs for a correlation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where the tables are."""

    runs: str = option("experiments/results", "folder of finished runs; empty: toy runs made now")
    sources: tuple[str, ...] = option(SOURCES, "experiments read", choices=SOURCES)


SMOKE = Config(runs="", sources=("mnist_init_ladder",))


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every experiment that is there.

    Raises:
        ValueError: if none of them has been run.
    """
    folder = pathlib.Path(config.runs)
    there = [s for s in config.sources if not config.runs or (folder / s / "results.csv").exists()]
    if not there:
        raise ValueError(
            f"no tables in {folder}; run {config.sources[0]} first, or give the folder by --runs"
        )
    return {source: functools.partial(rows_of, config, source) for source in there}


def rows_of(config: Config, source: str) -> list[Row]:
    """Correlations of an experiment, by predictor."""
    if config.runs:
        table = record.read_table(pathlib.Path(config.runs) / source)
    else:
        module = experiments.load(source)
        table = pd.DataFrame([r for part in module.parts(module.SMOKE).values() for r in part()])
    arms = [c for c in table.columns if is_fact(table, c)]
    measured = [c for c in (*BEFORE, *AFTER) if c in table and table[c].notna().any()]
    table = table.dropna(subset=["accuracy"])
    keys = table.groupby(arms, dropna=False).ngroup()
    rows = []
    for name in measured:
        pairs = table.assign(arm=keys, predictor=table[name]).dropna(subset=["predictor"])
        means = pairs.groupby("arm")[["predictor", "accuracy"]].mean()
        inside = pairs[["predictor", "accuracy"]] - means.loc[pairs["arm"]].to_numpy()
        for over, part in (("arms", means), ("seeds within arms", inside)):
            rho, low, high = statistics.spearman(part["predictor"], part["accuracy"])
            if np.isfinite(rho) and len(part) >= FEWEST:
                rows.append(
                    {
                        "experiment": source,
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


def is_fact(table: pd.DataFrame, column: str) -> bool:
    """Whether a column says what an arm is, rather than what was measured."""
    results = {"part", "seed", "accuracy", "teacher_accuracy", "arrived", "dataset"}
    return column not in results | set(BEFORE) | set(AFTER)


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


def best(table: pd.DataFrame, known: str) -> tuple[str, str]:
    """The predictor of the largest mean absolute correlation across arms, and that mean."""
    rows = table[(table["over"] == "arms") & (table["known"] == known)]
    means = rows.assign(size=rows["rho"].abs()).groupby("predictor")["size"].mean()
    return (IN_WORDS[str(means.idxmax())], f"{means.max():.2f}") if len(means) else ("none", "-")


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    before, after = best(table, "before"), best(table, "after")
    return [
        Figure(
            name="figure",
            title=f"Known before training, {before[0]} predicts best which arm is taught",
            predicted="Alignment predicts best before training, the angle after it.",
            found=f"Mean absolute rank correlation across arms: before {before[0]} ({before[1]}), "
            "after "
            f"{after[0]} ({after[1]}).",
            follows="Which recipe transmits can be computed beforehand, which seed of it cannot.",
            draw=lambda: plot(table, config),
        )
    ]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring; judged on MNIST only."""
    judged = table["dataset"].iloc[0] == "mnist"
    out: list[Claim] = []
    arms = table[table["over"] == "arms"]
    for name, rows in arms.groupby("experiment", sort=False):
        rows = rows.set_index("predictor")
        for predictor, row in rows.iterrows():
            holds = None
            if judged and predictor == "alignment":
                above = name not in ("mnist_matching", "mnist_init_ladder") or row["rho"] > 0.8
                moved = abs(rows["rho"].get("moved", 0.0))
                holds = bool(above and abs(row["rho"]) > moved)
            shown = f"{row['rho']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            text = f"{name}: {predictor}, over {row['pairs']} arms"
            out.append(Claim(quantity=text, here=shown, seeds=int(row["pairs"]), holds=holds))
    return out
