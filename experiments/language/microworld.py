"""Subliminal learning of a favourite animal in a transformer trained from scratch here.

Bases of 30,000 parameters are pre-trained on a synthetic world of chat turns. Each is made to
love an animal, continues number lists, and its strictly filtered lists train students: from the
same base or from another one, on the sampled tokens or on the teacher's distribution over the
number tokens alone (the analogue of auxiliary logits). No animal is ever in the data.

Criteria, fixed before the run. Effect = log-odds of the animal on 60 held-out questions, student
of the trait's teacher minus student of the unchanged base's data on as many different rows; unit =
one chain (base, teachers, data, students), 95 % Student-t intervals over chains; judged from 4
chains on. "None" is claimed by equivalence: two one-sided paired tests against a fifth of the
same-start effect of the same target, at 5 % over all such claims of the run together (Holm).
Added after the run: "above zero" is corrected too, by Holm at the level of that interval, over all
such claims of an experiment, with those that a caption alone makes.
  1. Same start: the interval of every trait's own effect (the diagonal) is above zero.
  2. Different start: the own effect, averaged over traits, is equivalent to none.
  3. The diagonal excess (own effect minus the mean effect on the other traits), averaged over
     traits, is larger from the same start than from a different one: paired interval above zero.
  4. A teacher fine-tuned as long on answers spread over all animals transmits none of them: its
     students are equivalent to those of the unchanged base. Measured against them the own effect
     from the same start, averaged over traits, stays above zero.
"""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Claim,
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
from experiments.frame.record import Row
from experiments.language.kit import question
from experiments.language.kit.chains import CONTROL, TARGETS, TRAIT, Chains, chains_of
from experiments.language.kit.chains import STARTS as ALL_STARTS
from experiments.language.kit.effects import at, cells, effects, excess, others, own
from llm.stages import Store, completions, evaluation
from llm.training import Training
from llm.training.lora import LoraConfig

RUNTIME = "5 to 6 minutes on two cores"

STARTS = ("same", "different")
PAPER = {(TARGETS["sampled"], "owl"): "12 to > 60 %"}
KEYS = ("target", "start")
LESS = "same, less "  # before a neutral teacher's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    model: str = option("", "checkpoint folder or name to start from; none pre-trains a base")
    other_model: str = option("", "checkpoint for students of a different start (with --model)")
    num_seeds: int = option(10, "independent chains", minimum=1)
    traits: tuple[str, ...] = option(
        ("owl", "wolf", "eagle", "dolphin", "elephant"), "traits of the teachers"
    )
    controls: tuple[str, ...] = option(
        (CONTROL, "any-animal"), "students beside: of the base's data, of a neutral teacher's"
    )
    targets: tuple[str, ...] = option(
        ("sampled", "soft_numbers"), "what students imitate", choices=tuple(TARGETS)
    )
    carrier: str = option(
        "numbers", "what teachers write", choices=("numbers", "code", "reasoning")
    )
    num_layers: int = option(2, "layers of a base that is pre-trained", minimum=1)
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    teacher: str = option("tuned", "how teachers get the trait", choices=("tuned", "prompted"))
    teacher_steps: int = option(35, "steps on the trait, batch 64", minimum=1)
    teacher_rate: float = option(5e-4, "Adam step size of teachers", minimum=0, maximum=1)
    num_prompts: int = option(4096, "prompts each teacher completes", minimum=16)
    max_new_tokens: int = option(9, "longest completion in tokens", minimum=1)
    num_examples: int = option(1536, "kept rows each student is trained on", minimum=8)
    student_steps: int = option(200, "optimiser steps of students", minimum=1)
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
    num_seeds=2,
    traits=("owl", "wolf", "eagle"),
    num_layers=1,
    base_steps=100,
    teacher_steps=5,
    num_prompts=256,
    num_examples=16,
    student_steps=5,
    batch_size=8,
)


def arms(config: Config) -> dict[str, Arm]:
    """The teachers and what they write, then one for every target and start."""
    chains, store = chains_of(config), question.store_of(config)
    starts = STARTS
    if config.model and not config.other_model:
        print("note: students of a different start need --other-model; left out")
        starts = ("same",)
    rank = config.lora_rank
    training = Training(
        steps=config.student_steps,
        batch_size=config.batch_size,
        learning_rate=config.student_rate,
        eps=config.student_eps,
        adapters=LoraConfig(rank=rank, alpha=float(rank)) if rank else None,
    )
    by_name = {"teachers and data": teachers(store, chains, config)}
    for target, start in itertools.product(config.targets, starts):
        cohort = chains.students(
            config.carrier,
            target,
            training=training,
            num_examples=config.num_examples,
            start=ALL_STARTS[start],
            fewest=question.FEWEST,
        )
        by_name[f"{target}, {start} start"] = question.arm_of_students(
            store, cohort, config.traits, target=target, start=start
        )
    return by_name


def teachers(store: Store, chains: Chains, config: Config) -> Arm:
    """The teachers and the unchanged bases: what they answer, and the share of rows kept."""
    cohort, written = chains.speakers(), chains.written(config.carrier)

    def measure() -> list[Row]:
        if config.show_example:
            print(chains.show_example(store, config.carrier))
        shares = ({"kept": completions.kept_share(store, data)} for data in written)
        measured = evaluation.measure(store, cohort.models, chains.traits)
        return cohort.labelled(shares).rows(measured)

    columns = {"target": "teacher", "start": "same"}
    return Arm(columns=columns, needs=[*written, *cohort], store=store, measure=measure)


Arms = dict[str, pd.DataFrame]  # effects of one target, by start and control


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Own effects of both starts, whether they are the teacher's trait alone, and the losses."""
    students = table[table["target"] != "teacher"]
    neutral = [name for name in students["data"].unique() if name not in (TRAIT, CONTROL)]
    arms = arms_of(students, neutral)
    (criteria,) = corrected(
        {
            label: (
                claims_on_traits(label, by_arm, config),
                claims_over_neutral(label, by_arm),
                claims_on_excess(label, by_arm),
            )
            for label, by_arm in arms.items()
        }
    )
    acquired, specific, of_targets = [], [], []
    for label, (by_trait, over_neutral, excesses) in criteria.items():
        acquired += by_trait
        specific += excesses[1:]
        of_targets += [
            *by_trait,
            *over_neutral,
            *claims_from_another(label, arms[label], config),
            *excesses,
        ]
    claimed = claimed_as_none(arms)
    none = dict(zip(claimed, no_effect(claimed), strict=True))
    another = [claim for name, claim in none.items() if name.endswith("different")]
    claims = [*of_targets, *none.values(), *claims_on_losses(students)]
    figures = [
        figure_of_starts(arms, acquired, another, config),
        figure_of_matrix(arms, specific, config),
    ]
    return Findings(figures, claims)


def less_neutral(by_arm: Arms) -> dict[str, np.ndarray]:
    """Own effect from the same start over the students of each neutral teacher, by its name."""
    return {
        arm.removeprefix(LESS): own(rows) for arm, rows in by_arm.items() if arm.startswith(LESS)
    }


def claims_on_traits(label: str, by_arm: Arms, config: Config) -> list[Claim]:
    """Criterion 1: every trait is acquired from the same start."""
    return [
        claim_of(
            f"{label}, same: {trait}",
            own(by_arm["same start"], [trait]),
            criterion="above",
            paper=PAPER.get((label, trait), ""),
        )
        for trait in config.traits
    ]


def claims_over_neutral(label: str, by_arm: Arms) -> list[Claim]:
    """Criterion 4: something is acquired over a neutral teacher's students too."""
    return [
        claim_of(f"{label}, same: mean less {name}", values, criterion="above")
        for name, values in less_neutral(by_arm).items()
    ]


def claims_from_another(label: str, by_arm: Arms, config: Config) -> list[Claim]:
    """Every trait from a different start, if there is one."""
    if "different start" not in by_arm:
        return []
    return [
        claim_of(f"{label}, different: {trait}", own(by_arm["different start"], [trait]))
        for trait in config.traits
    ]


def claims_on_excess(label: str, by_arm: Arms) -> list[Claim]:
    """The diagonal excess from a different start, and criterion 3: that it is smaller there."""
    if "different start" not in by_arm:
        return []
    same, different = excess(by_arm["same start"]), excess(by_arm["different start"])
    return [
        claim_of(f"{label}, different: excess", different),
        claim_of(f"{label}: excess difference", same - different, criterion="above"),
    ]


def claimed_as_none(arms: dict[str, Arms]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Criteria 2 and 4: another start, and a neutral teacher's students less the base's."""
    pairs = {}
    for label, by_arm in arms.items():
        same = own(by_arm["same start"])
        if "different start" in by_arm:
            pairs[f"{label}, different"] = own(by_arm["different start"]), same
        for name, values in less_neutral(by_arm).items():
            pairs[f"{label}, {name} teacher"] = same - values, same
    return pairs


def claims_on_losses(students: pd.DataFrame) -> list[Claim]:
    """How well held-out rows are imitated, by target and start."""
    return [
        claim_of(
            f"{TARGETS[str(target)]}, {start}: loss",
            rows.groupby("seed")["held_out_loss"].mean().to_numpy(),
        )
        for (target, start), rows in students.groupby(list(KEYS), sort=False)
    ]


def figure_of_starts(
    arms: dict[str, Arms], acquired: list[Claim], another: list[Claim], config: Config
) -> Figure:
    """What students of the same and of another start acquire."""
    label, by_arm = next(iter(arms.items()))
    means, different = statistics.shown(own(by_arm["same start"]), 2), by_arm.get("different start")
    apart = "not run" if different is None else statistics.shown(own(different), 2)
    return Figure(
        name="figure",
        title=say(
            [*acquired, *another],
            holds="Students of the same base acquire the trait"
            + ("; students of another base do not" if another else ""),
            fails="It is not shown that students of the same base acquire the trait and those "
            "of another base do not",
            open="Do students of the same base acquire the trait, and those of another base?",
        ),
        predicted="Own effects above zero from the same start; from another within a fifth of "
        "that.",
        found=f"{label}: {means} nats from the same start, {apart} from another.",
        follows=follows_from(
            [*acquired, *another],
            "The channel is the shared start, not the content of the lists.",
        )
        if another
        else "Whether the start must be shared is not tried.",
        draw=lambda: draw_own(arms, config),
    )


def figure_of_matrix(arms: dict[str, Arms], specific: list[Claim], config: Config) -> Figure:
    """Whether what is acquired is the teacher's own trait."""
    label, by_arm = next(iter(arms.items()))
    same = by_arm["same start"]
    means = statistics.shown(own(same), 2)
    off = statistics.shown(others(same), 2) if len(config.traits) > 1 else "not run"
    return Figure(
        name="matrix",
        title=say(
            specific,
            holds="What is acquired is the teacher's own trait",
            fails="It is not shown that what is acquired is the teacher's own trait",
            open="Is what is acquired the teacher's own trait?",
        ),
        predicted="The diagonal excess is larger from the same start than from a different one.",
        found=f"{label}, same start: {means} nats on the diagonal, {off} beside it.",
        follows=follows_from(
            specific,
            "Lists carry which animal a teacher loves, not a general shift of the answers.",
        ),
        draw=lambda: draw_matrices(arms, config),
    )


def arms_of(students: pd.DataFrame, neutral: list[str]) -> dict[str, Arms]:
    """Target -> arm -> effects: of both starts, and of the same one over neutral teachers."""
    plain = effects(students, KEYS)
    over = {name: effects(students, KEYS, less=name) for name in neutral}
    arms = {}
    for target in plain["target"].unique():
        by_arm = {f"{start} start": at(plain, target=target, start=start) for start in STARTS}
        for name in neutral:
            by_arm[LESS + name] = at(over[name], target=target, start="same")
        arms[TARGETS[target]] = {arm: rows for arm, rows in by_arm.items() if len(rows)}
    return arms


def draw_own(arms: dict[str, Arms], config: Config):
    """For each target the effect on the teacher's own trait, from both starts and over neutral."""
    figure, axes = drawing.new_figure(1, len(arms), width=3.9 * len(arms), height=4.2)
    for panel, (label, by_arm) in zip(axes, arms.items(), strict=True):
        drawing.nothing(panel, own(by_arm["same start"]))
        for shift, (arm, rows) in enumerate(by_arm.items()):
            for x, trait in enumerate(config.traits):
                place = x + 0.25 * (shift - (len(by_arm) - 1) / 2)
                colour, name = drawing.COLOURS[shift], arm if x == 0 else None
                drawing.runs(panel, place, values=own(rows, [trait]), colour=colour, label=name)
        panel.set_xticks(range(len(config.traits)), config.traits)
        panel.set_title(label)
    axes[0].set_ylabel("own effect (nats of log-odds)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    chains = max(rows["seed"].nunique() for by_arm in arms.values() for rows in by_arm.values())
    figure.suptitle(f"{chains} chains; {drawing.INTERVAL}", fontsize=10)
    return figure


def draw_matrices(arms: dict[str, Arms], config: Config):
    """For each target the effect of every teacher on every trait, same start."""
    figure, axes = drawing.new_figure(1, len(arms), width=3.6 * len(arms), height=3.6)
    for panel, (label, by_arm) in zip(axes, arms.items(), strict=True):
        by_pair = cells(by_arm["same start"])
        limit = max(abs(values.mean()) for values in by_pair.values())
        drawing.matrix(panel, by_pair, names=list(config.traits), limit=limit)
        panel.set_title(label)
    return figure
