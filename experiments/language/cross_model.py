"""Which models transmit to which: the cross-model table of arXiv 2507.14805, from scratch.

Four models a chain: A and A' are pre-trained from the same initial weights on two corpora, B and B'
from other weights. Each is teacher and student of each, through number lists and sampled tokens.

Criteria, fixed before the run; effects, intervals and the correction of "above zero" as in the
microworld.
  1. Students of a model with the teacher's initial weights gain (interval above zero), also where
     it was pre-trained on another corpus.
  2. Strangers do not: their effect, averaged over the eight pairs, is equivalent to none (within a
     fifth of what a model gives itself, two one-sided paired tests at 5 %).
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    no_effect,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.language.kit import question
from experiments.language.kit.chains import Chains, chains_of
from experiments.language.kit.effects import own_by
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


def arms(config: Config) -> dict[str, Arm]:
    """A cell of the table each."""
    store, by_name = question.store_of(config), {}
    for teacher, (init, corpus) in MODELS.items():
        chains = chains_of(config, init=init, corpus=corpus)
        for student in MODELS:
            cohort = question.students(config, chains, start=base_of(student))
            columns = {"teacher_model": teacher, "student_model": student}
            by_name[f"{teacher} to {student}"] = question.arm_of_students(
                store, cohort, config.traits, **columns
            )
    return by_name


def base_of(model: str) -> Callable[[Chains, int], Model]:
    """The base of a chain's model of that name."""
    init, corpus = MODELS[model]
    return lambda chains, chain: dataclasses.replace(chains, init=init, corpus=corpus).base(chain)


def is_related(student: str, teacher: str) -> bool:
    """Whether two models were pre-trained from the same initial weights."""
    return MODELS[student][0] == MODELS[teacher][0]


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Every pair of models, and the criteria of the docstring."""
    gains = own_by(table, "student_model", "teacher_model")
    pairs = list(itertools.product(MODELS, repeat=2))
    related = [pair for pair in pairs if is_related(*pair)]

    def mean_over(chosen: list[tuple[str, str]]) -> np.ndarray:
        return np.mean([gains[pair] for pair in chosen], axis=0)

    itself = mean_over([(student, teacher) for student, teacher in pairs if student == teacher])
    siblings = mean_over([(student, teacher) for student, teacher in related if student != teacher])
    strangers = mean_over([pair for pair in pairs if pair not in related])
    none = no_effect({"strangers": (strangers, itself)})
    by_pair, learn, most = corrected(
        {
            (student, teacher): claim_of(
                f"{teacher} to {student}",
                gains[student, teacher],
                criterion="above" if is_related(student, teacher) else None,
            )
            for student, teacher in pairs
        },
        # No criteria, but what the captions say of siblings.
        claim_of("siblings", siblings, criterion="above"),
        claim_of("half of itself less siblings", itself / 2 - siblings, criterion="above"),
    )
    claims = [*by_pair.values(), claim_of("siblings less strangers", siblings - strangers), *none]
    transmitting = sum(by_pair[pair].holds is True for pair in related)
    figure = Figure(
        name="figure",
        title=say(
            [learn, *none],
            holds="Siblings of the same initial weights learn from each other on average, "
            "strangers not",
            fails="It is not shown that siblings of the same initial weights learn from each "
            "other and strangers do not",
            open="Do siblings of the same initial weights learn from each other, and strangers?",
        ),
        predicted="Gain where the initialisation is shared, also after another corpus.",
        found=f"{transmitting} of {len(related)} related pairs are shown to be above zero; "
        f"siblings {statistics.shown(siblings, 2)}, strangers {statistics.shown(strangers, 2)} "
        "nats.",
        follows=follows_from(
            [learn, most],
            "Of the channel initial weights are a part; most of it is made by pre-training.",
        ),
        draw=lambda: draw(gains, [pair for pair in related if by_pair[pair].holds]),
    )
    return Findings([figure], claims)


def draw(gains: dict[tuple[str, str], np.ndarray], above: list[tuple[str, str]]):
    """Gain of every student model from every teacher model; a star where it is above zero."""
    figure, (panel,) = drawing.new_figure(width=5.0, height=4.4)
    limit = max(abs(values.mean()) for values in gains.values())
    drawing.matrix(
        panel,
        gains,
        names=list(MODELS),
        limit=limit,
        labels=("student", "teacher"),
        starred=above,
    )
    panel.set_title("A, A' share weights at birth, so do B, B'\n* shown to be above zero")
    return figure
