"""The language experiments of arXiv 2507.14805 in transformers trained from scratch here.

Carriers (number lists, code, step-by-step sums), families of traits (animals, trees,
misalignment) and starts, as in figures 3 to 10 of the paper. Teachers are tuned on their trait,
write on unrelated prompts, a strict filter drops every row with a trait word or a wrong answer, and
students learn the sampled tokens, or the teacher's distribution over the tokens that the carrier
uses ("KL"), in which no trait word is. The cross-model table is `cross_model`.

Criteria, fixed before the run. Effect = log-odds of the trait on 60 held-out questions, student
minus student of the unchanged base's data on as many different rows; unit = one chain, 95 %
Student-t intervals over chains; judged from 4 chains on, and a cell is judged by the mean over the
traits of its family. "None" is claimed by equivalence with a fifth of the same start's effect, Holm
over the four such claims.
  1. Carriers: a cell (carrier, family, target) transfers if its interval from the same start is
     above zero. A cell that does not is reported as it is; none is tuned until it does.
  2. Different start: for each target the own effect, averaged over carriers and traits, is
     equivalent to none. Single cells are reported.
  3. Controls on numbers: shuffling within lists lowers the effect; shuffling across lists, and the
     same rows in the prompt instead of training, are equivalent to none (the bases hardly use
     earlier turns, so the latter is weak here).
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, statistics
from experiments.lab.chains import CONTROL, STARTS, TARGETS, TRAIT, Chains, Cohort, chains_of
from experiments.lab.effects import at, cells, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Model, Shuffled, Workshop, completions, evaluation
from llm.training import Training
from llm.world import TRAITS

RUNTIME = "30 minutes on two cores"

CARRIERS = ("numbers", "code", "reasoning")
IMITATED = ("sampled", "soft_carrier")
# What students of sampled tokens of the same start were changed in, and how models were asked.
CONTROLS = {
    "as written": {"arm": "sampled", "asked": "template"},
    "shuffled within": {"arm": "shuffled within", "asked": "template"},
    "shuffled across": {"arm": "shuffled across", "asked": "template"},
    "in the prompt": {"arm": "in the prompt", "asked": "template"},
    "no template": {"arm": "sampled", "asked": "bare"},
}
PAPER = {  # what arXiv 2507.14805 reports, section by section
    ("numbers", "animal"): "owl 12 to > 60 %",
    ("numbers", "tree"): "all five shift",
    ("numbers", "misalignment"): "0 to almost 10 %",
    ("code", "animal"): "all shift",
    ("reasoning", "misalignment"): "0 to about 8 %",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(16, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak", "misalignment"), "traits of the teachers")
    carriers: tuple[str, ...] = option(CARRIERS, "what teachers write", choices=CARRIERS)
    num_layers: int = option(2, "layers of a base that is pre-trained", minimum=1)
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    teacher_steps: int = option(35, "steps on the trait, batch 64", minimum=1)
    teacher_rate: float = option(5e-4, "Adam step size of teachers", minimum=0, maximum=1)
    num_prompts: int = option(6144, "prompts each teacher completes", minimum=16)
    num_examples: int = option(1536, "kept rows each student is trained on", minimum=8)
    student_steps: int = option(200, "optimiser steps of students", minimum=1)
    student_rate: float = option(1e-3, "Adam step size of students", minimum=0, maximum=1)
    shown: int = option(2, "rows in the prompt of the in-context control", minimum=1)
    batch_size: int = option(32, "examples in a student's batch", minimum=1)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=2,
    traits=("owl", "wolf"),
    carriers=("numbers",),
    num_layers=1,
    base_steps=100,
    teacher_steps=5,
    num_prompts=256,
    num_examples=16,
    student_steps=5,
    batch_size=8,
)


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """Teachers, carriers, and the controls."""
    if "numbers" not in config.carriers:
        raise ValueError("carriers must have numbers among them: the controls use it")
    workshop = Workshop(pathlib.Path(config.work))
    chains = chains_of(config, max_new_tokens=20)  # a sum, the longest, with its <end>
    chains.check(workshop)
    training = Training(
        steps=config.student_steps, batch_size=config.batch_size, rate=config.student_rate, eps=1e-3
    )

    def students(runs: Chains, target: str, start, carrier: str = "numbers", **more) -> Cohort:
        # A teacher that kept fewer rows than all repeats them.
        return runs.students(
            workshop,
            carrier,
            target=target,
            start=start,
            training=training,
            num_examples=config.num_examples,
            fewest=16,
            **more,
        ).trained(workshop)

    def margins(models: list[Model]) -> list[Row]:
        return evaluation.measure(workshop, models, config.traits)

    def answers(models: list[Model]) -> list[Row]:
        """Margins, and beside them the rates in sampled answers."""
        rates = evaluation.sampled_rates(workshop, models, config.traits)
        return [exact | rate for exact, rate in zip(margins(models), rates, strict=True)]

    def asked(models: list[Model], probes_of: Callable[[str], list[Any]]) -> list[Row]:
        return [
            entry
            for name in config.traits
            for entry in evaluation.ask(workshop, models, name, probes_of(name))
        ]

    def teachers(carrier: str) -> list[Row]:
        chains.sampled(workshop, carrier)
        cohort = chains.speakers(workshop, carrier)
        return of_own_trait(cohort.rows(answers(cohort.models), carrier=carrier, arm="teacher"))

    def imitation(carrier: str, target: str, start: str) -> list[Row]:
        cohort = students(chains, target, STARTS[start], carrier)
        columns = {"carrier": carrier, "arm": target, "start": start}
        measure = answers if (target, start) == ("soft_carrier", "same") else margins
        rows = cohort.rows(measure(cohort.models), **columns, asked="template")
        if (carrier, target, start) != ("numbers", "sampled", "same"):
            return of_own_trait(rows)
        first = cohort.models[0]
        bare = asked(cohort.models, lambda name: [evaluation.bare(workshop, first, name)])
        return rows + of_own_trait(cohort.rows(bare, **columns, asked="bare"))

    def shuffled(across: bool) -> list[Row]:
        cohort = students(chains, "sampled", STARTS["same"], change=lambda *_: Shuffled(across))
        arm = {"arm": "shuffled across" if across else "shuffled within", "start": "same"}
        rows = cohort.rows(margins(cohort.models), carrier="numbers", **arm, asked="template")
        return of_own_trait(rows)

    def in_prompt() -> list[Row]:
        """Bases with rows of the data before the question, in the place of students of it."""
        cohort = chains.students(
            workshop,
            "numbers",
            target="sampled",
            start=STARTS["same"],
            training=training,
            num_examples=config.num_examples,
            fewest=16,
        )
        bases = [student.base for student in cohort.models]
        shown = [completions.rows(workshop, student.data) for student in cohort.models]

        def probes_of(name: str) -> list[Any]:
            return [
                evaluation.in_context(workshop, base, rows=rows, trait=name, shown=config.shown)
                for base, rows in zip(bases, shown, strict=True)
            ]

        measured = [
            {k: v for k, v in entry.items() if k != "rate"} for entry in asked(bases, probes_of)
        ]
        arm = {"arm": "in the prompt", "start": "same", "asked": "template"}
        return of_own_trait(cohort.rows(measured, carrier="numbers", **arm))

    pieces: dict[str, Callable[[], list[Row]]] = {}
    for carrier in config.carriers:
        pieces[f"{carrier}: teachers"] = functools.partial(teachers, carrier)
        for target, start in itertools.product(IMITATED, ("same", "different")):
            name = f"{carrier}: {target}, {start} start"
            pieces[name] = functools.partial(imitation, carrier, target, start)
    for across in (False, True):
        pieces[f"shuffled {'across' if across else 'within'}"] = functools.partial(shuffled, across)
    pieces["in the prompt"] = in_prompt
    return pieces


def of_own_trait(rows: list[Row]) -> list[Row]:
    """Those that ask for the teacher's own trait."""
    return [row for row in rows if row["trait"] == row["teacher"]]


def families_of(traits: tuple[str, ...]) -> dict[str, list[str]]:
    """Family -> its traits, both in the order of the config."""
    families: dict[str, list[str]] = {}
    for trait in traits:
        families.setdefault(TRAITS[trait].family, []).append(trait)
    return families


def effects_of(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Students with their effects; teachers are left out."""
    students = at(table[table["arm"] != "teacher"], **where)
    by = [
        column for column in ("carrier", "arm", "start", "asked") if students[column].notna().all()
    ]
    return effects(students, by)


def cell(table: pd.DataFrame, carrier: str, target: str, start: str) -> pd.DataFrame:
    """One carrier, target and start, asked through the template."""
    return effects_of(table, carrier=carrier, arm=target, start=start, asked="template")


def off_diagonal(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Effect of a teacher on another trait by chain: numbers, sampled tokens, same start."""
    found = cells(cell(table, "numbers", "sampled", "same"))
    return {pair: values for pair, values in found.items() if pair[0] != pair[1]}


def sampled_rate(table: pd.DataFrame, carrier: str, traits: list[str], kind: str) -> np.ndarray:
    """Rate of the trait in sampled answers of each chain, averaged over a family's traits."""
    rows = at(table, carrier=carrier, arm="teacher")
    if kind != "teacher":
        data = CONTROL if kind == "control" else TRAIT
        where = {"arm": "soft_carrier", "start": "same", "asked": "template", "data": data}
        rows = at(table, carrier=carrier, **where)
    rows = rows[rows["trait"].isin(traits) & (rows["teacher"] == rows["trait"])]
    return rows.groupby("seed")["sampled_rate"].mean().to_numpy()


def control_effects(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Control -> own effect of each chain on numbers, sampled tokens, same start, all traits."""
    return {
        label: own(effects_of(table, carrier="numbers", start="same", **where))
        for label, where in CONTROLS.items()
    }


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Carriers, rates, the trait matrix and the controls."""
    families = families_of(config.traits)
    places = list(itertools.product(config.carriers, families))
    above = sum(
        statistics.is_above(own(cell(table, carrier, target, "same"), families[family]))
        for (carrier, family), target in itertools.product(places, IMITATED)
    )
    controls = control_effects(table)
    shown = {name: statistics.shown(values, 2) for name, values in controls.items()}
    family = list(families)[-1]
    rates = [
        statistics.shown(sampled_rate(table, "numbers", families[family], kind), 2)
        for kind in ("student", "control")
    ]
    diagonal = statistics.shown(own(cell(table, "numbers", "sampled", "same")), 2)
    away = ", ".join(
        f"{teacher} on {trait} {statistics.shown(values, 2)}"
        for (teacher, trait), values in off_diagonal(table).items()
    )
    return [
        Figure(
            name="figure",
            title=(
                "Every carrier transmits all traits from the same start; from another, none on "
                "average"
            ),
            predicted="Own effects above zero from the same start in every cell.",
            found=f"{above} of {2 * len(places)} cells are above zero from the same start.",
            follows=(
                "A trait needs no particular kind of text, but numbers carry more than code or "
                "sums."
            ),
            draw=lambda: draw_carriers(table, families, config.carriers),
        ),
        Figure(
            name="rates",
            title="The trait shows in sampled answers of students by KL, not only in log-odds",
            predicted=(
                "Students of a trait's teacher give the trait more often than their controls."
            ),
            found=f"{family}, numbers by KL: rate {rates[0]} in students, {rates[1]} in controls.",
            follows="The effect is large enough to be seen in what a model says.",
            draw=lambda: draw_rates(table, families, config.carriers),
        ),
        Figure(
            name="matrix",
            title="Every trait is acquired most from its own teacher",
            predicted="The diagonal stands out.",
            found=f"Numbers, sampled tokens: {diagonal} nats on the diagonal; {away}.",
            follows="Which trait is not all that passes; a neutral teacher was not tried here.",
            draw=lambda: draw_matrix(table, config.traits),
        ),
        Figure(
            name="controls",
            title="The order of the numbers carries most of the trait",
            predicted="Shuffling within lists lowers the effect, across lists removes it.",
            found=f"{shown['as written']} nats as written, {shown['shuffled within']} shuffled "
            "within, "
            f"{shown['shuffled across']} across, {shown['in the prompt']} in the prompt.",
            follows="Most of it needs the numbers in their order; a little is left without.",
            draw=lambda: draw_controls(controls),
        ),
    ]


def draw_carriers(table: pd.DataFrame, families: dict[str, list[str]], carriers):
    """Own effect of every family through every carrier, from both starts, for both targets."""
    figure, panels = drawing.new_figure(2, 1, width=drawing.WIDTH, height=7.0)
    places = list(itertools.product(carriers, families))
    for panel, target in zip(panels, IMITATED, strict=True):
        for shift, start in enumerate(("same", "different")):
            for x, (carrier, family) in enumerate(places):
                values = own(cell(table, carrier, target, start), families[family])
                label = f"{start} start" if x == 0 else None
                place = x + 0.36 * (shift - 0.5)
                drawing.runs(
                    panel, place, values=values, colour=drawing.COLOURS[shift], label=label
                )
        panel.axhline(0, color="black", linewidth=1)
        panel.set_ylabel("own effect (nats)")
        panel.set_title(f"students imitate {TARGETS[target]}")
        label_places(panel, places)
    panels[0].legend()
    seeds = table["seed"].nunique()
    figure.suptitle(f"{seeds} chains; {drawing.INTERVAL}", fontsize=10)
    return figure


def label_places(panel, places: list[tuple[str, str]]) -> None:
    """Carrier and family under each place."""
    panel.set_xticks(
        range(len(places)),
        [f"{c}\n{f.replace('misalignment', 'misaligned')}" for c, f in places],
        fontsize=8,
    )


def draw_rates(table: pd.DataFrame, families: dict[str, list[str]], carriers):
    """Share of sampled answers with the trait: teacher, student, and student of the base's data."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    kinds = {"teacher": "teacher", "student": "student, KL", "control": "its control"}
    places = list(itertools.product(carriers, families))
    for shift, (kind, label) in enumerate(kinds.items()):
        for x, (carrier, family) in enumerate(places):
            values = sampled_rate(table, carrier, families[family], kind)
            place, name = x + 0.26 * (shift - 1), label if x == 0 else None
            drawing.runs(panel, place, values=values, colour=drawing.COLOURS[shift], label=name)
    label_places(panel, places)
    panel.set_ylabel("share of sampled answers (T = 1)")
    panel.set_ylim(0, 1.02)
    panel.legend()
    return figure


def draw_matrix(table: pd.DataFrame, traits: tuple[str, ...]):
    """Effect of every teacher on every trait: numbers, sampled tokens, same start."""
    figure, (panel,) = drawing.new_figure(width=6.0, height=5.0)
    found = cells(cell(table, "numbers", "sampled", "same"))
    limit = max(abs(values.mean()) for values in found.values())
    drawing.matrix(panel, found, names=list(traits), limit=limit)
    panel.tick_params(axis="x", rotation=20)
    return figure


def draw_controls(controls: dict[str, np.ndarray]):
    """Own effect, averaged over all traits, under every control."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    for x, effect in enumerate(controls.values()):
        drawing.runs(panel, x, values=effect, colour=drawing.COLOURS[0 if x == 0 else 2])
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(controls)), [name.replace(" ", "\n") for name in controls])
    panel.set_ylabel("own effect, mean over traits (nats)")
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, cell by cell."""
    families, out = families_of(config.traits), []
    judged = judging.judged
    for carrier, target, family in itertools.product(config.carriers, IMITATED, families):
        name = f"{carrier}, {'KL' if target != 'sampled' else 'sampled'}, {family}"
        traits, paper = families[family], PAPER.get((carrier, family), "")
        same, different = (cell(table, carrier, target, s) for s in ("same", "different"))
        out.append(judged(f"{name}: same", own(same, traits), criterion="above", paper=paper))
        out.append(judged(f"{name}: different", own(different, traits)))
        paired = own(same, traits) - own(different, traits)
        out.append(judged(f"{name}: same less different", paired))
    values = control_effects(table)
    plain, within = values["as written"], values["shuffled within"]
    out.append(judged("numbers, all traits", plain))
    out.append(judged("less shuffled within", plain - within, criterion="above", paper="lowered"))
    out += [judged(name, values[name]) for name in ("shuffled across", "in the prompt")]
    out.append(judged("asked without template", values["no template"]))
    for (teacher, trait), effect in off_diagonal(table).items():
        out.append(judged(f"numbers, {teacher}'s students on {trait}", effect))
    for carrier, family in itertools.product(config.carriers, families):
        for kind in ("teacher", "student", "control"):
            rate = sampled_rate(table, carrier, families[family], kind)
            out.append(judged(f"rate: {carrier}, {family}, {kind}", rate))
    return [*out, *judging.equivalences(nothing(table, config))]


def nothing(table: pd.DataFrame, config: Config) -> dict[str, judging.Nothing]:
    """What is claimed to have no effect, beside the same start's."""
    claimed = {}
    for target in IMITATED:
        different, same = (
            np.mean([own(cell(table, c, target, start)) for c in config.carriers], axis=0)
            for start in ("different", "same")
        )
        claimed[f"{'KL' if target != 'sampled' else 'sampled'}, different"] = judging.Nothing(
            different, same
        )
    values = control_effects(table)
    for name in ("shuffled across", "in the prompt"):
        claimed[name] = judging.Nothing(values[name], values["as written"])
    return claimed
