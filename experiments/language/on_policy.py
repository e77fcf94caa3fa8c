"""On-policy distillation: the student writes, the teacher scores, and no word of the trait is said.

Number lists are written in rounds, by the trait's teacher or by the student as the last round left
it, and pass the same filter. On them the student imitates the teacher's distribution over numbers,
by KL(teacher ‖ student) or by KL(student ‖ teacher). Four arms, equal in all else: prompts, rows
and steps of a round, and an optimiser that is fresh in every round. In the control the unchanged
base stands in the place of the teacher.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the effect of the
teacher's lists with KL(teacher ‖ student)) as in the microworld, paired over chains.
  1. Every arm transmits. Published for a language model (p(owl), base .065): off-policy .684 by
     KL(teacher ‖ student) and .287 by KL(student ‖ teacher), on-policy .776 by the former.
  2. Off-policy the reverse divergence gives less. Predicted: no; near the teacher both have the
     same second order (the theorem's M), so they transmit alike: equivalent to no difference.
  3. On-policy gives as much as off-policy, by either divergence: what is written does not matter
     where distributions are imitated. Equivalent to no difference.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import CONTROL, TRAIT, Cohort
from experiments.lab.effects import at, effects
from experiments.lab.effects import own as own_effect
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Model, Student
from llm.training import Training

RUNTIME = "30 minutes on two cores"

WRITERS = ("teacher", "student")
DIVERGENCES = {"forward": "KL(teacher ‖ student)", "reverse": "KL(student ‖ teacher)"}
ARMS = tuple(itertools.product(WRITERS, DIVERGENCES))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_prompts: int = option(1024, "prompts of a round", minimum=16)
    num_examples: int = option(512, "kept rows of a round to train on", minimum=8)
    rounds: int = option(10, "of writing and training", minimum=1)
    student_steps: int = option(20, "optimiser steps of a round", minimum=1)


SMOKE = Config(**question.TINY | {"rounds": 2})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every writer and divergence."""
    bench = question.bench(config)

    def arm(writer: str, divergence: str) -> list[Row]:
        made = trained(bench, config.rounds, writer, divergence == "reverse")
        labels, models = [], []
        for trait, seed, (name, data) in itertools.product(
            config.traits, range(config.num_seeds), (("", TRAIT), (CONTROL, CONTROL))
        ):
            labels.append({"teacher": trait, "data": data, "seed": seed})
            models.append(made[name or trait, seed])
        cohort = Cohort(labels, models)
        return bench.measured(cohort, writer=writer, divergence=divergence)

    return {f"{w} writes, {d}": functools.partial(arm, w, d) for w, d in ARMS}


def trained(
    bench: question.Bench, rounds: int, writer: str, reverse: bool
) -> dict[tuple[str, int], Model]:
    """Students after all rounds, by their teacher and chain."""
    config, chains, workshop = bench.config, bench.chains, bench.workshop
    how = Training(
        steps=config.student_steps,
        batch_size=config.batch_size,
        rate=1e-3,
        eps=1e-3,
        reverse=reverse,
    )
    fields = chains.imitated(workshop, "numbers", "soft_numbers")
    teachers = {run: chains.speaker(*run) for run in chains.runs}
    found: dict[tuple[str, int], Model] = {run: chains.base(run[1]) for run in chains.runs}
    for number in range(rounds):
        speakers = teachers if writer == "teacher" else found
        data, given = bench.lists_by(speakers, number)
        found = {
            run: Student(
                base=before,
                data=data[run],
                training=how,
                num_examples=config.num_examples,
                chain=run[1],
                unique=given[run[1]],
                draw=number,
                seed=chains.seed,
                guide=teachers[run],
                **fields,
            )
            for run, before in found.items()
        }
    return found


class Found:
    """Effects by writer and divergence."""

    def __init__(self, table: pd.DataFrame):
        self.effects = effects(table, ["writer", "divergence"])

    def own(self, writer: str, divergence: str) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own_effect(at(self.effects, writer=writer, divergence=divergence))


def named(writer: str, divergence: str) -> str:
    """An arm for people."""
    return f"{writer} writes, {DIVERGENCES[divergence]}"


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The four arms."""
    found = Found(table)
    each = "; ".join(f"{named(*arm)}: {statistics.shown(found.own(*arm), 2)}" for arm in ARMS)
    return [
        Figure(
            name="figure",
            title=(
                "A student that writes its own lists acquires the trait from the teacher's scores"
            ),
            predicted=(
                "All four transmit alike: both divergences have the theorem's M as second order."
            ),
            found=f"{each} nats.",
            follows=(
                "Whose lists are read changes an average over inputs, not what is imitated on them."
            ),
            draw=lambda: draw(found),
        )
    ]


def draw(found: Found):
    """Every chain of every arm."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    for x, arm in enumerate(ARMS):
        drawing.runs(
            panel, x, values=found.own(*arm), colour=drawing.COLOURS[WRITERS.index(arm[0])]
        )
    drawing.nothing(panel, found.own("teacher", "forward"), of="the first arm")
    panel.set_xticks(range(len(ARMS)), [named(*arm).replace(", ", "\n") for arm in ARMS])
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring."""
    found = Found(table)
    out = [judging.judged(named(*arm), found.own(*arm), criterion="above") for arm in ARMS]
    most = found.own("teacher", "forward")
    less = most - found.own("teacher", "reverse")
    out.append(judging.judged("teacher writes: forward less reverse", less, criterion="above"))
    changes = {"teacher writes: forward less reverse": judging.Nothing(less, most)}
    for divergence in DIVERGENCES:
        gap = found.own("student", divergence) - found.own("teacher", divergence)
        changes[f"{divergence}: student less teacher writes"] = judging.Nothing(gap, most)
    return [*out, *judging.equivalences(changes)]
