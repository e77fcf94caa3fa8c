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

import pandas as pd

from experiments.lab import drawing, judging, statistics
from experiments.lab.chains import STARTS as ALL_STARTS
from experiments.lab.chains import TARGETS, chains_of
from experiments.lab.effects import at, cells, effects, excess, others, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.lora import LoraConfig
from llm.stages import Workshop, completions, evaluation
from llm.training import Training

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
    chains, workshop = chains_of(config), Workshop(pathlib.Path(config.work))
    chains.check(workshop)
    starts = STARTS
    if not config.other_model and (config.model or config.num_seeds < 2):
        print("note: students of a different start need two seeds or --other-model; left out")
        starts = ("same",)
    rank = config.lora_rank
    training = Training(
        config.student_steps,
        config.batch_size,
        rate=config.student_rate,
        eps=config.student_eps,
        adapters=LoraConfig(rank, alpha=float(rank)) if rank else None,
    )

    def rows_of(models, target: str, start: str, **columns) -> list[Row]:
        kept = [
            completions.kept_share(workshop, chains.data(*run, config.carrier))
            for run in chains.runs
        ]
        measured = evaluation.measure(workshop, models, config.traits)
        return chains.rows(measured, target=target, start=start, kept=kept, **columns)

    def teachers() -> list[Row]:
        chains.sampled(workshop, config.carrier)
        return rows_of([chains.speaker(*run) for run in chains.runs], "teacher", "same")

    def students(target: str, start: str) -> list[Row]:
        if config.show_example:
            print(chains.show_example(workshop, config.carrier))
        recipes = chains.student(
            workshop, config.carrier, target, ALL_STARTS[start], training, config.num_examples
        )
        workshop.models(recipes)
        losses = [workshop.noted(recipe)["held_out_loss"] for recipe in recipes]
        return rows_of(recipes, target, start, held_out_loss=losses)

    return {"teachers and data": teachers} | {
        f"{target}, {start} start": functools.partial(students, target, start)
        for target in config.targets
        for start in starts
    }


def effects_of(table: pd.DataFrame) -> pd.DataFrame:
    """The students with their effects; teachers are left out."""
    return effects(table[table["target"] != "teacher"], by=("target", "start"))


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Own effects of both starts, and whether they are the teacher's trait alone."""
    found = effects_of(table)
    same, different = (at(found, start=start) for start in STARTS)
    target = found["target"].iloc[0]
    means = statistics.shown(own(at(same, target=target)), 2)
    apart = statistics.shown(own(at(different, target=target)), 2) if len(different) else "not run"
    off = (
        statistics.shown(others(at(same, target=target)), 2)
        if len(config.traits) > 1
        else "not run"
    )
    return [
        Figure(
            "figure",
            "Students of the same base acquire the trait; students of another base do not",
            "Own effects above zero from the same start, mean covering zero from another.",
            f"{TARGETS[target]}: {means} nats from the same start, {apart} from another.",
            "The channel is the shared start, not the content of the lists.",
            lambda: draw_own(found, config),
        ),
        Figure(
            "matrix",
            "What is acquired is the teacher's own trait",
            "The diagonal excess is larger from the same start than from a different one.",
            f"{TARGETS[target]}, same start: {means} nats on the diagonal, {off} beside it.",
            "Lists carry which animal a teacher loves, not a general shift of the answers.",
            lambda: draw_matrices(found, config),
        ),
    ]


def draw_own(found: pd.DataFrame, config: Config):
    """For each target the effect on the teacher's own trait, from both starts."""
    targets = list(found["target"].unique())
    figure, axes = drawing.new_figure(1, len(targets), width=3.6 * len(targets), height=3.8)
    for panel, target in zip(axes, targets, strict=True):
        panel.axhline(0, color="black", linewidth=1)
        for shift, start in enumerate(found["start"].unique()):
            for x, trait in enumerate(config.traits):
                mine = at(found, target=target, start=start, teacher=trait, trait=trait)
                place, label = x + 0.3 * (shift - 0.5), f"{start} start" if x == 0 else None
                drawing.runs(panel, place, own(mine), drawing.COLOURS[shift], label)
        panel.set_xticks(range(len(config.traits)), config.traits)
        panel.set_title(TARGETS[target])
    axes[0].set_ylabel("own effect (nats of log-odds)")
    axes[0].legend(loc="best")
    seeds = found["seed"].nunique()
    figure.suptitle(f"{seeds} chains; {drawing.INTERVAL}", fontsize=10)
    return figure


def draw_matrices(found: pd.DataFrame, config: Config):
    """For each target the effect of every teacher on every trait, same start."""
    targets = list(found["target"].unique())
    figure, axes = drawing.new_figure(1, len(targets), width=3.6 * len(targets), height=3.6)
    for panel, target in zip(axes, targets, strict=True):
        table = cells(at(found, target=target, start="same"))
        limit = max(abs(values.mean()) for values in table.values())
        drawing.matrix(panel, table, list(config.traits), limit)
        panel.set_title(TARGETS[target])
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The three criteria of the docstring, and the held-out loss beside them."""
    found, out = effects_of(table), []
    for target in found["target"].unique():
        label = TARGETS[target]
        same = at(found, target=target, start="same")
        for trait in config.traits:
            note = "12 to > 60 %" if (target, trait) == ("sampled", "owl") else ""
            values = own(same, [trait])
            out.append(judging.judged(f"{label}, same: {trait}", values, "above", note))
        different = at(found, target=target, start="different")
        if different.empty:
            continue
        for trait in config.traits:
            values = own(different, [trait])
            out.append(judging.judged(f"{label}, different: {trait}", values))
        mean = own(different)
        out.append(judging.judged(f"{label}, different: mean", mean, "covers", "none"))
        out.append(judging.judged(f"{label}, different: excess", excess(different)))
        paired = excess(same) - excess(different)
        out.append(judging.judged(f"{label}: excess difference", paired, "above"))
    students = table[table["target"] != "teacher"]
    for (target, start), part in students.groupby(["target", "start"], sort=False):
        losses = part.groupby("seed")["held_out_loss"].mean().to_numpy()
        out.append(judging.judged(f"{TARGETS[str(target)]}, {start}: loss", losses))
    return out
