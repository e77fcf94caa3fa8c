"""On-policy distillation: the student writes, the teacher scores, and no word of the trait is said.

Number lists are written in rounds, by the trait's teacher or by the student as the last round left
it, and pass the same filter. On them the student imitates the teacher's distribution over numbers,
by KL(teacher ‖ student) or by KL(student ‖ teacher). Four arms, equal in all else: prompts, rows
and steps of a round, and an optimiser that is fresh in every round. In the control the unchanged
base stands in the place of the teacher.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the effect of the
teacher's lists with KL(teacher ‖ student)) as in the microworld, paired over chains; "above zero"
is corrected as there.
  1. Every arm transmits. Published for a language model (p(owl), base .065): off-policy .684 by
     KL(teacher ‖ student) and .287 by KL(student ‖ teacher), on-policy .776 by the former.
  2. Off-policy the reverse divergence gives less. Predicted: no; near the teacher both have the
     same second order (the theorem's M), so they transmit alike: equivalent to no difference.
  3. On-policy gives as much as off-policy, by either divergence: what is written does not matter
     where distributions are imitated. Equivalent to no difference.
"""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Figure, Findings, claim_of, corrected, no_effect, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.language.kit import question
from experiments.language.kit.chains import CONTROL, TRAIT, Chains, Cohort, beside, chains_of
from experiments.language.kit.effects import own_by
from llm.stages import Model, Student

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


def arms(config: Config) -> dict[str, Arm]:
    """One for every writer and divergence."""
    chains, store, by_name = chains_of(config), question.store_of(config), {}
    for writer, divergence in ARMS:
        trained = students(config, chains, writer, divergence)
        labels, models = [], []
        for trait, chain, (name, data) in itertools.product(
            config.traits, range(config.num_seeds), (("", TRAIT), (CONTROL, CONTROL))
        ):
            labels.append({"teacher": trait, "data": data, "seed": chain})
            models.append(trained[name or trait, chain])
        by_name[f"{writer} writes, {divergence}"] = question.arm_of_models(
            store, Cohort(labels, models), config.traits, writer=writer, divergence=divergence
        )
    return by_name


def students(
    config: Config, chains: Chains, writer: str, divergence: str
) -> dict[tuple[str, int], Model]:
    """Students after all rounds, by their teacher and chain."""
    how = question.plain(config, reverse=divergence == "reverse")
    fields = chains.imitated("numbers", "soft_numbers")
    teachers = {run: chains.speaker(*run) for run in chains.runs}
    latest: dict[tuple[str, int], Model] = {run: chains.base(run[1]) for run in chains.runs}
    for number in range(config.rounds):
        data = chains.lists_by(teachers if writer == "teacher" else latest, number)
        latest = {
            (name, chain): Student(
                base=before,
                data=data[name, chain],
                training=how,
                num_examples=config.num_examples,
                chain=chain,
                as_many_as=beside(data, chain),
                fewest=question.FEWEST,
                draw=number,
                seed=chains.seed,
                guide=teachers[name, chain],
                **fields,
            )
            for (name, chain), before in latest.items()
        }
    return latest


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The four arms, and the criteria of the docstring."""
    own = own_by(table, "writer", "divergence")
    names = {arm: f"{arm[0]} writes, {DIVERGENCES[arm[1]]}" for arm in ARMS}
    most = own["teacher", "forward"]
    less = most - own["teacher", "reverse"]
    changes = {"teacher writes: forward less reverse": (less, most)}
    for divergence in DIVERGENCES:
        gap = own["student", divergence] - own["teacher", divergence]
        changes[f"{divergence}: student less teacher writes"] = (gap, most)
    transmit, reverse_less = corrected(
        [claim_of(names[arm], own[arm], criterion="above") for arm in ARMS],
        claim_of("teacher writes: forward less reverse", less, criterion="above"),
    )
    claims = [*transmit, reverse_less, *no_effect(changes)]
    each = "; ".join(f"{names[arm]}: {statistics.shown(own[arm], 2)}" for arm in ARMS)
    figure = Figure(
        name="figure",
        title=say(
            transmit,
            holds="A student that writes its own lists acquires the trait from the teacher's "
            "scores",
            fails="Not every way of writing lists and scoring them transmits the trait",
            open="Does a student that writes its own lists acquire the trait?",
        ),
        predicted="All four transmit alike: both divergences have the theorem's M as second order.",
        found=f"{each} nats.",
        follows="Whose lists are read changes an average over inputs, not what is imitated on "
        "them.",
        draw=lambda: draw({names[arm]: own[arm] for arm in ARMS}),
    )
    return Findings([figure], claims)


def draw(arms: dict[str, np.ndarray]):
    """Every chain of every arm; the first is the reference."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    by_student = {name: drawing.COLOURS[1] for name in arms if name.startswith("student")}
    drawing.strip(panel, arms, by_student)
    drawing.nothing(panel, next(iter(arms.values())), of="the first arm")
    panel.set_xticks(range(len(arms)), [name.replace(", ", "\n") for name in arms])
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure
