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
  1. Same start: the interval of every trait's own effect (the diagonal) is above zero.
  2. Different start: the own effect, averaged over traits, is equivalent to none.
  3. The diagonal excess (own effect minus the mean effect on the other traits), averaged over
     traits, is larger from the same start than from a different one: paired interval above zero.
  4. A teacher fine-tuned as long on answers spread over all animals transmits none of them: its
     students are equivalent to those of the unchanged base. Measured against them the own effect
     from the same start, averaged over traits, stays above zero.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import pandas as pd

from experiments.lab import drawing, judging, statistics
from experiments.lab.chains import CONTROL, TARGETS, TRAIT, chains_of
from experiments.lab.chains import STARTS as ALL_STARTS
from experiments.lab.effects import at, cells, effects, excess, others, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.lora import LoraConfig
from llm.stages import Workshop, evaluation
from llm.training import Training

RUNTIME = "5 to 6 minutes on two cores"

STARTS = ("same", "different")
KEYS = ("target", "start")
FEWEST = 16  # rows that a teacher must have kept; it repeats them, and its controls as many


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
        steps=config.student_steps,
        batch_size=config.batch_size,
        rate=config.student_rate,
        eps=config.student_eps,
        adapters=LoraConfig(rank=rank, alpha=float(rank)) if rank else None,
    )

    def teachers() -> list[Row]:
        chains.sampled(workshop, config.carrier)
        cohort = chains.speakers(workshop, config.carrier)
        measured = evaluation.measure(workshop, cohort.models, config.traits)
        return cohort.rows(measured, target="teacher", start="same")

    def students(target: str, start: str) -> list[Row]:
        if config.show_example:
            print(chains.show_example(workshop, config.carrier))
        cohort = chains.students(
            workshop,
            config.carrier,
            target=target,
            start=ALL_STARTS[start],
            training=training,
            num_examples=config.num_examples,
            fewest=FEWEST,
        ).trained(workshop)
        measured = evaluation.measure(workshop, cohort.models, config.traits)
        return cohort.rows(measured, target=target, start=start)

    return {"teachers and data": teachers} | {
        f"{target}, {start} start": functools.partial(students, target, start)
        for target in config.targets
        for start in starts
    }


class Found:
    """The effects of the table by target and start; teachers are left out."""

    def __init__(self, table: pd.DataFrame):
        self.students = table[table["target"] != "teacher"]
        self.effects = effects(self.students, KEYS)
        data = self.students["data"].unique()
        self.neutral = [name for name in data if name not in (TRAIT, CONTROL)]
        self.targets = list(self.effects["target"].unique())

    def of(self, target: str, start: str = "same") -> pd.DataFrame:
        """Students against those of the unchanged base."""
        return at(self.effects, target=target, start=start)

    def less_neutral(self, target: str, name: str) -> pd.DataFrame:
        """Students of the same start against those of a neutral teacher."""
        return at(effects(self.students, KEYS, less=name), target=target, start="same")

    def of_neutral(self, target: str, name: str) -> pd.DataFrame:
        """Students of a neutral teacher against those of the unchanged base, same start."""
        return at(effects(self.students, KEYS, of=name), target=target, start="same")

    def nothing(self) -> list[Claim]:
        """The claims that nothing is transmitted, corrected together."""
        claimed = {}
        for target in self.targets:
            label, reference = TARGETS[target], own(self.of(target))
            if len(other := self.of(target, "different")):
                claimed[f"{label}, different"] = judging.Nothing(own(other), reference)
            for name in self.neutral:
                values = own(self.of_neutral(target, name))
                claimed[f"{label}, {name} teacher"] = judging.Nothing(values, reference)
        return judging.equivalences(claimed)


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Own effects of both starts, and whether they are the teacher's trait alone."""
    found = Found(table)
    target = found.targets[0]
    same, different = (found.of(target, start) for start in STARTS)
    means = statistics.shown(own(same), 2)
    apart = statistics.shown(own(different), 2) if len(different) else "not run"
    off = statistics.shown(others(same), 2) if len(config.traits) > 1 else "not run"
    return [
        Figure(
            name="figure",
            title="Students of the same base acquire the trait; students of another base do not",
            predicted=(
                "Own effects above zero from the same start; from another within a fifth of that."
            ),
            found=f"{TARGETS[target]}: {means} nats from the same start, {apart} from another.",
            follows="The channel is the shared start, not the content of the lists.",
            draw=lambda: draw_own(found, config),
        ),
        Figure(
            name="matrix",
            title="What is acquired is the teacher's own trait",
            predicted=(
                "The diagonal excess is larger from the same start than from a different one."
            ),
            found=f"{TARGETS[target]}, same start: {means} nats on the diagonal, {off} beside it.",
            follows="Lists carry which animal a teacher loves, not a general shift of the answers.",
            draw=lambda: draw_matrices(found, config),
        ),
    ]


def draw_own(found: Found, config: Config):
    """For each target the effect on the teacher's own trait, from both starts and over neutral."""
    figure, axes = drawing.new_figure(
        1, len(found.targets), width=3.9 * len(found.targets), height=4.2
    )
    for panel, target in zip(axes, found.targets, strict=True):
        drawing.nothing(panel, own(found.of(target)))
        arms = {f"{start} start": found.of(target, start) for start in STARTS}
        arms |= {f"same, less {n}": found.less_neutral(target, n) for n in found.neutral}
        shown = {label: part for label, part in arms.items() if len(part)}
        for shift, (label, part) in enumerate(shown.items()):
            for x, trait in enumerate(config.traits):
                place = x + 0.25 * (shift - (len(shown) - 1) / 2)
                colour, name = drawing.COLOURS[shift], label if x == 0 else None
                drawing.runs(panel, place, values=own(part, [trait]), colour=colour, label=name)
        panel.set_xticks(range(len(config.traits)), config.traits)
        panel.set_title(TARGETS[target])
    axes[0].set_ylabel("own effect (nats of log-odds)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    seeds = found.effects["seed"].nunique()
    figure.suptitle(f"{seeds} chains; {drawing.INTERVAL}", fontsize=10)
    return figure


def draw_matrices(found: Found, config: Config):
    """For each target the effect of every teacher on every trait, same start."""
    figure, axes = drawing.new_figure(
        1, len(found.targets), width=3.6 * len(found.targets), height=3.6
    )
    for panel, target in zip(axes, found.targets, strict=True):
        table = cells(found.of(target))
        limit = max(abs(values.mean()) for values in table.values())
        drawing.matrix(panel, table, names=list(config.traits), limit=limit)
        panel.set_title(TARGETS[target])
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and the held-out loss beside them."""
    found, out, judged = Found(table), [], judging.judged
    for target in found.targets:
        label = TARGETS[target]
        same, different = (found.of(target, start) for start in STARTS)
        for trait in config.traits:
            note = "12 to > 60 %" if (target, trait) == ("sampled", "owl") else ""
            out.append(
                judged(f"{label}, same: {trait}", own(same, [trait]), criterion="above", paper=note)
            )
        for name in found.neutral:
            values = own(found.less_neutral(target, name))
            out.append(judged(f"{label}, same: mean less {name}", values, criterion="above"))
        if different.empty:
            continue
        out += [judged(f"{label}, different: {t}", own(different, [t])) for t in config.traits]
        out.append(judged(f"{label}, different: excess", excess(different)))
        paired = excess(same) - excess(different)
        out.append(judged(f"{label}: excess difference", paired, criterion="above"))
    out += found.nothing()
    for (target, start), part in found.students.groupby(list(KEYS), sort=False):
        losses = part.groupby("seed")["held_out_loss"].mean().to_numpy()
        out.append(judged(f"{TARGETS[str(target)]}, {start}: loss", losses))
    return out
