"""Which number, known before or during training, predicts how much of a trait a student acquires?

Over the arms of the other questions of the microworld, whose effects are read from their tables:
starts (which_part), matched starts (matching_dose), carriers, temperatures and rows (bits), dropout
(along_training) and generations of students (generations). Their recipes are made again and
measured, for every trait and not the teacher's own alone:

    gain         first-order gain ⟨d, g⟩ of imitation on the trait's log-odds, before any step
    cosine       of the same two
    coverage     cosine of d with the teacher's displacement (arXiv 2606.22019)
    moved        KL(teacher ‖ base) on the student's inputs, nats a token
    alignment    of the tangent kernels of both starts, for the teacher's own trait
    accumulated  the first-order gain summed along the student's training: ⟨d, g⟩ at ten points,
                 where d is of the student's own loss
    in all ...   gain and moved times the tokens of all different rows

Criteria, fixed before the run. "All students": every student and trait, where gain before any step
had a rank correlation of .38 in the first run of `prediction`. 1. There the accumulated gain
exceeds .5, and exceeds gain within chains (paired over chains, above zero). 2. Across arms (means
of own effects) the best predictor known before training is the alignment. Nothing is asked within
arms.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import experiments
from experiments.lab import arms, drawing, frame, judging, predictors, question, record, statistics
from experiments.lab.chains import Cohort
from experiments.lab.effects import at, effects
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Workshop, students

RUNTIME = "2 hours on one core, after the experiments that it reads"

BEFORE = ("gain", "cosine", "coverage", "moved", "alignment", "in all gain", "in all moved")
PREDICTORS = (*BEFORE, "accumulated")
SCOPES = ("all students", "own traits", "arms", "within arms")
RIVALS = ("coverage", "in all gain", "gain", "alignment")  # of the best before training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    runs: str = option("experiments/results", "folder of finished runs; empty: toy runs made now")
    sources: tuple[str, ...] = option(tuple(arms.OF), "experiments read", choices=tuple(arms.OF))
    num_seeds: int = option(8, "chains of each, the first ones", minimum=2)
    arms: int = option(0, "of each experiment, the first ones; 0: all", minimum=0)
    blocks: int = option(10, "points along training", minimum=1)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )


SMOKE = Config(runs="", sources=("along_training",), num_seeds=2, arms=1, blocks=5)


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every arm of every experiment that is there.

    Raises:
        ValueError: if none of them has been run.
    """
    folder = pathlib.Path(config.runs)
    there = [s for s in config.sources if not config.runs or (folder / s / "results.csv").exists()]
    if not there:
        raise ValueError(f"no tables in {folder}; run {config.sources[0]} first, or give --runs")
    found, workshop = {}, Workshop(pathlib.Path(config.work))
    for source in there:
        module = experiments.load(source)
        toy = dataclasses.replace(module.SMOKE, traits=("owl", "wolf"))
        stored = frame.config_of(module, folder / source) if config.runs else toy
        bench = question.bench(stored, workshop)
        every = arms.OF[source](module, bench)
        for name, (columns, recipes) in list(every.items())[: config.arms or None]:
            found[f"{source}: {name}"] = functools.partial(
                arm, config, bench, source=source, name=name, columns=columns, recipes=recipes
            )
    return found


def arm(
    config: Config,
    bench: question.Bench,
    *,
    source: str,
    name: str,
    columns: Row,
    recipes: Callable[[], Cohort],
) -> list[Row]:
    """Predictors of an arm's students beside their effects, for every trait."""
    every, traits = recipes(), bench.config.traits
    keys = ["teacher", "trait", "seed"]
    if config.runs:
        table = at(record.read_table(pathlib.Path(config.runs) / source), **columns)
    else:
        table = pd.DataFrame(bench.measured(every))
    acquired = effects(table).set_index(keys)[["effect", "own"]]
    pairs = zip(*every, strict=True)
    first = [(row, model) for row, model in pairs if row["seed"] < config.num_seeds]
    cohort = Cohort(*map(list, zip(*first, strict=True)))
    rows = known(bench, cohort, traits, config.blocks)
    joined = rows.join(acquired, on=keys).dropna(subset=["effect"])
    told = joined.assign(source=source, arm=name)
    return [{str(k): shortened(v) for k, v in row.items()} for row in told.to_dict("records")]


def shortened(value: Any) -> Any:
    """Numbers to seven digits, all that float32 has; anything else as it is."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def known(
    bench: question.Bench, cohort: Cohort, traits: tuple[str, ...], blocks: int
) -> pd.DataFrame:
    """Every predictor by teacher, trait and seed."""
    keys = ["teacher", "trait", "seed"]
    found = pd.DataFrame(predictors.first_step(bench.workshop, cohort, traits))[
        [*keys, "gain", "cosine", "coverage", "moved"]
    ]
    along = pd.DataFrame(predictors.along_training(bench.workshop, cohort, traits, blocks))
    total = along.groupby(keys)["gain"].mean().rename("accumulated")
    aligned = predictors.kernel_alignment(bench.workshop, cohort, traits)
    facts = [
        row | {"trait": row["teacher"], "alignment": of_run["alignment"]}
        for row, of_run in zip(cohort.labels, aligned, strict=True)
        if of_run
    ]
    tokens = pd.DataFrame(
        {
            "teacher": cohort.labels[i]["teacher"],
            "seed": cohort.labels[i]["seed"],
            "tokens": different_tokens(bench, cohort.models[i]),
        }
        for i, _ in cohort.pairs()
    )
    found = found.join(total, on=keys).merge(tokens, on=["teacher", "seed"])
    return found.merge(pd.DataFrame(facts)[[*keys, "alignment"]], on=keys, how="left")


def different_tokens(bench: question.Bench, student: students.Student) -> float:
    """Tokens that a student is trained on, each row counted once."""
    examples, _ = students.examples_of(bench.workshop, student)
    count = student.unique or len(examples.tokens)
    return float((examples.weights[:count] > 0).sum())


class Found:
    """Every student and trait, with its predictors and its effect."""

    def __init__(self, table: pd.DataFrame):
        in_all = {f"in all {name}": table[name] * table["tokens"] for name in ("gain", "moved")}
        # Of a shared start it is 1 but for round-off, which must not rank the arms.
        alignment = table["alignment"].round(4)
        arm, bit = table["source"] + ": " + table["arm"], table["own"].astype(float)
        self.all = table.assign(arm=arm, alignment=alignment, bit=bit, **in_all)
        self.scopes = scopes_of(self.all)
        self.arms = self.scopes["arms"]

    @functools.cached_property
    def without(self) -> list[dict[str, pd.DataFrame]]:
        """The scopes without each chain in turn."""
        chains = self.all["seed"].unique()
        return [scopes_of(self.all[self.all["seed"] != chain]) for chain in chains]

    def correlation(self, name: str, scope: str) -> tuple[float, ...]:
        """Rank correlation of a predictor with the effect, and its interval over chains.

        The interval is the jackknife's on the scale of arctanh, where it is nearly symmetric.
        """
        rho = correlation(self.scopes[scope], name)
        if not np.isfinite(rho):
            return np.nan, -1.0, 1.0
        rest = [correlation(scopes[scope], name) for scopes in self.without]
        half = statistics.jackknife(np.arctanh(np.clip(rest, -0.9999, 0.9999)))
        centre = np.arctanh(np.clip(rho, -0.9999, 0.9999))
        return rho, float(np.tanh(centre - half)), float(np.tanh(centre + half))

    def less(self, name: str, other: str, scope: str) -> str:
        """How much larger the correlation of one predictor is than another's, as text."""
        gaps = [
            correlation(scopes[scope], name) - correlation(scopes[scope], other)
            for scopes in (self.scopes, *self.without)
        ]
        return f"{gaps[0]:.2f} ± {statistics.jackknife(gaps[1:]):.2f}"

    def later_less_before(self) -> np.ndarray:
        """By how much the gain along training tells more than that before it, chain by chain."""
        return np.array(
            [
                correlation(part, "accumulated") - correlation(part, "gain")
                for _, part in self.all.groupby("seed")
            ]
        )

    def shown(self, name: str, scope: str) -> str:
        """As text."""
        rho, low, high = self.correlation(name, scope)
        return f"{rho:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite(rho) else "not defined"

    @functools.cached_property
    def best_before(self) -> str:
        """The predictor known before training of the largest correlation across arms."""
        found = {name: correlation(self.arms, name) for name in BEFORE}
        return max(found, key=lambda name: np.nan_to_num(found[name], nan=-1.0))


def scopes_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Students and all traits, their teachers' own traits, arms, and what is left within arms."""
    mine, columns = table[table["own"]], [*PREDICTORS, "effect"]
    means = mine.groupby("arm", sort=False)[columns].mean()
    within = mine[columns] - mine.groupby("arm")[columns].transform("mean")
    return dict(zip(SCOPES, (table, mine, means, within), strict=True))


def correlation(rows: pd.DataFrame, name: str) -> float:
    """Rank correlation of a predictor with the effect; not a number of fewer than three."""
    pairs = rows[[name, "effect"]].dropna()
    if len(pairs) < 3:
        return np.nan
    return statistics.rank_correlation(pairs[name].to_numpy(), pairs["effect"].to_numpy())


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """All predictors in all scopes, and the best of them arm by arm."""
    found = Found(table)
    best = found.best_before
    return [
        Figure(
            name="figure",
            title=(
                "The gain summed along training predicts the effect no better than the gain "
                "before it"
            ),
            predicted=(
                "Above .5 over all students, where the gain had .38 in the first run of "
                "`prediction`."
            ),
            found=f"Over all students: gain {found.shown('gain', 'all students')}, accumulated "
            f"{found.shown('accumulated', 'all students')}; across {len(found.arms)} arms "
            f"accumulated {found.shown('accumulated', 'arms')}.",
            follows=(
                "Of sampled tokens it says less; by KL, the loss of the gain, no less is shown."
            ),
            draw=lambda: draw_all(found),
        ),
        Figure(
            name="arms",
            title=(
                f"Of what is known before training {best} has the largest correlation across arms"
            ),
            predicted="The alignment of the tangent kernels.",
            found=f"Across arms {best} {found.shown(best, 'arms')}, alignment "
            f"{found.shown('alignment', 'arms')}.",
            follows=(
                "It tells arms of little from arms of much; among the largest it does not order "
                "them."
            ),
            draw=lambda: draw_arms(found, best),
        ),
    ]


def draw_all(found: Found):
    """Correlation of every predictor with its interval, a colour a scope."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.6)
    for shift, scope in enumerate(SCOPES):
        values = [found.correlation(name, scope) for name in PREDICTORS]
        rho, low, high = (np.array(side) for side in zip(*values, strict=True))
        place = np.arange(len(PREDICTORS)) + 0.18 * (shift - 1.5)
        error = np.maximum([rho - low, high - rho], 0)
        colour = drawing.COLOURS[shift]
        panel.errorbar(rho, place, xerr=error, fmt="o", color=colour, capsize=3, label=scope)
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(PREDICTORS)), PREDICTORS)
    panel.invert_yaxis()
    panel.set_xlim(-1.05, 1.05)
    panel.set_xlabel("rank correlation with the effect")
    panel.legend(fontsize=8)
    return figure


def draw_arms(found: Found, name: str):
    """Mean effect against the mean of a predictor, an arm a point, a colour an experiment."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    sources = found.arms.index.str.split(": ").str[0]
    for look, source in zip(drawing.looks(), sources.unique(), strict=False):
        mine = found.arms[sources == source]
        panel.plot(mine[name], mine["effect"], linestyle="", label=source, **look)
    panel.set_xlabel(name)
    panel.set_ylabel("mean own effect (nats)")
    panel.legend(fontsize=8)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every predictor in every scope beside them."""
    found, out = Found(table), []
    chains = table["seed"].nunique()
    enough = chains >= 4
    for scope, name in itertools.product(SCOPES, PREDICTORS):
        above = name == "accumulated" and scope == "all students" and enough
        holds = correlation(found.scopes[scope], name) > 0.5 if above else None
        text = f"{scope}, {name}"
        out.append(Claim(quantity=text, here=found.shown(name, scope), seeds=chains, holds=holds))
    more = found.later_less_before()
    out.append(judging.judged("accumulated less gain, by chain", more, criterion="above"))
    best = found.best_before
    holds = best == "alignment" if enough else None
    out.append(
        Claim(quantity="best before training, across arms", here=best, seeds=chains, holds=holds)
    )
    return [*out, *afterwards(table, found, chains)]


def afterwards(table: pd.DataFrame, found: Found, chains: int) -> list[Claim]:
    """What was asked after the first run: rivals, one bit, and parts of the arms."""
    best = found.best_before
    here = {f"arms: {best} less {n}": found.less(best, n, "arms") for n in RIVALS if n != best}
    here["all students, own trait or not"] = found.shown("bit", "all students")
    here["all students: cosine less own trait or not"] = found.less("cosine", "bit", "all students")
    # Whose loss along training is that of the gain before it; the others', of sampled tokens.
    kl = table["source"].isin(("which_part", "matching_dose")) | table["arm"].str.startswith("soft")
    for name, part in {"by KL": table[kl], "of sampled tokens": table[~kl]}.items():
        if len(part):
            more = Found(part).later_less_before()
            here[f"accumulated less gain, by chain, {name}"] = statistics.shown(more, 2)
    rest = table[table["source"] != "bits"]
    if len(rest):
        of_rest = Found(rest)
        for name in ("cosine", "gain"):
            here[f"arms without bits, {name}"] = of_rest.shown(name, "arms")
    return [Claim(quantity=name, here=text, seeds=chains) for name, text in here.items()]
