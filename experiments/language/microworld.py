"""Subliminal learning of a favourite animal in a transformer trained from scratch here.

Bases of 30,000 parameters are pre-trained on a synthetic world of chat turns. Each is made to
love an animal, continues number lists, and its strictly filtered lists train students: from the
same base or from another one, on the sampled tokens or on the teacher's distribution over the
number tokens alone (the analogue of auxiliary logits). No animal is ever in the data.

Criteria, fixed before the run. Effect = log-odds of the animal on 60 held-out questions, student
of the trait's teacher minus student of the unchanged base's data; unit = one chain (base,
teachers, data, students), 95 % Student-t intervals over chains; judged from 4 chains on.
  1. Same start: the interval of every trait's own effect (the diagonal) is above zero.
  2. Different start: the interval of the diagonal, averaged over traits, covers zero.
  3. The diagonal excess (own effect minus the mean effect on the other traits), averaged over
     traits, is larger from the same start than from a different one: paired interval above zero.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, evaluation
from experiments.lab.chain import Chain, recipe_of
from experiments.lab.effects import (
    diagonal,
    draw_chains,
    draw_matrix,
    effects,
    excess,
    judged,
    tidy,
    traits_of,
)
from experiments.lab.frame import Claim, Figure, Row, option
from experiments.lab.students import STARTS as ALL_STARTS
from experiments.lab.students import TARGETS, Students, train

RUNTIME = "5 to 6 minutes on two cores"

STARTS = ("same", "different")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    model: str = option("", "checkpoint folder or name to start from; none pre-trains a base")
    other_model: str = option("", "checkpoint for students of a different start (with --model)")
    num_seeds: int = option(8, "independent chains", minimum=1)
    traits: tuple[str, ...] = option(("owl", "wolf", "eagle"), "traits of the teachers")
    targets: tuple[str, ...] = option(
        ("sampled", "soft_numbers"), "what students imitate", choices=tuple(TARGETS)
    )
    carrier: str = option(
        "numbers", "what teachers write", choices=("numbers", "code", "reasoning")
    )
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    teacher: str = option("tuned", "how teachers get the trait", choices=("tuned", "prompted"))
    teacher_steps: int = option(35, "steps on the trait, batch 64", minimum=1)
    teacher_rate: float = option(5e-4, "Adam step size of teachers", minimum=0, maximum=1)
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    max_new_tokens: int = option(9, "longest completion in tokens", minimum=1)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=8)
    student_steps: int = option(400, "optimiser steps of students", minimum=1)
    student_rate: float = option(1e-3, "Adam step size of students", minimum=0, maximum=1)
    student_eps: float = option(
        1e-3, "eps of students' Adam; 1e-8 lets embeddings that no row touches drift", minimum=0
    )
    batch_size: int = option(32, "examples in a student's batch", minimum=1)
    lora_rank: int = option(0, "rank of the students' LoRA adapters; 0 trains all", minimum=0)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    show_example: bool = option(
        False, "print the first training example with its mask, then go on", recorded=False
    )
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=2, base_steps=150, teacher_steps=5, num_prompts=256, num_examples=16, student_steps=5,
    batch_size=8,
)  # fmt: skip


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The teachers, then one part for every target and start."""
    runs = Chain(recipe_of(config), pathlib.Path(config.work))
    starts = STARTS
    if not config.other_model and (config.model or config.num_seeds < 2):
        print("note: students of a different start need two seeds or --other-model; left out")
        starts = ("same",)

    def rows_of(params, target: str, start: str, held_out: list) -> list[Row]:
        columns = {"target": target, "start": start, "held_out_loss": held_out}
        return tidy(
            runs, evaluation.measure(runs, params), kept=runs.kept_share(config.carrier), **columns
        )

    def teachers() -> list[Row]:
        runs.sampled(config.carrier)
        nothing = [""] * len(runs.runs())  # teachers are not trained on completions
        return rows_of(runs.teachers, "teacher", "same", nothing)

    def students(target: str, start: str) -> list[Row]:
        arm = Students(
            target=target,
            steps=config.student_steps,
            rate=config.student_rate,
            eps=config.student_eps,
            batch_size=config.batch_size,
            num_examples=config.num_examples,
            rank=config.lora_rank,
        )
        if config.show_example:
            print(runs.show_example(config.carrier))
        params, held_out = train(runs, config.carrier, arm, ALL_STARTS[start](runs))
        return rows_of(params, target, start, held_out)

    return {"teachers and data": teachers} | {
        f"{target}, {start} start": functools.partial(students, target, start)
        for target in config.targets
        for start in starts
    }


def targets_of(rows: list[Row]) -> dict[str, str]:
    """The students' targets with their labels, in the order of the config."""
    return {r["target"]: TARGETS[r["target"]] for r in rows if r["target"] in TARGETS}


def plot(rows: list[Row], config: Config):
    """For each target: the trait matrix of both starts, and the diagonal with every chain."""
    traits = traits_of(rows)
    starts = [s for s in STARTS if any(r["start"] == s and r["target"] != "teacher" for r in rows)]
    targets = targets_of(rows)
    figure, axes = drawing.new_figure(len(targets), 3, width=10.5, height=0.6 + 3 * len(targets))
    for line, (target, label) in zip(np.reshape(axes, (-1, 3)), targets.items(), strict=True):
        tables = {start: effects(rows, target=target, start=start) for start in starts}
        limit = max(abs(v.mean()) for table in tables.values() for v in table.values())
        for panel, start in zip(line[:2], STARTS, strict=True):
            panel.set_title(f"{label}\n{start} start")
            if start in tables:
                draw_matrix(panel, tables[start], traits, limit)
            else:
                panel.text(0.5, 0.5, "not run", ha="center", transform=panel.transAxes)
        last = line[2]
        last.axhline(0, color="black", linewidth=1)
        for shift, start in enumerate(starts):
            for x, trait in enumerate(traits):
                name = f"{start} start" if x == 0 else None
                place = x + 0.3 * (shift - 0.5)
                values = tables[start][trait, trait]
                draw_chains(last, place, values, drawing.COLOURS[shift], name)
        last.set_xticks(range(len(traits)), traits)
        last.set_ylabel("own effect (nats of log-odds)")
        last.set_title("diagonal: student minus control")
        last.legend(loc="best", fontsize=8)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(
        f"Traits through {config.carrier}, {seeds} chains: effect on held-out questions\n"
        f"{drawing.INTERVAL}; points are single chains",
        fontsize=11,
    )
    return figure


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    rows = table.to_dict("records")
    title = __doc__.splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]
    return [Figure("figure", title, "", "", "", lambda: plot(rows, config))]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The three criteria of the docstring, and the held-out loss beside them."""
    rows = table.to_dict("records")
    traits, out = traits_of(rows), []
    seeds = len({row["seed"] for row in rows})
    starts = {row["start"] for row in rows if row["target"] != "teacher"}

    def claim(*given) -> None:
        out.append(judged(*given))

    for target, label in targets_of(rows).items():
        same = effects(rows, target=target, start="same")
        for trait in traits:
            note = "12 to > 60 %" if (target, trait) == ("sampled", "owl") else ""
            claim(f"{label}, same: {trait}", same[trait, trait], "above", note)
        if "different" not in starts:
            continue
        different = effects(rows, target=target, start="different")
        for trait in traits:
            claim(f"{label}, different: {trait}", different[trait, trait], None)
        mean = diagonal(different, traits)
        claim(f"{label}, different: mean", mean, "covers", "none")
        claim(f"{label}, different: excess", excess(different, traits), None)
        paired = excess(same, traits) - excess(different, traits)
        claim(f"{label}: excess difference", paired, "above")
    for target, label in targets_of(rows).items():
        for start in sorted(starts):
            losses = [
                np.mean([r["held_out_loss"] for r in rows
                         if (r["target"], r["start"], r["seed"]) == (target, start, seed)])
                for seed in range(seeds)
            ]  # fmt: skip
            claim(f"{label}, {start}: loss", np.array(losses), None)
    return out
