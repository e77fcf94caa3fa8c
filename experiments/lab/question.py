"""What the experiments that ask one question of the microworld share: settings, and one arm.

An arm changes one thing of the plain student: the same start, sampled tokens of number lists, Adam.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from experiments.lab.chains import Chains, Cohort, chains_of, same
from experiments.lab.frame import Row, option
from llm.stages import Completions, Model, Workshop, completions, evaluation, students
from llm.stages.students import Change
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


@dataclasses.dataclass(frozen=True)
class Bench:
    """Chains and the workshop where their students are made."""

    config: Any  # Settings with the fields of an experiment
    chains: Chains
    workshop: Workshop

    def recipes(
        self,
        carrier: str = "numbers",
        target: str = "sampled",
        *,
        start: Callable[[Chains, int], Model] = same,
        unique: int | None = None,
        change: Callable[[str, int], Change | None] = lambda teacher, seed: None,
        num_examples: int | None = None,
        left_out: Collection[tuple[str, int]] = (),
        **training: Any,
    ) -> Cohort:
        """The students of an arm and their controls, not yet trained.

        Args:
            carrier: what teachers write.
            target: what is imitated.
            start: where students start.
            unique: different rows, at most.
            change: of the rows.
            num_examples: rows; by default as many as the config says.
            left_out: teachers, by name and seed, that no student learns from.
            **training: fields of `Training` that differ from the plain student's.
        """
        fields = {"rate": 1e-3, "eps": 1e-3} | training
        how = Training(
            **{"steps": self.config.student_steps, "batch_size": self.config.batch_size} | fields
        )
        return self.chains.students(
            self.workshop,
            carrier,
            target=target,
            start=start,
            training=how,
            num_examples=num_examples or self.config.num_examples,
            fewest=FEWEST,
            unique=unique,
            change=change,
            left_out=left_out,
        )

    def students(self, *args: Any, **kwargs: Any) -> Cohort:
        """`recipes`, trained, with their held-out loss."""
        return self.recipes(*args, **kwargs).trained(self.workshop)

    def lists_by(
        self, speakers: Mapping[tuple[str, int], Model], draw: int
    ) -> tuple[dict[tuple[str, int], Completions], dict[int, int]]:
        """Lists of models in the place of the teachers, and how many rows all runs of a chain have.

        Args:
            speakers: by the name of the teacher and the chain.
            draw: number of the prompts.
        """
        data = {
            run: dataclasses.replace(self.chains.data(*run, "numbers"), speaker=model, draw=draw)
            for run, model in speakers.items()
        }
        completions.write(self.workshop, list(data.values()))
        given: dict[int, int] = {}
        for (_, seed), written in data.items():
            kept = completions.kept(self.workshop, written)
            rows = students.different_rows(kept, self.config.num_examples, FEWEST)
            given[seed] = min(rows, given.get(seed, rows))
        return data, given

    def measured(self, cohort: Cohort, **columns: Any) -> list[Row]:
        """Rows of what the models answer, with the columns that name the arm."""
        rows = evaluation.measure(self.workshop, cohort.models, self.config.traits)
        return cohort.rows(rows, **columns)

    def of(self, **changes: Any) -> "Bench":
        """The same with other chains: greedy teachers, say."""
        return dataclasses.replace(self, chains=dataclasses.replace(self.chains, **changes))


def bench(config: Settings, workshop: Workshop | None = None, **changes: Any) -> Bench:
    """Chains of a config, in its folder or in a workshop that others share.

    Raises:
        ValueError: a trait is unknown.
    """
    shop = Workshop(pathlib.Path(config.work)) if workshop is None else workshop
    found = Bench(config, chains_of(config, **changes), shop)
    found.chains.check(found.workshop)
    return found
