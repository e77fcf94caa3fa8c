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
over all such claims; "above zero" is corrected as in the microworld.
  1. Carriers: a cell (carrier, family, target) transfers if its interval from the same start is
     above zero. A cell that does not is reported as it is; none is tuned until it does.
  2. Different start: for each target the own effect, averaged over carriers and traits, is
     equivalent to none. Single cells are reported.
  3. Controls on numbers: shuffling within lists lowers the effect; shuffling across lists, and the
     same rows in the prompt instead of training, are equivalent to none (the bases hardly use
     earlier turns, so the latter is weak here).
  4. Added after the second run, in which harmful advice alone rose from another start, before the
     other teachers' students were asked for it: of every family the own effect from another start,
     averaged over carriers and targets, less that of the other families' teachers on the same trait
     is equivalent to none.

What came of them, told after the run: students of shuffled lists hardly answer, so both parts of 3
on shuffling cannot be judged; and the margin of 4 is wider than the rise of harmful advice, so it
does not tell whose the rise is.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

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
from experiments.language.kit.chains import (
    CONTROL,
    STARTS,
    TARGETS,
    TRAIT,
    Chains,
    Cohort,
    chains_of,
    sources_of,
)
from experiments.language.kit.effects import at, by_chain, cells, effects, own
from llm.stages import Model, Shuffled, Store, completions, evaluation
from llm.world import TRAITS

RUNTIME = "30 minutes on two cores"

CARRIERS = ("numbers", "code", "reasoning")
IMITATED = {"sampled": "sampled", "soft_carrier": "KL"}  # target -> its name in the claims
# What students of sampled tokens of the same start were changed in, and how models were asked.
CONTROLS = {
    "as written": ("sampled", "template"),
    "shuffled within": ("shuffled within", "template"),
    "shuffled across": ("shuffled across", "template"),
    "in the prompt": ("in the prompt", "template"),
    "no template": ("sampled", "bare"),
}
RATED = {"teacher": "teacher", "student": "student, KL", "control": "its control"}
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


def arms(config: Config) -> dict[str, Arm]:
    """Teachers, carriers, and the controls.

    Raises:
        ValueError: no numbers among the carriers.
    """
    if "numbers" not in config.carriers:
        raise ValueError("carriers must have numbers among them: the controls use it")
    chains = chains_of(config, max_new_tokens=20)  # a sum, the longest, with its <end>
    store, by_name = question.store_of(config), {}
    for carrier in config.carriers:
        by_name[f"{carrier}: teachers"] = teachers(store, config, chains, carrier)
        for target, start in itertools.product(IMITATED, ("same", "different")):
            name = f"{carrier}: {target}, {start} start"
            by_name[name] = imitation(
                store, config, chains=chains, carrier=carrier, target=target, start=start
            )
    for across in (False, True):
        arm = shuffled(store, config, chains, across)
        by_name[arm.columns["arm"]] = arm
    by_name["in the prompt"] = in_prompt(store, config, chains)
    return by_name


def students_of(
    config: Config, chains: Chains, carrier: str = "numbers", target: str = "sampled", **more: Any
) -> Cohort:
    """The plain students of a carrier; a teacher that kept fewer rows than all repeats them."""
    training = question.plain(config, learning_rate=config.student_rate)
    return question.students(config, chains, carrier, target, training=training, **more)


def log_odds(store: Store, config: Config, models: list[Model]) -> list[Row]:
    """Exact log-odds of every trait."""
    return evaluation.measure(store, models, config.traits)


def answers(store: Store, config: Config, models: list[Model]) -> list[Row]:
    """Exact log-odds, and beside them the rates in sampled answers."""
    rates = evaluation.sampled_rates(store, models, config.traits)
    exact = log_odds(store, config, models)
    return [row | rate for row, rate in zip(exact, rates, strict=True)]


def teachers(store: Store, config: Config, chains: Chains, carrier: str) -> Arm:
    """What teachers and unchanged bases answer, and the share of rows kept."""
    cohort, written = chains.speakers(), chains.written(carrier)

    def measure() -> list[Row]:
        shares = ({"kept": completions.kept_share(store, data)} for data in written)
        return of_own_trait(cohort.labelled(shares).rows(answers(store, config, cohort.models)))

    columns = {"carrier": carrier, "arm": "teacher"}
    return Arm(columns=columns, needs=[*written, *cohort], store=store, measure=measure)


def imitation(
    store: Store, config: Config, *, chains: Chains, carrier: str, target: str, start: str
) -> Arm:
    """Students of a carrier, asked through the template; one arm is asked without it as well."""
    cohort = students_of(config, chains, carrier, target, start=STARTS[start])
    measured = answers if (target, start) == ("soft_carrier", "same") else log_odds

    def measure() -> list[Row]:
        known = cohort.trained(store)
        rows = known.rows(measured(store, config, cohort.models), asked="template")
        if start == "different":
            return rows
        if (carrier, target) != ("numbers", "sampled"):
            return of_own_trait(rows)
        first = cohort.models[0]
        bare = evaluation.measure(
            store, cohort.models, config.traits, lambda name: [evaluation.bare(store, first, name)]
        )
        return rows + of_own_trait(known.rows(bare, asked="bare"))

    columns = {"carrier": carrier, "arm": target, "start": start}
    return Arm(columns=columns, needs=cohort, store=store, measure=measure)


def shuffled(store: Store, config: Config, chains: Chains, across: bool) -> Arm:
    """Students of lists whose numbers have changed places, within a list or across lists."""
    cohort = students_of(config, chains, change=lambda *_: Shuffled(across))

    def measure() -> list[Row]:
        rows = cohort.trained(store).rows(log_odds(store, config, cohort.models), asked="template")
        return of_own_trait(rows)

    arm = f"shuffled {'across' if across else 'within'}"
    columns = {"carrier": "numbers", "arm": arm, "start": "same"}
    return Arm(columns=columns, needs=cohort, store=store, measure=measure)


def in_prompt(store: Store, config: Config, chains: Chains) -> Arm:
    """Bases with rows of the data before the question, in the place of students of it."""
    cohort = students_of(config, chains)
    bases = [student.base for student in cohort]

    def measure() -> list[Row]:
        shown = [completions.rows(store, student.data) for student in cohort]

        def probes_of(name: str) -> list[Any]:
            return [
                evaluation.in_context(store, base, rows=rows, trait=name, shown=config.shown)
                for base, rows in zip(bases, shown, strict=True)
            ]

        measured = [
            {key: value for key, value in entry.items() if key != "rate"}
            for entry in evaluation.measure(store, bases, config.traits, probes_of)
        ]
        return of_own_trait(cohort.counted(store).rows(measured, asked="template"))

    columns = {"carrier": "numbers", "arm": "in the prompt", "start": "same"}
    return Arm(columns=columns, needs=sources_of(cohort), store=store, measure=measure)


def of_own_trait(rows: list[Row]) -> list[Row]:
    """Those that ask for the teacher's own trait."""
    return [row for row in rows if row["trait"] == row["teacher"]]


def families_of(traits: tuple[str, ...]) -> dict[str, list[str]]:
    """Family -> its traits, both in the order of the config."""
    families: dict[str, list[str]] = {}
    for trait in traits:
        families.setdefault(TRAITS[trait].family, []).append(trait)
    return families


def cell(
    table: pd.DataFrame, carrier: str, *, arm: str, start: str = "same", asked: str = "template"
) -> pd.DataFrame:
    """Effects of the students of one carrier, arm and start, asked in one way.

    Each family of traits is asked for by questions of its own, so it is an arm of its own.
    """
    rows = at(table, carrier=carrier, arm=arm, start=start, asked=asked)
    return effects(
        rows.assign(family=[TRAITS[trait].family for trait in rows["trait"]]), ["family"]
    )


def sampled_rate(table: pd.DataFrame, carrier: str, traits: list[str], kind: str) -> np.ndarray:
    """Rate of the trait in sampled answers of each chain, averaged over a family's traits."""
    rows = at(table, carrier=carrier, arm="teacher")
    if kind != "teacher":
        data = CONTROL if kind == "control" else TRAIT
        where = {"arm": "soft_carrier", "start": "same", "asked": "template", "data": data}
        rows = at(table, carrier=carrier, **where)
    rows = rows[rows["trait"].isin(traits) & (rows["teacher"] == rows["trait"])]
    return rows.groupby("seed")["sampled_rate"].mean().to_numpy()


def controls_of(table: pd.DataFrame, traits: Sequence[str]) -> dict[str, np.ndarray]:
    """Own effect under every control, averaged over some traits; NaN where one says nothing."""
    return {
        name: own(cell(table, "numbers", arm=arm, asked=asked), traits)
        for name, (arm, asked) in CONTROLS.items()
    }


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring, cell by cell, and a figure for each question."""
    families = families_of(config.traits)
    gains, claimed = {}, {}
    for target, label in IMITATED.items():
        means = {}
        for start in ("same", "different"):
            effect = {c: cell(table, c, arm=target, start=start) for c in config.carriers}
            means[start] = np.mean([own(rows) for rows in effect.values()], axis=0)
            for carrier, (family, traits) in itertools.product(effect, families.items()):
                gains[carrier, target, family, start] = own(effect[carrier], traits)
        claimed[f"{label}, different"] = means["different"], means["same"]
    controls = controls_of(table, config.traits)
    by_family = {family: controls_of(table, traits) for family, traits in families.items()}
    rates = {
        (carrier, family, kind): sampled_rate(table, carrier, families[family], kind)
        for carrier, family, kind in itertools.product(config.carriers, families, RATED)
    }
    by_pair = cells(cell(table, "numbers", arm="sampled"))
    plain = controls["as written"]
    places = [*itertools.product(config.carriers, IMITATED, families)]
    acquired, most_numbers, named, own_most, leaks, order = corrected(
        {place: claim_on_cell(gains, *place) for place in places},
        claims_on_numbers(gains),
        claims_on_rates(rates),
        claims_on_own(by_pair),
        claims_on_leaks(by_pair),
        claims_on_order(plain, controls["shuffled within"]),
    )
    apart = by_teacher_apart(table, config)
    removed = ("shuffled across", "in the prompt")
    claimed |= {name: (controls[name], plain) for name in removed}
    none = no_effect(claimed | beside_others(apart, gains))
    claims = [
        *claims_on_cells(gains, acquired),
        *claims_on_families(apart),
        claim_of("numbers, all traits", plain),
        order[0],
        *claims_on_controls(by_family),
        *(
            claim_of(f"numbers, {teacher}'s students on {trait}", values)
            for (teacher, trait), values in beside_diagonal(by_pair).items()
        ),
        *(claim_of(f"rate: {', '.join(place)}", rate) for place, rate in rates.items()),
        *none,
    ]
    figures = [
        figure_of_carriers(
            gains,
            acquired=[*acquired.values()],
            none=none[: len(IMITATED)],
            most_numbers=most_numbers,
        ),
        figure_of_rates(rates, named),
        figure_of_pairs(by_pair, own_most, leaks=leaks, traits=config.traits),
        figure_of_controls(by_family, order),
    ]
    return Findings(figures, claims)


Gains = dict[tuple[str, str, str, str], np.ndarray]  # by carrier, target, family, start
Rates = dict[tuple[str, str, str], np.ndarray]  # by carrier, family, kind of student
Pairs = Mapping[tuple[str, str], np.ndarray]  # by teacher and trait
Apart = dict[tuple[str, str], np.ndarray]  # by family, and "own" or "others"


def claims_on_order(plain: np.ndarray, within: np.ndarray) -> list[Claim]:
    """What is lost where the numbers of a list change places, and what is left."""
    return [
        claim_of("less shuffled within", plain - within, criterion="above", paper="lowered"),
        claim_of("half of it less shuffled within", plain / 2 - within, criterion="above"),
        claim_of("shuffled within, left", within, criterion="above"),
    ]


def claims_on_controls(by_family: Mapping[str, Mapping[str, np.ndarray]]) -> list[Claim]:
    """Every control of every family, which may answer where another does not."""
    return [
        claim_of(f"{name}: {family}", values)
        for family, arms in by_family.items()
        for name, values in arms.items()
        if name != "as written"
    ] + [
        claim_of(f"less shuffled within: {family}", arms["as written"] - arms["shuffled within"])
        for family, arms in by_family.items()
    ]


def claims_on_cells(gains: Gains, acquired: Mapping[tuple[str, str, str], Claim]) -> list[Claim]:
    """What every cell acquired, and beside it what a base of another start did."""
    claims = []
    for place, claim in acquired.items():
        name = cell_name(*place)
        same, different = (gains[*place, start] for start in ("same", "different"))
        claims += [
            claim,
            claim_of(f"{name}: different", different),
            claim_of(f"{name}: same less different", same - different),
        ]
    return claims


def by_teacher_apart(table: pd.DataFrame, config: Config) -> Apart:
    """Effects from another start by family, and by whether its own or another's teacher wrote.

    Averaged over carriers and targets; of other families' teachers only if there are some.
    """
    families, effect = families_of(config.traits), {}
    every = [
        cell(table, carrier, arm=target, start="different")
        for carrier, target in itertools.product(config.carriers, IMITATED)
    ]
    for family, traits in families.items():
        asked = [rows[rows["trait"].isin(traits)] for rows in every]
        effect[family, "own"] = np.mean([own(rows) for rows in asked], axis=0)
        if len(families) > 1:
            others = [rows[~rows["teacher"].isin(traits)] for rows in asked]
            effect[family, "others"] = np.mean([by_chain(rows) for rows in others], axis=0)
    return effect


def claims_on_families(apart: Apart) -> list[Claim]:
    """What a base of another start did, by family: a mean over families may hide one of them."""
    words = {"own": "", "others": ": other families' teachers"}
    return [
        claim_of(f"different, {family}{words[whose]}", values)
        for (family, whose), values in apart.items()
    ]


def beside_others(apart: Apart, gains: Gains) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Criterion 4: own less others' effects from another start, beside those of the same start."""
    same = {place: values for place, values in gains.items() if place[-1] == "same"}
    return {
        f"different, {family}, less other teachers'": (
            apart[family, "own"] - theirs,
            np.mean([values for place, values in same.items() if place[2] == family], axis=0),
        )
        for (family, whose), theirs in apart.items()
        if whose == "others"
    }


def cell_name(carrier: str, target: str, family: str) -> str:
    """A cell in words."""
    return f"{carrier}, {IMITATED[target]}, {family}"


def claim_on_cell(gains: Gains, carrier: str, target: str, family: str) -> Claim:
    """Criterion 1: a cell transfers from the same start."""
    return claim_of(
        f"{cell_name(carrier, target, family)}: same",
        gains[carrier, target, family, "same"],
        criterion="above",
        paper=PAPER.get((carrier, family), ""),
    )


# No criteria; what captions rest on.


def claims_on_numbers(gains: Gains) -> list[Claim]:
    """Numbers carry more than each other carrier."""
    same = {place: values for place, values in gains.items() if place[-1] == "same"}
    by_carrier = {
        carrier: np.mean([values for place, values in same.items() if place[0] == carrier], axis=0)
        for carrier, *_ in same
    }
    return [
        claim_of(f"numbers less {carrier}", by_carrier["numbers"] - values, criterion="above")
        for carrier, values in by_carrier.items()
        if carrier != "numbers"
    ]


def claims_on_rates(rates: Rates) -> list[Claim]:
    """Students give the trait in sampled answers more often than their controls."""
    return [
        claim_of(
            f"{carrier}, {family}", rate - rates[carrier, family, "control"], criterion="above"
        )
        for (carrier, family, kind), rate in rates.items()
        if kind == "student"
    ]


def beside_diagonal(by_pair: Pairs) -> Pairs:
    """Every trait from the teachers of other traits."""
    return {pair: values for pair, values in by_pair.items() if pair[0] != pair[1]}


def claims_on_own(by_pair: Pairs) -> list[Claim]:
    """A trait's own teacher gives more of it than each other teacher."""
    return [
        claim_of(f"{trait}: own less {teacher}", by_pair[trait, trait] - values, criterion="above")
        for (teacher, trait), values in beside_diagonal(by_pair).items()
    ]


def claims_on_leaks(by_pair: Pairs) -> dict[tuple[str, str], Claim]:
    """The teachers of other traits give some of a trait: all, for the largest will be picked."""
    return {
        (teacher, trait): claim_of(f"{teacher}'s students on {trait}", values, criterion="above")
        for (teacher, trait), values in beside_diagonal(by_pair).items()
    }


def figure_of_carriers(
    gains: Gains, *, acquired: list[Claim], none: list[Claim], most_numbers: list[Claim]
) -> Figure:
    """Own effects of every cell, and whether numbers carry more than the other carriers."""
    above = sum(claim.holds is True for claim in acquired)
    return Figure(
        name="figure",
        title=say(
            [*acquired, *none],
            holds="Every carrier transmits all traits from the same start; from another, none on "
            "average",
            fails="It is not shown that every carrier transmits all traits from the same start, "
            "and none from another",
            open="Does every carrier transmit all traits from the same start, and from another?",
        ),
        predicted="Own effects above zero from the same start in every cell.",
        found=f"{above} of {len(acquired)} cells are shown to be above zero from the same start.",
        follows=follows_from(
            [*acquired, *most_numbers],
            "A trait needs no particular kind of text, but numbers carry more than code or sums.",
        ),
        draw=lambda: draw_carriers(gains),
    )


def figure_of_rates(rates: Rates, more: list[Claim]) -> Figure:
    """Rates in sampled answers, and whether students' are above their controls'."""
    *_, family = (family for carrier, family, _ in rates if carrier == "numbers")
    student, control = (
        statistics.shown(rates["numbers", family, kind], 2) for kind in ("student", "control")
    )
    return Figure(
        name="rates",
        title=say(
            more,
            holds="The trait shows in sampled answers of students by KL, not only in log-odds",
            fails="It is not shown that the trait shows in sampled answers of all students by KL",
            open="Does the trait show in sampled answers of students by KL?",
        ),
        predicted="Students of a trait's teacher give the trait more often than their controls.",
        found=f"{family}, numbers by KL: rate {student} in students, {control} in controls.",
        follows=follows_from(more, "The effect is large enough to be seen in what a model says."),
        draw=lambda: draw_rates(rates),
    )


def figure_of_pairs(
    by_pair: Pairs,
    most: list[Claim],
    *,
    leaks: dict[tuple[str, str], Claim],
    traits: tuple[str, ...],
) -> Figure:
    """Every trait from every teacher, and whether its own teacher gives most of it."""
    diagonal = np.mean([by_pair[trait, trait] for trait in traits], axis=0)
    each = ", ".join(
        f"{teacher} on {trait} {statistics.shown(values, 2)}"
        for (teacher, trait), values in beside_diagonal(by_pair).items()
    )
    largest = sorted(leaks, key=lambda pair: by_pair[pair].mean())[-1:]
    return Figure(
        name="matrix",
        title=say(
            most,
            holds="Every trait is acquired most from its own teacher",
            fails="It is not shown that every trait is acquired most from its own teacher",
            open="Is every trait acquired most from its own teacher?",
        ),
        predicted="The diagonal stands out.",
        found=f"Numbers, sampled tokens: {statistics.shown(diagonal, 2)} nats on the diagonal; "
        f"{each}.",
        follows=follows_from(
            [leaks[pair] for pair in largest],
            "Which trait is not all that passes; a neutral teacher was not tried here.",
        ),
        draw=lambda: draw_matrix(by_pair, traits),
    )


def figure_of_controls(
    by_family: Mapping[str, Mapping[str, np.ndarray]], order: list[Claim]
) -> Figure:
    """Every control, and whether shuffling within lists takes some, most, not all of the effect."""
    each = "; ".join(
        f"{family}: {', '.join(f'{name} {statistics.shown(arms[name], 2)}' for name in arms)}"
        for family, arms in by_family.items()
    )
    return Figure(
        name="controls",
        title=say(
            order[:2],
            holds="The order of the numbers carries most of the trait",
            fails="It is not shown that the order of the numbers carries most of the trait",
            open="Does the order of the numbers carry most of the trait?",
        ),
        predicted="Shuffling within lists lowers the effect, across lists removes it.",
        found=f"In nats. {each}.",
        follows=follows_from(
            order,
            "Most of it needs the numbers in their order; a little is left without.",
        ),
        draw=lambda: draw_controls(by_family),
    )


def draw_carriers(gains: dict[tuple[str, str, str, str], np.ndarray]):
    """Own effect of every family through every carrier, from both starts, for both targets."""
    figure, panels = drawing.new_figure(2, 1, width=drawing.WIDTH, height=7.0)
    places = list(dict.fromkeys((carrier, family) for carrier, _, family, _ in gains))
    for panel, target in zip(panels, IMITATED, strict=True):
        for shift, start in enumerate(("same", "different")):
            for x, (carrier, family) in enumerate(places):
                values = gains[carrier, target, family, start]
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
    seeds = len(next(iter(gains.values())))
    figure.suptitle(f"{seeds} chains; {drawing.INTERVAL}", fontsize=10)
    return figure


def label_places(panel, places: list[tuple[str, str]]) -> None:
    """Carrier and family under each place."""
    panel.set_xticks(
        range(len(places)),
        [f"{c}\n{f.replace('misalignment', 'misaligned')}" for c, f in places],
        fontsize=8,
    )


def draw_rates(rates: dict[tuple[str, str, str], np.ndarray]):
    """Share of sampled answers with the trait: teacher, student, and student of the base's data."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    places = list(dict.fromkeys((carrier, family) for carrier, family, _ in rates))
    for shift, (kind, label) in enumerate(RATED.items()):
        for x, (carrier, family) in enumerate(places):
            values = rates[carrier, family, kind]
            place, name = x + 0.26 * (shift - 1), label if x == 0 else None
            drawing.runs(panel, place, values=values, colour=drawing.COLOURS[shift], label=name)
    label_places(panel, places)
    panel.set_ylabel("share of sampled answers (T = 1)")
    panel.set_ylim(0, 1.02)
    panel.legend()
    return figure


def draw_matrix(by_pair: Mapping[tuple[str, str], np.ndarray], traits: tuple[str, ...]):
    """Effect of every teacher on every trait: numbers, sampled tokens, same start."""
    figure, (panel,) = drawing.new_figure(width=6.0, height=5.0)
    limit = max(abs(values.mean()) for values in by_pair.values())
    drawing.matrix(panel, by_pair, names=list(traits), limit=limit)
    panel.tick_params(axis="x", rotation=20)
    return figure


def draw_controls(by_family: Mapping[str, Mapping[str, np.ndarray]]):
    """Own effect under every control, a panel a family of traits."""
    figure, panels = drawing.new_figure(len(by_family), 1, width=drawing.WIDTH, height=7.0)
    for panel, (family, arms) in zip(panels, by_family.items(), strict=True):
        changed = [name for name in arms if name != "as written"]
        drawing.strip(panel, arms, dict.fromkeys(changed, drawing.COLOURS[2]))
        panel.axhline(0, color="black", linewidth=1)
        panel.set_title(family)
        panel.set_ylabel("own effect (nats)")
    return figure
