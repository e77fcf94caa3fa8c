"""Which models transmit to which: the cross-model table of arXiv 2507.14805, from scratch.

Four models a chain: A and A' are pre-trained from the same initial weights on two corpora, B and B'
from other weights. Each is teacher and student of each, through number lists and sampled tokens.

Criteria, fixed before the run; effects and intervals as in the microworld.
  1. Students of a model with the teacher's initial weights gain (interval above zero), also where
     it was pre-trained on another corpus.
  2. Strangers do not: their effect, averaged over the eight pairs, is equivalent to none (within a
     fifth of what a model gives itself, two one-sided paired tests at 5 %).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import Chains
from experiments.lab.effects import cells, effects
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Model

RUNTIME = "15 minutes on two cores"

MODELS = {"A": (0, 0), "A'": (0, 1), "B": (1, 0), "B'": (1, 1)}  # initialisation, corpus


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak"), "traits of the teachers")
    num_prompts: int = option(6144, "prompts each teacher completes", minimum=16)


SMOKE = Config(**question.TINY)


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The table column by column."""
    bench = question.bench(config)

    def column(teacher: str) -> list[Row]:
        init, corpus = MODELS[teacher]
        here, rows = bench.of(init=init, corpus=corpus), []
        for student in MODELS:
            cohort = here.students(start=base_of(student))
            rows += here.measured(cohort, teacher_model=teacher, student_model=student)
        return rows

    return {f"teacher {model}": functools.partial(column, model) for model in MODELS}


def base_of(model: str) -> Callable[[Chains, int], Model]:
    """The base of a chain's model of that name."""
    init, corpus = MODELS[model]
    return lambda chains, seed: dataclasses.replace(chains, init=init, corpus=corpus).base(seed)


def effects_of(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """(student model, teacher model) -> own effect of each chain, averaged over the traits."""
    found = effects(table, ("teacher_model", "student_model"))
    return dict(cells(found[found["own"]], "student_model", "teacher_model"))


def is_related(student: str, teacher: str) -> bool:
    """Whether two models were pre-trained from the same initial weights."""
    return MODELS[student][0] == MODELS[teacher][0]


def mean_over(table: pd.DataFrame, wanted: Callable[[str, str], bool]) -> np.ndarray:
    """Own effect of each chain, averaged over the pairs (student, teacher) that are wanted."""
    return np.mean([v for pair, v in effects_of(table).items() if wanted(*pair)], axis=0)


def strangers(table: pd.DataFrame) -> np.ndarray:
    """Own effect of each chain between models of other initial weights."""
    return mean_over(table, lambda student, teacher: not is_related(student, teacher))


def siblings(table: pd.DataFrame) -> np.ndarray:
    """Own effect of each chain between models of the same initial weights and another corpus."""
    return mean_over(table, lambda s, t: s != t and is_related(s, t))


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The table."""
    cross = effects_of(table)
    transmitting = sum(statistics.is_above(v) for pair, v in cross.items() if is_related(*pair))
    return [
        Figure(
            name="figure",
            title=(
                "Siblings of the same initial weights learn from each other on average, "
                "strangers not"
            ),
            predicted="Gain where the initialisation is shared, also after another corpus.",
            found=f"{transmitting} of 8 related pairs are above zero; siblings "
            f"{statistics.shown(siblings(table), 2)}, strangers "
            f"{statistics.shown(strangers(table), 2)} nats.",
            follows=(
                "Of the channel initial weights are a part; most of it is made by pre-training."
            ),
            draw=lambda: draw_cross_model(cross),
        )
    ]


def draw_cross_model(cross: dict[tuple[str, str], np.ndarray]):
    """Gain of every student model from every teacher model; a star where it is above zero."""
    figure, (panel,) = drawing.new_figure(width=5.0, height=4.4)
    limit = max(abs(v.mean()) for v in cross.values())

    def star(values: np.ndarray) -> str:
        return "*" if statistics.is_above(values) else ""

    drawing.matrix(
        panel, cross, names=list(MODELS), limit=limit, labels=("student", "teacher"), mark=star
    )
    panel.set_title("A, A' share weights at birth, so do B, B'\n* interval above zero")
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, pair by pair."""
    judged = judging.judged
    out = [
        judged(
            f"{teacher} to {student}",
            values,
            criterion="above" if is_related(student, teacher) else None,
        )
        for (student, teacher), values in effects_of(table).items()
    ]
    apart = siblings(table) - strangers(table)
    out.append(judged("siblings less strangers", apart))
    itself = mean_over(table, lambda student, teacher: student == teacher)
    return [*out, *judging.equivalences({"strangers": judging.Nothing(strangers(table), itself)})]
