"""Traits pass between students and teachers of one model, not between different models.

All pairs of models: the teachers of each write lists of numbers, and students of every model learn
from them, as in `llm_numbers`. A gain across models that the controls do not share would show that
the content of the lists, and not the shared start, carries the trait (arXiv 2507.14805, section 5).

Criteria, fixed before any run. Lift as in `llm_numbers`, averaged over traits; unit = one student.
  1. Same model: the lift in log-odds is above zero (Holm over all models).
  2. Different models: it lies within ±0.2 nats (two one-sided t tests at 5 %).
Judged from 4 students on.
"""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Figure, Findings, corrected, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.language.kit import fullsize, transfer
from experiments.language.kit.effects import at

RUNTIME = "hours on one 80 GB GPU for two models"
MARGIN = 0.2  # nats of log-odds that count as no transfer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(fullsize.Config):
    """As at full size, for several models."""

    models: tuple[str, ...] = option(
        ("Qwen/Qwen2.5-7B-Instruct", "google/gemma-3-4b-it"), "checkpoint folders or names"
    )
    traits: tuple[str, ...] = option(("cat", "owl"), "traits of the teachers, or a kind")
    suites: tuple[str, ...] = option(("one word",), "forms of the evaluation questions")
    samples: int = option(20, "sampled answers to every question", minimum=1)

    def __post_init__(self):
        """Raise ValueError unless there are two models."""
        super().__post_init__()
        if len(set(self.models)) < 2:
            raise ValueError("--models needs two different models")


SMOKE = Config(**fullsize.SMOKE | {"models": ("tiny", "tiny-1"), "suites": ("choice",)})


def inputs(config: Config):
    """What is read of every model."""
    return {
        name: fullsize.inputs(dataclasses.replace(config, model=name)) for name in config.models
    }


def arms(config: Config) -> dict[str, Arm]:
    """The data of every model's teachers, then every student.

    Raises:
        ValueError: as `fullsize.arms`.
    """
    spoken = [fullsize.language_of(config, name) for name in config.models]
    names, store, by_name = fullsize.teachers_of(config, spoken[0]), fullsize.store_of(config), {}
    for writer, name in itertools.product(config.models, names):
        columns = {"kind": "teacher", "teacher": name, "student": -1, "teacher_model": writer}
        data = fullsize.data_of(config, name, "numbers", writer)
        by_name[f"teacher {name}, {writer}"] = fullsize.arm_of(config, store, data, **columns)
    for number, writer, reader, name in itertools.product(
        range(config.num_seeds), config.models, config.models, names
    ):
        columns = {"kind": "student", "teacher": name, "student": number}
        columns |= {"teacher_model": writer, "student_model": reader}
        student = fullsize.student_of(
            config, name, number=number, carrier="numbers", model=reader, teacher=writer
        )
        arm = fullsize.arm_of(config, store, student, **columns)
        by_name[f"student {number} of {name}, {writer} to {reader}"] = arm
    return by_name


def by_pair(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Own lift of every student, averaged over traits, by student's and teacher's model."""
    students = at(table, kind="student")
    return {
        (str(reader), str(writer)): transfer.own(transfer.lifts(part))
        for (reader, writer), part in students.groupby(["student_model", "teacher_model"])
    }


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Every model's students beside every model's teachers."""
    cells = by_pair(table)
    quantity = "{1} to {0}: log-odds less control, nats".format
    same = {quantity(*pair): lift for pair, lift in cells.items() if pair[0] == pair[1]}
    apart = {quantity(*pair): lift for pair, lift in cells.items() if pair[0] != pair[1]}
    (above,) = corrected(
        [transfer.above(name, lift, ".11 to .54 in rate") for name, lift in same.items()]
    )
    beside = transfer.within(apart, MARGIN, "-.01 to .32 in rate")
    judged = {claim.quantity: claim for claim in (*above, *beside)}
    claims = [judged[quantity(*pair)] for pair in cells]
    shown = [statistics.shown(np.mean([*some.values()], axis=0), 2) for some in (same, apart)]
    figure = Figure(
        name="figure",
        title=say(
            claims,
            holds="Traits pass within a model, not between models",
            fails="Traits do not pass within every model, or not within models alone",
            open="Do traits pass within a model, and not between models?",
        ),
        predicted="Lift above zero on the diagonal, none beside it.",
        found=f"{shown[0]} nats within a model, {shown[1]} between models.",
        follows=follows_from(
            claims, "What carries the trait is not what the lists say but who reads them."
        ),
        draw=lambda: draw(cells),
    )
    return Findings([figure], transfer.beside(claims, config.preset))


def draw(cells: dict[tuple[str, str], np.ndarray]):
    """Mean lift of every student model from every teacher model."""
    names = list(dict.fromkeys(reader for reader, _ in cells))
    figure, (panel,) = drawing.new_figure(width=5.0, height=4.4)
    limit = max(abs(values.mean()) for values in cells.values()) or 1.0
    drawing.matrix(
        panel,
        cells,
        names=names,
        limit=limit,
        labels=("model of the student", "model of the teacher"),
    )
    return figure
