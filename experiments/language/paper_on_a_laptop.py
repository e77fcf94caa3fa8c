"""The language experiments of arXiv 2507.14805 in transformers trained from scratch here.

Carriers (number lists, code, step-by-step sums), families of traits (animals, trees,
misalignment) and starts, as in figures 3 to 10 and the cross-model table of the paper. Teachers
are tuned on their trait, write on unrelated prompts, a strict filter drops every row with a trait
word or a wrong answer, and students learn the sampled tokens, or the teacher's distribution over
the tokens that the carrier uses ("KL"), in which no trait word is.

Criteria, fixed before the run. Effect = log-odds of the trait on 60 held-out questions, student
minus student of the unchanged base's data; unit = one chain, 95 % Student-t intervals over chains;
judged from 4 chains on, and a cell is judged by the mean over the traits of its family.
  1. Carriers: a cell (carrier, family, target) transfers if its interval from the same start is
     above zero. A cell that does not is reported as it is; none is tuned until it does.
  2. Different start: the diagonal excess (own effect minus that on other traits) covers zero.
     With 18 cells one such interval in twenty misses by chance alone.
  3. Cross-model table: students of a model with the teacher's initialisation gain (interval above
     zero), also where it was pre-trained on another corpus; others do not (interval covers zero).
  4. Controls on numbers: shuffling within lists lowers the effect, shuffling across lists lowers it
     to nothing (interval covers zero); the same rows in the prompt have no effect (covers zero; the
     bases hardly use earlier turns, so this control is weak here).
The paired difference of same and different start was added to the table after the first run.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import controls, drawing, evaluation, statistics
from experiments.lab.chain import CONTROL, Chain, recipe_of
from experiments.lab.effects import (
    Effects,
    diagonal,
    draw_chains,
    draw_matrix,
    effects,
    judged,
    tidy,
)
from experiments.lab.frame import Claim, Figure, Row, option
from experiments.lab.students import STARTS, TARGETS, Students, train
from llm.world import TRAITS

RUNTIME = "30 minutes on two cores"

CARRIERS = ("numbers", "code", "reasoning")
IMITATED = ("sampled", "soft_carrier")
CONTROLS = {  # arm -> label
    "sampled": "as written",
    "shuffled within": "shuffled within",
    "shuffled across": "shuffled across",
    "in the prompt": "in the prompt",
    "sampled, no template": "no template",
}
PAPER = {  # what arXiv 2507.14805 reports, section by section
    ("numbers", "animal"): "owl 12 to > 60 %",
    ("numbers", "tree"): "all five shift",
    ("numbers", "misalignment"): "0 to almost 10 %",
    ("code", "animal"): "all shift",
    ("reasoning", "misalignment"): "0 to about 8 %",
}
MODELS = {"A": (0, 0), "A'": (0, 1), "B": (1, 0), "B'": (1, 1)}  # initialisation, corpus


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(
        ("owl", "wolf", "oak", "maple", "misalignment"), "traits of the teachers"
    )
    carriers: tuple[str, ...] = option(CARRIERS, "what teachers write", choices=CARRIERS)
    cross_traits: tuple[str, ...] = option(("owl", "oak"), "traits of the cross-model table")
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
    num_seeds=2, traits=("owl", "oak"), carriers=("numbers",), cross_traits=("owl",),
    base_steps=150, teacher_steps=5, num_prompts=256, num_examples=16, student_steps=5,
    batch_size=8,
)  # fmt: skip


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """Teachers, carriers, the cross-model table column by column, and the controls."""
    if "numbers" not in config.carriers:
        raise ValueError("carriers must have numbers among them: the controls use it")
    work = pathlib.Path(config.work)
    recipe = recipe_of(config, max_new_tokens=20)  # a sum, the longest, with its <end>
    chain = Chain(recipe, work)
    of_model = {
        name: Chain(
            dataclasses.replace(recipe, init=init, corpus=corpus, traits=config.cross_traits), work
        )
        for name, (init, corpus) in MODELS.items()
    }
    plain = Students(
        steps=config.student_steps,
        rate=config.student_rate,
        batch_size=config.batch_size,
        num_examples=config.num_examples,
        fewest=16,  # a teacher that kept fewer than all repeats them
    )

    def rows_of(
        runs: Chain, measured, arm: str, start: str, held_out="", carrier="numbers", **more
    ):
        """`arm` says what was imitated or changed, `start` from where."""
        columns = {"carrier": carrier, "arm": arm, "start": start, "held_out_loss": held_out}
        return tidy(runs, measured, **columns, **more)

    def with_rates(runs: Chain, params) -> dict:
        measured = evaluation.measure(runs, params)
        for trait, rates in evaluation.sampled_rates(runs, params).items():
            measured[trait]["sampled_rate"] = rates
        return measured

    def teachers(carrier: str) -> list[Row]:
        chain.sampled(carrier)
        measured, kept = with_rates(chain, chain.teachers), chain.kept_share(carrier)
        return rows_of(chain, measured, "teacher", "", carrier=carrier, kept=kept)

    def students(carrier: str, target: str, start: str) -> list[Row]:
        arm = dataclasses.replace(plain, target=target)
        params, held_out = train(chain, carrier, arm, STARTS[start](chain))
        rows = rows_of(chain, with_rates(chain, params), target, start, held_out, carrier)
        if (carrier, start) == ("numbers", "same"):
            bare = controls.without_template(chain, params)
            rows += rows_of(chain, bare, f"{target}, no template", start, held_out)
        return rows

    def shuffled(across: bool) -> list[Row]:
        params, held_out = train(
            chain,
            "numbers",
            plain,
            change=controls.shuffled(chain, across=across),
        )
        name = "shuffled across" if across else "shuffled within"
        return rows_of(chain, evaluation.measure(chain, params), name, "same", held_out)

    def in_prompt() -> list[Row]:
        measured = controls.rows_in_prompt(chain, "numbers", config.shown)
        return rows_of(chain, measured, "in the prompt", "same")

    def cross_model(teacher: str) -> list[Row]:
        runs, rows = of_model[teacher], []
        for student, of_student in of_model.items():
            params, held_out = train(runs, "numbers", plain, of_student.base)
            name = f"{teacher} to {student}"
            rows += rows_of(runs, evaluation.measure(runs, params), "cross-model", name, held_out)
        return rows

    pieces: dict[str, Callable[[], list[Row]]] = {}
    for carrier in config.carriers:
        pieces[f"{carrier}: teachers"] = functools.partial(teachers, carrier)
        for target, start in itertools.product(IMITATED, ("same", "different")):
            name = f"{carrier}: {target}, {start} start"
            pieces[name] = functools.partial(students, carrier, target, start)
    for across in (False, True):
        pieces[f"shuffled {'across' if across else 'within'}"] = functools.partial(shuffled, across)
    pieces["in the prompt"] = in_prompt
    for model in MODELS:
        pieces[f"cross-model: {model}"] = functools.partial(cross_model, model)
    empty = dict.fromkeys(("rate", "sampled_rate", "kept"), "")  # where a part does not measure it
    return {
        name: functools.partial(lambda part: [empty | row for row in part()], part)
        for name, part in pieces.items()
    }


def families_of(rows: list[Row]) -> dict[str, list[str]]:
    """Family -> its traits, both in the order of the config."""
    families: dict[str, list[str]] = {}
    for trait in dict.fromkeys(r["trait"] for r in rows if r["arm"] == "teacher"):
        families.setdefault(TRAITS[trait].family, []).append(trait)
    return families


def own_excess(effect: Effects, traits: list[str]) -> np.ndarray:
    """The same less the mean effect on all traits that a teacher does not have."""
    other = [[v for (t, u), v in effect.items() if t == trait != u] for trait in traits]
    return diagonal(effect, traits) - np.mean([np.mean(values, axis=0) for values in other], axis=0)


def plot(rows: list[Row], config: Config):
    """Carriers and families for both targets, trait matrix, cross-model table, controls, rates."""
    families = families_of(rows)
    figure, panels = drawing.new_figure(2, 3, width=14.5, height=9.0)
    for panel, target in zip(panels[:2], IMITATED, strict=True):
        draw_carriers(panel, rows, target, families, config.carriers)
    draw_rates(panels[2], rows, families, config.carriers)
    traits = [trait for family in families.values() for trait in family]
    effect = effects(rows, carrier="numbers", arm="sampled", start="same")
    draw_matrix(panels[3], effect, traits, max(abs(v.mean()) for v in effect.values()))
    panels[3].tick_params(axis="x", rotation=30)
    panels[3].set_title("numbers, sampled tokens, same start")
    draw_cross_model(panels[4], rows)
    draw_controls(panels[5], rows, traits)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(
        f"Subliminal learning in transformers trained from scratch, {seeds} chains; effects in nats"
        f" of log-odds; {drawing.INTERVAL}; points are single chains",
        fontsize=11,
    )
    return figure


def draw_carriers(panel, rows: list[Row], target: str, families, carriers) -> None:
    """Own effect of every family through every carrier, from both starts."""
    places = list(itertools.product(carriers, families))
    for shift, start in enumerate(("same", "different")):
        for x, (carrier, family) in enumerate(places):
            effect = effects(rows, carrier=carrier, arm=target, start=start)
            label = f"{start} start" if x == 0 else None
            values = diagonal(effect, families[family])
            draw_chains(panel, x + 0.36 * (shift - 0.5), values, drawing.COLOURS[shift], label)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(places)), [f"{c}\n{f}" for c, f in places], rotation=60, fontsize=8)
    panel.set_ylabel("own effect")
    panel.set_title(f"students imitate {TARGETS[target]}")
    panel.legend(fontsize=8)


def draw_rates(panel, rows: list[Row], families, carriers) -> None:
    """Share of sampled answers with the trait: teacher, student, and student of the base's data."""
    kinds = {"teacher": "teacher", "student": "student, KL", "control": "its control"}
    places = list(itertools.product(carriers, families))
    for shift, (kind, label) in enumerate(kinds.items()):
        for x, (carrier, family) in enumerate(places):
            values = sampled_rate(rows, carrier, families[family], kind)
            place = x + 0.26 * (shift - 1)
            draw_chains(panel, place, values, drawing.COLOURS[shift], label if x == 0 else None)
    panel.set_xticks(range(len(places)), [f"{c}\n{f}" for c, f in places], rotation=60, fontsize=8)
    panel.set_ylabel("share of sampled answers (T = 1)")
    panel.set_title("rate of the trait, same start")
    panel.set_ylim(0, 1.02)
    panel.legend(fontsize=8)


def sampled_rate(rows: list[Row], carrier: str, traits: list[str], kind: str) -> np.ndarray:
    """Rate of the trait in sampled answers of each chain, averaged over a family's traits."""
    arm = "teacher" if kind == "teacher" else "soft_carrier"
    start = "" if kind == "teacher" else "same"
    return np.mean(
        [
            [
                r["sampled_rate"]
                for r in rows
                if (r["carrier"], r["arm"], r["start"]) == (carrier, arm, start)
                and (r["teacher"], r["trait"]) == (CONTROL if kind == "control" else trait, trait)
            ]
            for trait in traits
        ],
        axis=0,
    )


def cross_effects(rows: list[Row]) -> dict[tuple[str, str], np.ndarray]:
    """(student model, teacher model) -> own effect of each chain, averaged over the traits."""
    arms = dict.fromkeys(r["start"] for r in rows if r["arm"] == "cross-model")
    cells = {}
    for name in arms:
        teacher, student = name.split(" to ")
        effect = effects(rows, arm="cross-model", start=name)
        cells[student, teacher] = diagonal(effect, list(dict.fromkeys(t for t, _ in effect)))
    return cells


def is_related(student: str, teacher: str) -> bool:
    """Whether two models were pre-trained from the same initial weights."""
    return MODELS[student][0] == MODELS[teacher][0]


def draw_cross_model(panel, rows: list[Row]) -> None:
    """Gain of every student model from every teacher model; a star where it is above zero."""
    cells = cross_effects(rows)
    limit = max(abs(v.mean()) for v in cells.values())

    def star(values: np.ndarray) -> str:
        mean, half = statistics.mean_interval(values)
        return "*" if mean - half > 0 else ""

    draw_matrix(panel, cells, list(MODELS), limit, ("student", "teacher"), star)
    panel.set_title("cross-model: A, A' share weights at birth, so do B, B'\n* interval above zero")


def control_effects(rows: list[Row], traits: list[str]) -> dict[str, np.ndarray]:
    """Control -> own effect of each chain on numbers, sampled tokens, same start."""
    return {
        label: diagonal(effects(rows, carrier="numbers", arm=arm, start="same"), traits)
        for arm, label in CONTROLS.items()
    }


def draw_controls(panel, rows: list[Row], traits: list[str]) -> None:
    """Own effect, averaged over all traits, under every control."""
    values = control_effects(rows, traits)
    for x, (_, effect) in enumerate(values.items()):
        draw_chains(panel, x, effect, drawing.COLOURS[0 if x == 0 else 2], None)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(values)), list(values), rotation=30)
    panel.set_ylabel("own effect, mean over traits")
    panel.set_title("controls: numbers, sampled tokens, same start")


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The one figure."""
    rows = table.to_dict("records")
    title = __doc__.splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]
    return [Figure("figure", title, "", "", "", lambda: plot(rows, config))]


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, cell by cell."""
    rows = table.to_dict("records")
    families, out = families_of(rows), []
    traits = [trait for family in families.values() for trait in family]

    def claim(*given) -> None:
        out.append(judged(*given))

    for carrier, target, family in itertools.product(config.carriers, IMITATED, families):
        cell = {"carrier": carrier, "arm": target}
        name = f"{carrier}, {'KL' if target != 'sampled' else 'sampled'}, {family}"
        same = effects(rows, start="same", **cell)
        different = effects(rows, start="different", **cell)
        claim(
            f"{name}: same",
            diagonal(same, families[family]),
            "above",
            PAPER.get((carrier, family), ""),
        )
        claim(f"{name}: different", diagonal(different, families[family]), None)
        paired = diagonal(same, families[family]) - diagonal(different, families[family])
        claim(f"{name}: same less different", paired, None)
        if len(traits) > 1:
            claim(f"{name}: different, excess", own_excess(different, families[family]), "covers")
    cross = cross_effects(rows)
    for (student, teacher), values in cross.items():
        related = is_related(student, teacher)
        claim(f"cross-model: {teacher} to {student}", values, "above" if related else "covers")
    siblings, strangers = (
        np.mean([v for (s, t), v in cross.items() if s != t and is_related(s, t) == wanted], axis=0)
        for wanted in (True, False)
    )
    claim("cross-model: siblings less strangers", siblings - strangers, None)
    values = control_effects(rows, traits)
    plain, within = values["as written"], values["shuffled within"]
    claim("numbers, all traits", plain, None)
    claim("less shuffled within", plain - within, "above", "lowered")
    claim("shuffled across", values["shuffled across"], "covers", "lowered more")
    claim("in the prompt", values["in the prompt"], "covers", "none")
    claim("asked without template", values["no template"], None)
    for carrier, family in itertools.product(config.carriers, families):
        for kind in ("teacher", "student", "control"):
            rate = sampled_rate(rows, carrier, families[family], kind)
            claim(f"rate: {carrier}, {family}, {kind}", rate, None)
    return out
