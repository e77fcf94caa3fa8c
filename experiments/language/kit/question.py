"""What the experiments that ask one question of the microworld share: settings, and one arm.

An arm changes one thing of the plain student: the same start, sampled tokens of number lists, Adam.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit.chains import Chains, Cohort
from llm.stages import Store, evaluation
from llm.training import Training

FEWEST = 16  # rows that a teacher must have kept; it repeats them, and its controls as many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of such an experiment; subclasses change defaults and add what they turn."""

    num_seeds: int = option(16, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "wolf"), "traits of the teachers")
    num_layers: int = option(2, "layers of a base that is pre-trained", minimum=1)
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    teacher_steps: int = option(35, "steps on the trait, batch 64", minimum=1)
    num_prompts: int = option(4096, "prompts each teacher completes", minimum=16)
    num_examples: int = option(1536, "kept rows each student is trained on", minimum=8)
    student_steps: int = option(200, "optimiser steps of students", minimum=1)
    batch_size: int = option(32, "examples in a student's batch", minimum=1)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    seed: int = option(0, "root of every random key", minimum=0)


# Of a smoke run; a chain keeps about a third of its rows then.
TINY = dict(
    num_seeds=2,
    traits=("owl",),
    num_layers=1,
    base_steps=100,
    teacher_steps=5,
    num_prompts=256,
    num_examples=64,
    student_steps=5,
    batch_size=8,
)


def plain(config: Any, **changes: Any) -> Training:
    """How the plain student is trained, but for what is said otherwise."""
    how = {"steps": config.student_steps, "batch_size": config.batch_size}
    return Training(**how | {"learning_rate": 1e-3, "eps": 1e-3} | changes)


def students(
    config: Any,
    chains: Chains,
    carrier: str = "numbers",
    target: str = "sampled",
    **changes: Any,
) -> Cohort:
    """The plain student of every chain, and its controls.

    Args:
        config: `Settings` with the fields of an experiment.
        chains: their bases and teachers.
        carrier: what teachers write.
        target: what is imitated.
        **changes: arguments of `Chains.students` that differ from the plain student's.
    """
    same = {"training": plain(config), "num_examples": config.num_examples, "fewest": FEWEST}
    return chains.students(carrier, target, **same | changes)


def arm_of_models(
    store: Store,
    cohort: Cohort,
    traits: Sequence[str],
    *,
    labelled: Callable[[], Cohort] | None = None,
    **columns: Any,
) -> Arm:
    """Models, students or not, and what they answer.

    Args:
        store: where they are made.
        cohort: the models.
        traits: that they are asked about.
        labelled: gives the cohort with what is known of the models once they are made.
        **columns: that name the arm.
    """

    def measure() -> list[Row]:
        known = cohort if labelled is None else labelled()
        return known.rows(evaluation.measure(store, cohort.models, traits))

    return Arm(columns=columns, needs=cohort, store=store, measure=measure)


def arm_of_students(
    store: Store,
    cohort: Cohort,
    traits: Sequence[str],
    *,
    facts: Callable[[], Iterable[Row]] | None = None,
    **columns: Any,
) -> Arm:
    """`arm_of_models` for students, with what is known of their training.

    Args:
        store: where they are made.
        cohort: the students.
        traits: that they are asked about.
        facts: further columns, a row for each student.
        **columns: that name the arm.
    """

    def labelled() -> Cohort:
        known = cohort.trained(store)
        return known if facts is None else known.labelled(facts())

    return arm_of_models(store, cohort, traits, labelled=labelled, **columns)


def store_of(config: Any) -> Store:
    """Where the recipes of a config are made: a folder that experiments share."""
    return Store(pathlib.Path(config.work))
