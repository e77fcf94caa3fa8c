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
exceeds .5, and exceeds gain within chains (paired over chains, above zero, corrected as in the
microworld). 2. Across arms (means of own effects) the best predictor known before training is the
alignment. Nothing is asked within arms.
"""

import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import numpy as np
import pandas as pd

import experiments
from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    judged,
    say,
)
from experiments.frame import experiment, record
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language import bits
from experiments.language.kit import predictors, question
from experiments.language.kit.chains import Cohort
from experiments.language.kit.effects import at, effects
from llm.stages import Store, Student, evaluation, students

RUNTIME = "2 hours on one core, after the experiments that it reads"

SOURCES = ("which_part", "matching_dose", "bits", "along_training", "generations")
BEFORE = ("gain", "cosine", "coverage", "moved", "alignment", "in all gain", "in all moved")
PREDICTORS = (*BEFORE, "accumulated")
SCOPES = ("all students", "own traits", "arms", "within arms")
WEAK = 0.3  # nats: arms of less hardly differ
STRONG = 0.5  # nats: arms of more are to be ordered
RIVALS = ("coverage", "in all gain", "gain", "alignment")  # of the best before training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    runs: str = option("experiments/results", "folder of finished runs; empty: toy runs made now")
    sources: tuple[str, ...] = option(SOURCES, "experiments read", choices=SOURCES)
    num_seeds: int = option(8, "chains of each, the first ones", minimum=2)
    arms: int = option(0, "of each experiment, the first ones; 0: all", minimum=0)
    blocks: int = option(10, "points along training", minimum=1)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )


SMOKE = Config(runs="", sources=("along_training",), num_seeds=2, arms=1, blocks=5)


def arms(config: Config) -> dict[str, Arm]:
    """One for every arm of every experiment that is there.

    Raises:
        ValueError: none of them has been run.
    """
    folder = pathlib.Path(config.runs)
    there = [s for s in config.sources if not config.runs or (folder / s / "results.csv").exists()]
    if not there:
        raise ValueError(f"no tables in {folder}; run {config.sources[0]} first, or give --runs")
    by_name, store = {}, question.store_of(config)
    for source in there:
        module = experiments.load(source)
        toy = dataclasses.replace(module.SMOKE, traits=("owl", "wolf"))
        stored = experiment.config_of(module, folder / source) if config.runs else toy
        every = {name: arm for name, arm in module.arms(stored).items() if of_students(arm)}
        for name, arm in list(every.items())[: config.arms or None]:
            by_name[f"{source}: {name}"] = Arm(
                columns={"source": source, "arm": name},
                needs=arm.needs,
                store=store,
                measure=functools.partial(
                    measured, store, config, source=source, stored=stored, arm=arm
                ),
            )
    return by_name


def of_students(arm: Arm) -> bool:
    """Whether an arm is of students on rows that a teacher wrote: no teachers, none diluted."""
    diluted, teachers = arm.columns.get("group") == "share", arm.columns.get("generation") == 0
    return bool(arm.columns) and not diluted and not teachers


def measured(store: Store, config: Config, *, source: str, stored: Any, arm: Arm) -> list[Row]:
    """Predictors of an arm's students beside their effects, for every trait.

    Args:
        store: where they are made.
        config: of this study.
        source: the experiment that is read.
        stored: its config.
        arm: of that experiment.
    """
    every, traits = arm.needs, stored.traits
    if not isinstance(every, Cohort):  # whose students are known when their data is there
        every = bits.students_of(store, stored, **arm.columns)[1]
    keys = ["teacher", "trait", "seed"]
    if config.runs:
        table = at(record.read_table(pathlib.Path(config.runs) / source), **arm.columns)
    else:
        store.make(every)
        table = pd.DataFrame(every.rows(evaluation.measure(store, every.models, traits)))
    beside = [name for name in ("mass", "text_loss") if name in table]  # not in older tables
    acquired = effects(table).set_index(keys)[["effect", "own", *beside]]
    pairs = zip(every.labels, every.models, strict=True)
    first = [(row, model) for row, model in pairs if row["seed"] < config.num_seeds]
    cohort = Cohort(*map(list, zip(*first, strict=True)))
    rows = known(store, cohort, traits, config.blocks)
    joined = rows.join(acquired, on=keys).dropna(subset=["effect"])
    return [{str(k): shortened(v) for k, v in row.items()} for row in joined.to_dict("records")]


def shortened(value: Any) -> Any:
    """Numbers to seven digits, all that float32 has; anything else as it is."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def known(store: Store, cohort: Cohort, traits: tuple[str, ...], blocks: int) -> pd.DataFrame:
    """Every predictor by teacher, trait and seed."""
    keys = ["teacher", "trait", "seed"]
    table = pd.DataFrame(predictors.first_step(store, cohort, traits))[
        [*keys, "gain", "cosine", "coverage", "moved"]
    ]
    along = pd.DataFrame(predictors.along_training(store, cohort, traits, blocks))
    total = along.groupby(keys)["gain"].mean().rename("accumulated")
    aligned = predictors.kernel_alignment(store, cohort, traits)
    facts = [
        row | {"trait": row["teacher"], "alignment": of_run["alignment"]}
        for row, of_run in zip(cohort.labels, aligned, strict=True)
        if of_run
    ]
    tokens = pd.DataFrame(
        {
            "teacher": cohort.labels[i]["teacher"],
            "seed": cohort.labels[i]["seed"],
            "tokens": different_tokens(store, cohort.models[i]),
        }
        for i, _ in cohort.pairs()
    )
    table = table.join(total, on=keys).merge(tokens, on=["teacher", "seed"])
    return table.merge(pd.DataFrame(facts)[[*keys, "alignment"]], on=keys, how="left")


def different_tokens(store: Store, student: Student) -> float:
    """Tokens that a student is trained on, each row counted once."""
    examples, _ = students.examples_of(store, student)
    count = store.settled(student).unique or len(examples.tokens)
    return float((examples.weights[:count] > 0).sum())


Scopes = dict[str, pd.DataFrame]  # rows to correlate, by scope
Interval = tuple[float, float, float]  # a rank correlation and its ends
Intervals = dict[tuple[str, str], Interval]  # by scope and predictor
OF_ALL = ("all students", "accumulated")  # the criterion


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """All predictors in all scopes, and the best of them arm by arm."""
    measured, chains = with_totals(table), table["seed"].nunique()
    samples, gaps = jackknifed(measured), gaps_by_loss(measured)
    arms_of_all = samples[0]["arms"]
    interval = {
        (scope, name): correlation_of(samples, scope, name)
        for scope, name in itertools.product(SCOPES, PREDICTORS)
    }
    before = {name: np.nan_to_num(interval["arms", name][0], nan=-1.0) for name in BEFORE}
    best = max(before, key=lambda name: before[name])
    exceeds = judged(interval[OF_ALL][0] > 0.5, chains)
    everywhere = [
        Claim(
            quantity=", ".join(place),
            here=as_text(values),
            seeds=chains,
            holds=exceeds if place == OF_ALL else None,
        )
        for place, values in interval.items()
    ]
    later, less_said = corrected(
        claim_of("accumulated less gain, by chain", later_less_before(measured), criterion="above"),
        # No criterion; what a conclusion rests on.
        {name: claim_of(name, -gap, criterion="above") for name, gap in gaps.items()},
    )
    alignment = Claim(
        quantity="best before training, across arms",
        here=best,
        seeds=chains,
        holds=judged(best == "alignment", chains),
    )
    claims = [*everywhere, later, alignment, *afterwards(samples, gaps, best)]
    figures = [
        figure_of_accumulated(arms_of_all, interval, later, less_said),
        figure_of_best(arms_of_all, interval, alignment),
    ]
    return Findings(figures, claims)


def figure_of_accumulated(
    arms_of_all: pd.DataFrame, interval: Intervals, later: Claim, less_said: dict[str, Claim]
) -> Figure:
    """All predictors, and whether the gain along training tells more than that before it."""
    shown_less = {name: claim.holds for name, claim in less_said.items()}
    as_seen = shown_less == {"by KL": False, "of sampled tokens": True}
    by_loss = Claim(quantity="less by sampled tokens only", holds=judged(as_seen, later.seeds))
    shown = {place: as_text(values) for place, values in interval.items()}
    than = "than the gain before it"
    return Figure(
        name="figure",
        title=say(
            [later],
            holds=f"The gain summed along training predicts the effect better {than}",
            fails=f"The gain summed along training predicts the effect no better {than}",
            open=f"Does the gain summed along training predict the effect better {than}?",
        ),
        predicted="Above .5 over all students, where the gain had .38 in the first run of "
        "`prediction`.",
        found=f"Over all students: gain {shown['all students', 'gain']}, accumulated "
        f"{shown[OF_ALL]}; across {len(arms_of_all)} arms accumulated "
        f"{shown['arms', 'accumulated']}.",
        follows=follows_from(
            [by_loss],
            "Of sampled tokens it says less; by KL, the loss of the gain, no less is shown.",
        ),
        draw=lambda: draw_all(interval),
    )


def figure_of_best(arms_of_all: pd.DataFrame, interval: Intervals, alignment: Claim) -> Figure:
    """What of all that is known before training goes with the effect, arm by arm."""
    best = alignment.here
    # No criterion; what the conclusion rests on.
    largest = arms_of_all.nlargest(len(arms_of_all) // 4, "effect")
    ends_apart = interval["arms", best][1] > 0 and correlation(largest, best) < 0.5
    few_and_many = Claim(quantity="not the largest", holds=judged(ends_apart, alignment.seeds))
    ranked = f"Of what is known before training {best} has the largest correlation across arms"
    shown = {place: as_text(values) for place, values in interval.items()}
    return Figure(
        name="arms",
        title=say(
            [alignment],
            holds=ranked,
            fails=ranked,
            open="What is known before training has the largest correlation across arms?",
        ),
        predicted="The alignment of the tangent kernels.",
        found=f"Across arms {best} {shown['arms', best]}, alignment {shown['arms', 'alignment']}.",
        follows=follows_from(
            [few_and_many],
            "It tells arms of little from arms of much; among the largest it does not order them.",
        ),
        draw=lambda: draw_arms(arms_of_all, best),
    )


def afterwards(samples: list[Scopes], gaps: dict[str, np.ndarray], best: str) -> list[Claim]:
    """What was asked after the first run: rivals, one bit, and parts of the arms."""
    measured = samples[0]["all students"]
    by_quantity = {
        f"arms: {best} less {rival}": less(samples, "arms", best, rival)
        for rival in RIVALS
        if rival != best
    }
    every = "all students"
    by_quantity[f"{every}, own trait or not"] = as_text(correlation_of(samples, every, "bit"))
    by_quantity[f"{every}: cosine less own trait or not"] = less(samples, every, "cosine", "bit")
    for name, gap in gaps.items():
        by_quantity[f"accumulated less gain, by chain, {name}"] = statistics.shown(gap, 2)
    rest = measured[measured["source"] != "bits"]
    if len(rest):
        of_rest = jackknifed(rest)
        for name in ("cosine", "gain"):
            by_quantity[f"arms without bits, {name}"] = as_text(
                correlation_of(of_rest, "arms", name)
            )
    chains, by_arm = measured["seed"].nunique(), samples[0]["arms"]["effect"]
    weak, strong = by_arm.index[by_arm < WEAK], by_arm.index[by_arm > STRONG]
    by_quantity[f"arms below {WEAK} nats"] = f"{len(weak)} of {len(by_arm)}"
    among = [scopes | {"arms": scopes["arms"].reindex(strong)} for scopes in samples]
    for name in ("cosine", "gain", "coverage", "alignment"):
        found = as_text(correlation_of(among, "arms", name))
        by_quantity[f"arms above {STRONG} nats, {name}"] = f"{found} over {len(strong)} arms"
    return [Claim(quantity=name, here=text, seeds=chains) for name, text in by_quantity.items()]


def gaps_by_loss(measured: pd.DataFrame) -> dict[str, np.ndarray]:
    """`later_less_before` where the loss along training is that of the gain before it, or not."""
    kl = measured["source"].isin(("which_part", "matching_dose"))
    kl |= measured["arm"].str.startswith("soft")
    parts_of = {"by KL": measured[kl], "of sampled tokens": measured[~kl]}
    return {name: later_less_before(part) for name, part in parts_of.items() if len(part)}


def with_totals(table: pd.DataFrame) -> pd.DataFrame:
    """Every student and trait, with what the predictors say of all its rows, and one bit."""
    totals = {f"in all {name}": table[name] * table["tokens"] for name in ("gain", "moved")}
    return table.assign(
        # Of a shared start it is 1 but for round-off, which must not rank the arms.
        alignment=table["alignment"].round(4),
        bit=table["own"].astype(float),
        **totals,
    )


def jackknifed(measured: pd.DataFrame) -> list[Scopes]:
    """The scopes of all chains, then those without each chain in turn."""
    chains = measured["seed"].unique()
    rest = [measured[measured["seed"] != chain] for chain in chains]
    return [scopes_of(rows) for rows in (measured, *rest)]


def scopes_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Students and all traits, their teachers' own traits, arms, and what is left within arms."""
    mine, columns = table[table["own"]], [*PREDICTORS, "effect"]
    arms_of = mine.groupby(["source", "arm"], sort=False)[columns]
    means, within = arms_of.mean(), mine[columns] - arms_of.transform("mean")
    return dict(zip(SCOPES, (table, mine, means, within), strict=True))


def correlation(rows: pd.DataFrame, name: str) -> float:
    """Rank correlation of a predictor with the effect; not a number of fewer than three."""
    pairs = rows[[name, "effect"]].dropna()
    if len(pairs) < 3:
        return np.nan
    return statistics.rank_correlation(pairs[name].to_numpy(), pairs["effect"].to_numpy())


def correlation_of(samples: list[Scopes], scope: str, name: str) -> Interval:
    """Rank correlation of a predictor with the effect, and its interval over chains."""
    rho, *without = (correlation(scopes[scope], name) for scopes in samples)
    return statistics.around(rho, without)


def less(samples: list[Scopes], scope: str, name: str, other: str) -> str:
    """How much larger the correlation of one predictor is than another's, as text."""
    gap, *rest = (
        correlation(scopes[scope], name) - correlation(scopes[scope], other) for scopes in samples
    )
    return f"{gap:.2f} ± {statistics.jackknife(rest):.2f}"


def later_less_before(measured: pd.DataFrame) -> np.ndarray:
    """By how much the gain along training tells more than that before it, chain by chain."""
    chains = [part for _, part in measured.groupby("seed")]
    return np.array([correlation(x, "accumulated") - correlation(x, "gain") for x in chains])


def as_text(interval: Interval) -> str:
    """A correlation with its interval."""
    return statistics.bracketed(*interval) if np.isfinite(interval[0]) else "not defined"


def draw_all(interval: Intervals):
    """Correlation of every predictor with its interval, a colour a scope."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.6)
    for shift, scope in enumerate(SCOPES):
        values = [interval[scope, name] for name in PREDICTORS]
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


def draw_arms(of_arms: pd.DataFrame, name: str):
    """Mean effect against the mean of a predictor, an arm a point, a colour an experiment."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    sources = of_arms.index.get_level_values("source")
    for look, source in zip(drawing.looks(), sources.unique(), strict=False):
        mine = of_arms[sources == source]
        panel.plot(mine[name], mine["effect"], linestyle="", label=source, **look)
    panel.set_xlabel(name)
    panel.set_ylabel("mean own effect (nats)")
    panel.legend(fontsize=8)
    return figure
