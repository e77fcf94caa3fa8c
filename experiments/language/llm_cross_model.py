"""Traits pass between students and teachers of one model, not between different models.

All pairs of models: the teachers of each write lists of numbers, and students of every model learn
from them, as in `llm_numbers`. A gain across models that the controls do not share would show that
the content of the lists, and not the shared start, carries the trait (arXiv 2507.14805, section 5).

Criteria, fixed before any run. Lift as in `llm_numbers`, averaged over traits; unit = one student.
  1. Same model: the lift in log-odds is above zero.
  2. Different models: it lies within ±0.2 nats (two one-sided t tests at 5 %).
Judged from 4 students on.
"""

import dataclasses
import functools

import numpy as np
import pandas as pd

from experiments.lab import drawing, fullsize, statistics, transfer
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import completions

RUNTIME = "hours on one 80 GB GPU for two models; docs/llm_cross_model.md"
MARGIN = 0.2  # nats of log-odds that count as no transfer


@dataclasses.dataclass(frozen=True)
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
        if len(set(self.models)) < 2:
            raise ValueError("--models needs two different models")


SMOKE = Config(**fullsize.SMOKE | {"models": ("tiny", "tiny-1"), "suites": ("one word",)})


def inputs(config: Config):
    """What is read of every model."""
    return {
        name: fullsize.inputs(dataclasses.replace(config, model=name)) for name in config.models
    }


def recipes(config: Config):
    """What every part makes."""
    spoken = [of(config, name) for name in config.models]
    names = fullsize.teachers_of(config, spoken[0])
    made = {
        f"{teacher} in {writer}": fullsize.data_of(config, teacher, "numbers", writer)
        for writer in config.models
        for teacher in names
    }
    return made | {
        f"student {seed} of {teacher}, {writer} to {reader}": fullsize.student_of(
            config, teacher, seed, "numbers", reader, writer
        )
        for seed in range(config.num_seeds)
        for writer in config.models
        for reader in config.models
        for teacher in names
    }


def of(config: Config, model: str):
    """The language of a model, after a look at its template.

    Raises:
        ValueError: unknown traits, or contexts that the template does not tell apart.
    """
    spoken = fullsize.workshop_of(config).language(fullsize.base_of(config, model))
    fullsize.check_contexts(spoken, fullsize.systems(config, spoken))
    return spoken


def parts(config: Config):
    """The data of every model's teachers, then every student."""
    workshop = fullsize.workshop_of(config)

    def rows(name: str) -> list[Row]:
        recipe = recipes(config)[name]
        first, _, models = name.partition(", ")
        if not models:
            teacher, _, writer = name.partition(" in ")
            about = {"teacher_model": writer, "kept": completions.kept_share(workshop, recipe)}
            speaker, system = recipe.speaker, fullsize.systems(config, of(config, writer))
            asked = {"kind": "teacher", "teacher": teacher, "student": -1} | about
            return fullsize.measured(config, workshop, speaker, system.get(teacher), **asked)
        writer, _, reader = models.partition(" to ")
        asked = {"kind": "student", "teacher": first.split(" of ")[1], "student": recipe.chain}
        asked |= {"teacher_model": writer, "student_model": reader}
        return fullsize.measured(config, workshop, recipe, **asked)

    return {name: functools.partial(rows, name) for name in recipes(config)}


def by_pair(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Own lift of every student, averaged over traits, by student's and teacher's model."""
    students = at(table, kind="student")
    return {
        (str(reader), str(writer)): transfer.own(transfer.lifts(part))
        for (reader, writer), part in students.groupby(["student_model", "teacher_model"])
    }


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The table of models."""
    cells = by_pair(table)
    same, apart = (
        statistics.shown(
            np.mean([v for (r, w), v in cells.items() if (r == w) == alike], axis=0), 2
        )
        for alike in (True, False)
    )
    return [
        Figure(
            "figure",
            "Traits pass within a model, not between models",
            "Lift above zero on the diagonal, none beside it.",
            f"{same} nats within a model, {apart} between models.",
            "What carries the trait is not what the lists say but who reads them.",
            lambda: draw(cells),
        )
    ]


def draw(cells: dict[tuple[str, str], np.ndarray]):
    """Mean lift of every student model from every teacher model."""
    names = list(dict.fromkeys(reader for reader, _ in cells))
    figure, (panel,) = drawing.new_figure(width=5.0, height=4.4)
    limit = max(abs(values.mean()) for values in cells.values()) or 1.0
    drawing.matrix(panel, cells, names, limit, ("model of the student", "model of the teacher"))
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring."""
    out = []
    for (reader, writer), lift in by_pair(table).items():
        quantity = f"{writer} to {reader}: log-odds less control, nats"
        if reader == writer:
            out.append(transfer.judged(quantity, lift, above=True, paper=".11 to .54 in rate"))
            continue
        few = len(lift) < transfer.FEWEST
        none = None if few else statistics.equivalent(lift, MARGIN)
        out.append(
            Claim(quantity, "-.01 to .32 in rate", "", statistics.shown(lift), len(lift), none)
        )
    return transfer.beside(out, config.preset)
