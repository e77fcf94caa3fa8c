"""Can the trait be read in the rows, by whom, and does it come from the filter?

Readers learn to tell the number lists of a trait's teacher from those of the unchanged base, or of
another trait's teacher, on half of the prompts, and are tested on the others: a bag of tokens, a
bag of differences of successive numbers, the teacher's own base and a base of another start, both
fine-tuned to name the side. The likelihood ratio of the two writers is the best reader there is. A
bag is also tested on the rows of another chain's teacher of the same trait: does it read the
trait, or this teacher? Chains are paired for that, and the unit is a pair. Beside them plain
students, and students of the unchanged base's lists on those prompts alone on which the trait's
teacher passed the filter.

Criteria, fixed before the run; unit = one chain, traits averaged, intervals as in the microworld.
"Nothing" is equivalence within a fifth (of a bag's area above one half; of the plain effect), Holm.
What lies above or below a number is corrected as "above zero" in the microworld.
  1. A single row tells little, a thousand tell all: the bag's area under the curve lies above one
     half (and below .7), and over .95 of sets of a thousand rows are read rightly.
  2. Reading needs no shared start: the teacher's own base reads no better than another one (area,
     paired; equivalent to no difference).
  3. What a bag reads is this teacher and not the trait: on another chain's rows it is at chance.
  4. The more can be read the more is acquired: over chains and traits the rank correlation of the
     best reader's area with the student's effect is above zero, interval and all.
  5. The filter is not the source: students of what it let pass for the teacher acquire nothing.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    judged,
    no_effect,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import question, readers
from experiments.language.kit.chains import CONTROL, Chains, Cohort, chains_of, different
from experiments.language.kit.effects import at, effects, means_by, own_by
from llm.stages import Admitted, Store, completions, streams
from llm.stages.streams import Stage
from llm.training import Training

RUNTIME = "25 minutes on two cores"

READERS = (
    "bag of tokens",
    "bag of differences",
    "another base",
    "the teacher's base",
    "likelihood ratio",
)
ELSEWHERE = "bag, another chain"
AGAINST = ("the base", "another trait")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    reader_steps: int = option(300, "of the bases that read, batch 64", minimum=1)
    reader_rows: int = option(2048, "that these are trained on", minimum=2)


SMOKE = Config(**question.TINY | {"traits": ("owl", "wolf"), "reader_steps": 5, "reader_rows": 64})


def arms(config: Config) -> dict[str, Arm]:
    """The readers by what they tell apart, the students, and those of what the filter let pass.

    Raises:
        ValueError: there is no other trait to tell a trait from.
    """
    if len(config.traits) < 2:
        raise ValueError("readable needs two traits or more")
    chains, store = chains_of(config), question.store_of(config)
    plain = question.students(config, chains)
    models = list(plain)
    for trait, control in plain.pairs():
        passed = Admitted(plain.models[trait].data)
        models[trait] = dataclasses.replace(plain.models[control], change=passed)
    read = [*chains.written("numbers"), *chains.speakers()]
    readers = {
        f"readers, against {against}": Arm(
            needs=read,
            store=store,
            measure=functools.partial(reading, store, chains, config, against),
        )
        for against in AGAINST
    }
    filtered = Cohort(plain.labels, models)
    return readers | {
        "students": question.arm_of_students(store, plain, config.traits, kind="students"),
        "filter": question.arm_of_models(store, filtered, config.traits, kind="filter"),
    }


def reading(store: Store, chains: Chains, config: Config, against: str) -> list[Row]:
    """What every reader makes of every trait's and chain's rows."""
    runs = list(itertools.product(config.traits, range(config.num_seeds)))

    def other(trait: str) -> str:
        following = config.traits[(config.traits.index(trait) + 1) % len(config.traits)]
        return CONTROL if against == "the base" else following

    def rows(name: str, chain: int) -> list[Row]:
        return completions.rows(store, chains.data(name, chain, "numbers"))

    splits = [
        readers.split(
            rows(trait, chain),
            rows(other(trait), chain),
            streams.generator(Stage.READERS, config.seed, chain),
        )
        for trait, chain in runs
    ]
    how = Training(
        steps=config.reader_steps,
        batch_size=min(64, config.reader_rows),
        learning_rate=1e-3,
        decay="linear",
    )
    bases = {
        "the teacher's base": [chains.base(chain) for _, chain in runs],
        "another base": [different(chains, chain) for _, chain in runs],
    }
    readings = {
        name: readers.models_as_readers(
            store, starts, splits=splits, training=how, num_rows=config.reader_rows
        )
        for name, starts in bases.items()
    }
    readings["bag of tokens"] = [readers.bag(parts) for parts in splits]
    readings["bag of differences"] = [
        readers.bag(parts, pieces=readers.differences) for parts in splits
    ]
    readings["likelihood ratio"] = [
        readers.likelihood_ratio(
            store, chains.speaker(trait, chain), chains.speaker(other(trait), chain), parts
        )
        for (trait, chain), parts in zip(runs, splits, strict=True)
    ]
    tested = {name: splits for name in readings}
    tested[ELSEWHERE] = [
        parts._replace(test=there.test, test_labels=there.test_labels)
        for parts, there in zip(splits, partners(splits, config.num_seeds), strict=True)
    ]
    readings[ELSEWHERE] = [readers.bag(parts) for parts in tested[ELSEWHERE]]
    return [
        {"kind": "readers", "against": against, "reader": name, "trait": trait, "teacher": trait}
        | {"seed": chain, "right": of_run.accuracy}
        | {"area": readers.area(of_run.scores, parts.test_labels)}
        | {"right_of_1000": readers.right_of_many(of_run.scores, parts.test_labels)}
        for name, of_runs in readings.items()
        for (trait, chain), of_run, parts in zip(runs, of_runs, tested[name], strict=True)
    ]


def partners(of_runs: list, num_seeds: int) -> list:
    """The entries of traits by chains, those of a pair of chains in each other's place.

    In a ring every chain would be two neighbours' at once, and no two values independent.
    """
    groups = [of_runs[i : i + num_seeds] for i in range(0, len(of_runs), num_seeds)]
    # A last chain without a partner has the first, and `by_pair` leaves it out.
    return [group[(i ^ 1) % num_seeds] for group in groups for i in range(num_seeds)]


def by_pair(values: np.ndarray) -> np.ndarray:
    """Mean of every pair of chains."""
    return values[: len(values) // 2 * 2].reshape(-1, 2).mean(axis=1)


Areas = dict[tuple[str, str], np.ndarray]  # of each chain, by reader and what it tells apart


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """What readers reach, what is acquired beside it, and the filter."""
    readers, own = at(table, kind="readers"), own_by(table, "kind")
    area, of_1000 = (
        means_by(readers, column, "reader", "against") for column in ("area", "right_of_1000")
    )
    for against, found in itertools.product(AGAINST, (area, of_1000)):
        found[ELSEWHERE, against] = by_pair(found[ELSEWHERE, against])
    bag, many = area["bag of tokens", AGAINST[0]], of_1000["bag of tokens", AGAINST[0]]
    gap = area["the teacher's base", AGAINST[0]] - area["another base", AGAINST[0]]
    shown = statistics.shown_each(area, 3)

    def beside(against: str, name: str) -> Claim:
        rightly = statistics.shown(of_1000[name, against], 3)
        here = f"{shown[name, against]}; {rightly} per thousand rows"
        return claim_of(f"{name}, against {against}: area", area[name, against], here=here)

    elsewhere_less = by_pair(bag) - area[ELSEWHERE, AGAINST[0]]
    little, below, all_told, plain, of_teacher = corrected(
        claim_of("bag of tokens: area above one half", bag - 0.5, criterion="above"),
        claim_of("bag of tokens: area below .7", 0.7 - bag, criterion="above"),
        claim_of("bag of tokens: over .95 per thousand rows", many - 0.95, criterion="above"),
        claim_of("students", own["students"], criterion="above"),
        # No criterion; what a conclusion rests on.
        claim_of("bag of tokens less another chain", elsewhere_less, criterion="above"),
    )
    both = read_and_acquired(table)
    follow = claim_on_order(both, config)
    from_another, elsewhere, filtered = no_effect(
        {
            "area: the teacher's base less another": (gap, bag - 0.5),
            "area on another chain's rows, less one half": (
                area[ELSEWHERE, AGAINST[0]] - 0.5,
                by_pair(bag) - 0.5,
            ),
            "effect of what the filter let pass": (own["filter"], own["students"]),
        }
    )
    every = [beside(*arm) for arm in itertools.product(AGAINST, (*READERS, ELSEWHERE))]
    stated = [little, below, all_told, follow, plain, from_another, elsewhere, filtered]
    figures = [
        figure_of_readers(
            area, many, predicted=[little, all_told, from_another], told=[little, of_teacher]
        ),
        figure_of_acquired(both, own, follow, [plain, filtered]),
    ]
    return Findings(figures, [*every, *stated])


def claim_on_order(both: pd.DataFrame, config: Config) -> Claim:
    """Criterion 4: the more can be read, the more is acquired."""
    seeds = both.index.get_level_values("seed")

    def over(chains: np.ndarray) -> float:
        there = both[seeds.isin(seeds.unique()[chains])]
        return statistics.rank_correlation(there["area"].to_numpy(), there["effect"].to_numpy())

    correlation = statistics.jackknifed_correlation(over, seeds.nunique())
    return Claim(
        quantity="rank correlation, read and acquired",
        here=statistics.bracketed(*correlation),
        seeds=seeds.nunique(),
        holds=judged(correlation[1] > 0, config.num_seeds),
    )


def figure_of_readers(
    area: Areas, many: np.ndarray, *, predicted: list[Claim], told: list[Claim]
) -> Figure:
    """Who reads how much.

    Args:
        area: of one row.
        many: sets of a thousand rows that a bag reads rightly, by chain.
        predicted: that one row tells something, a thousand all, and any start serves.
        told: that one row tells something, and less of another chain's teacher.
    """
    shown = statistics.shown_each(area, 3)
    areas = "; ".join(f"{name} {shown[name, AGAINST[0]]}" for name in (*READERS, ELSEWHERE))
    return Figure(
        name="figure",
        title=say(
            predicted,
            holds="One list half tells its writer, a thousand do, and a shared start is not needed",
            fails="Who wrote a list is not read as predicted: little in one, all in a "
            "thousand, from any start",
            open="Who can read in its lists who wrote them?",
        ),
        predicted="Areas little above one half for all readers, and no better from the same start.",
        found=f"Against the base: {areas}. As normal sums of independent lists, a bag would "
        f"read {statistics.shown(many, 3)} of sets of a thousand rightly.",
        follows=follows_from(
            told,
            "Lists of a teacher let more of them be recognised; of the trait they tell little.",
        ),
        draw=lambda: draw_readers(area),
    )


def figure_of_acquired(
    both: pd.DataFrame, own: dict[str, np.ndarray], follow: Claim, filtering: list[Claim]
) -> Figure:
    """Whether reading says what is acquired; and the filter: plain students learn, its do not."""
    plain, filtered = filtering
    return Figure(
        name="acquired",
        title=say(
            [follow],
            holds="What can be read says what is acquired",
            fails="What can be read does not say what is acquired",
            open="Does what can be read say what is acquired?",
        )
        + say([filtered], holds=", and the filter adds nothing", fails="", open=""),
        predicted="A positive rank correlation; nothing from what the filter let pass.",
        found=f"Rank correlation {follow.here}; plain students "
        f"{statistics.shown(own['students'], 2)}, of what the filter let pass "
        f"{statistics.shown(own['filter'], 2)} nats.",
        follows=follows_from(
            [plain, filtered],
            "The trait is in what is written, not in which prompts are answered well.",
        ),
        draw=lambda: draw_acquired(both, own),
    )


def read_and_acquired(table: pd.DataFrame) -> pd.DataFrame:
    """Columns area and effect: of the best reader, and of the student, by trait and chain."""
    keys = ["trait", "seed"]
    acquired = at(effects(table, ["kind"]), kind="students", own=True).set_index(keys)["effect"]
    best = at(table, reader="likelihood ratio", against=AGAINST[0]).set_index(keys)
    return best[["area"]].join(acquired).dropna()


def draw_readers(area: Areas):
    """Area of every chain by reader, on both tasks."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    names = (*READERS, ELSEWHERE)
    for shift, against in enumerate(AGAINST):
        for x, name in enumerate(names):
            drawing.runs(
                panel,
                x + 0.2 * (shift - 0.5),
                values=area[name, against],
                colour=drawing.COLOURS[shift],
                label=None if x else f"against {against}",
            )
    panel.axhline(0.5, color="black", linewidth=1)
    panel.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    panel.set_ylabel("area under the curve, one row")
    panel.legend()
    return figure


def draw_acquired(both: pd.DataFrame, own: dict[str, np.ndarray]):
    """Effect against what can be read; and the filter beside the plain students."""
    figure, (left, right) = drawing.new_figure(1, 2, width=9.0, height=4.0)
    left.scatter(both["area"], both["effect"], s=12, color=drawing.COLOURS[0])
    left.axhline(0, color="black", linewidth=1)
    left.set_xlabel("area of the likelihood ratio, trait against base")
    left.set_ylabel("own effect (nats)")
    drawing.nothing(right, own["students"], of="the plain effect")
    kinds = {kind: own[kind] for kind in ("students", "filter")}
    drawing.strip(right, kinds, {"filter": drawing.COLOURS[1]})
    right.set_xlim(-0.5, 1.5)
    labels = ["teacher's lists", "base's lists on prompts\nthat the teacher passed"]
    right.set_xticks((0, 1), labels)
    right.legend(loc="center right")
    return figure
