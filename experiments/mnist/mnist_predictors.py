"""Which number, known before or after training, predicts how well a student was taught?

Over every student of mnist_matching, mnist_sweeps, mnist_heads, mnist_init_ladder and
mnist_defences whose rows carry them: alignment of the starts' kernels, the same with the teacher's
whole displacement, first-order share and gain, mismatch of the starts, KL that the teacher moved
on the student's images, accuracy of the linearised student (all before the first step), and CKA,
angle to the teacher's displacement and KL left (after the last). Rank correlations with accuracy
*across* arms (arms' means) and *within* them (seeds, after the means of their arm are taken off).

A student at the teacher's own start has an alignment of 1 whatever the recipe, so over arms that
share the start or do not, alignment is little more than that bit; the bit is a predictor of its
own here. What alignment says beyond it is seen across the arms whose starts vary, those whose mean
alignment is not 1, and only these are judged.

Predictions, written before the run: across arms the alignment is the best of those known before;
the KL moved is not, since it does not see the student; after training the angle predicts best.
Within arms everything predicts worse, for what differs between seeds is not in the first order.

Criteria: alignment across the arms whose starts vary above .8 in mnist_matching and
mnist_init_ladder, and larger in absolute value than that of the KL moved in every experiment. (An
earlier version judged all arms.) No criterion within arms. Intervals across arms are jackknives
over seeds, since arms of a seed share their teacher.
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
from experiments.mnist.kit import transfer

RUNTIME = "seconds, from the tables of other runs"
BEFORE = ("shared", "alignment", "aligned_far", "share", "gain", "mismatch", "moved", "linearised")
AFTER = ("cka", "angle", "left")
SOURCES = {
    "mnist_matching": mnist_matching,
    "mnist_sweeps": mnist_sweeps,
    "mnist_heads": mnist_heads,
    "mnist_init_ladder": mnist_init_ladder,
    "mnist_defences": mnist_defences,
}
IN_WORDS = {
    "shared": "shared start or not",
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
ALL_ARMS, VARYING, WITHIN = "arms", "arms whose starts vary", "seeds within arms"
AT_ONE = 1e-3  # alignments as close to 1 are those of a shared start, permuted or not


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
    table = table.dropna(subset=["accuracy"])
    table = table.assign(arm=table.groupby(facts, dropna=False).ngroup())
    if "alignment" in table:
        mean = table.groupby("arm")["alignment"].transform("mean")
        table = table.assign(shared=((mean - 1).abs() < AT_ONE).where(mean.notna()).astype(float))
    rows: list[Row] = []
    for name in (*BEFORE, *AFTER):
        if name not in table or table[name].isna().all():
            continue
        pairs = table.dropna(subset=[name])
        means = pairs.groupby("arm")[[name, "accuracy"]].mean()
        inside = pairs[[name, "accuracy"]] - means.loc[pairs["arm"]].to_numpy()
        parts = {ALL_ARMS: pairs, WITHIN: inside}
        if "shared" in pairs:
            parts[VARYING] = pairs[pairs["shared"] == 0]
        for over, part in parts.items():
            rho, low, high = (
                statistics.spearman(part[name], part["accuracy"])
                if over == WITHIN
                else transfer.correlation(part, ["arm"], name)
            )
            count = len(part) if over == WITHIN else part["arm"].nunique()
            if np.isfinite(rho) and count >= FEWEST:
                rows.append(
                    {
                        "predictor": name,
                        "over": over,
                        "rho": rho,
                        "low": low,
                        "high": high,
                        "pairs": count,
                        "known": "before" if name in BEFORE else "after",
                        "dataset": table["dataset"].iloc[0],
                    }
                )
    return rows


def is_fact(column: str) -> bool:
    """Whether a column says what an arm is, rather than what was measured."""
    results = {"part", "seed", "arm", "accuracy", "teacher_accuracy", "arrived", "dataset"}
    return column not in results | set(BEFORE) | set(AFTER)


def judged_over(table: pd.DataFrame) -> str:
    """The arms that are judged; tables of an earlier version know no starts."""
    return VARYING if VARYING in set(table["over"]) else ALL_ARMS


def best(table: pd.DataFrame, known: str, over: str = ALL_ARMS) -> tuple[str, float]:
    """The predictor of the largest mean absolute correlation, and that mean."""
    rows = table[(table["over"] == over) & (table["known"] == known)]
    means = rows.assign(size=rows["rho"].abs()).groupby("predictor")["size"].mean()
    return (IN_WORDS[str(means.idxmax())], means.max()) if len(means) else ("none", np.nan)


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """All correlations across arms, and the criteria of the docstring."""
    on_mnist = table["dataset"].iloc[0] == "mnist"
    over = judged_over(table)
    claims = []
    for part in dict.fromkeys((over, ALL_ARMS)):
        across = table[table["over"] == part].set_index(["experiment", "predictor"])
        for (experiment, predictor), row in across.iterrows():  # pyright: ignore[reportGeneralTypeIssues]
            holds = None
            if on_mnist and predictor == "alignment" and part == over:
                moved = across["rho"].get((experiment, "moved"), 0.0)
                enough = experiment not in STATED or row["rho"] > 0.8
                holds = bool(enough and abs(row["rho"]) > abs(moved))
            claims.append(
                Claim(
                    quantity=f"{experiment}: {predictor}, over {row['pairs']} {part}",
                    here=statistics.bracketed(row["rho"], row["low"], row["high"]),
                    seeds=int(row["pairs"]),
                    holds=holds,
                )
            )
    (before, size), (after, size_after) = (
        best(table, known, over) for known in ("before", "after")
    )
    within = best(table, "before", WITHIN)[1]
    # No criterion of before the run, so not in the table.
    recipes_only = Claim(quantity="", holds=bool(size > 0.7 and within < 0.2) if on_mnist else None)
    where = "Where starts vary, " if over == VARYING else ""
    leading = f"{where}{before} predicts best, before training, which arm is taught"
    leading = leading[0].upper() + leading[1:]
    figure = Figure(
        name="figure",
        title=say(
            [recipes_only],
            holds=leading,
            fails=leading,
            open="Which number, known before training, predicts best which arm is taught?",
        ),
        predicted="Alignment predicts best before training, the angle after it.",
        found=f"Mean absolute rank correlation across {over}: before {before} ({size:.2f}), after "
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
    """Correlation of each predictor with accuracy, across arms, where starts vary, and within."""
    names = table["experiment"].unique()
    figure, panels = drawing.new_grid(len(names), COLUMNS, width=4.3, height=3.8)
    predictors = [*BEFORE, *AFTER]
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for place, over in enumerate((ALL_ARMS, VARYING, WITHIN)):  # an experiment may lack one
            part = table[(table["experiment"] == name) & (table["over"] == over)]
            y = [predictors.index(p) + 0.25 * (place - 1) for p in part["predictor"]]
            errors = np.abs(part[["low", "high"]].to_numpy().T - part["rho"].to_numpy())
            look = {"color": drawing.COLOURS[place], "label": over if i == 0 else None}
            axes.errorbar(part["rho"], y, xerr=errors, fmt="o", ms=4, capsize=2, **look)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.axhline(len(BEFORE) - 0.5, color="black", linestyle=":", linewidth=1)
        shown = [IN_WORDS[p] for p in predictors] if i % COLUMNS == 0 else []
        axes.set_yticks(range(len(predictors)), shown, fontsize=9)
        axes.set_ylim(len(predictors) - 0.5, -0.5)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks((-1, -0.5, 0, 0.5, 1))
        axes.set_title(name.removeprefix("mnist_").replace("_", " "))
        axes.set_xlabel("Spearman with accuracy")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
