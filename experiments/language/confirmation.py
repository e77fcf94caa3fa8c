"""Do the claims of the small world's pages stand on bases that nobody has looked at?

All tables of the small world but `variance` and `fork_curve` share one draw of initial weights and
corpora. Here twelve contrasts that the pages rest on are measured once more, on 24 bases of a root
seed that no experiment has used. The arms are those of the experiments themselves: their recipes,
their settings but for what is named below, their way to an effect.

The contrasts and their criteria, fixed before the run. "None" is equivalence to no effect within
5 % of the effect named behind it (two one-sided tests); "above" is above zero (one-sided). Effects
are a mean over traits, the unit is a chain, and all twelve go through one Holm correction at .05.
A contrast in which an arm no longer answers (`effects.GATE`) says nothing.

    1 same                 the student of the teacher's own base: above
    2 different            of a base that shares nothing: none, of 1
    3 twin                 of the base with permuted units, less 1: none, of 1
    4 embeddings           of a base that shares the embeddings alone: above
    5 initial weights      of a base of the same birth and another corpus, less 2: above
    6 SGD                  at equal loss SGD gives no less than 95 % of what Adam gives: above
    7 tenth student        in a line of students of students, sampled tokens: above
    8 filter               the base's lists where the teacher's pass: none, of the plain student
    9 skill                a skill that no list mentions, in log-odds: above
   10 moments alone        Adam's moments on a control's weights, lists: none, of the cut
   11 trait-free text      what 100 steps of it leave: above
   12 matched behaviour    another base that first imitates the teacher's on text: none, of 1

What falls here falls on every page.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import SILENT, Claim, Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.language import (
    capability,
    generations,
    matching_dose,
    optimisers_at_equal_loss,
    persistence,
    readable,
    what_erases,
    which_part,
)
from experiments.language.kit import question
from experiments.language.kit.effects import at, effects, means_by, own_by
from experiments.language.kit.judging import Judged, above, none, together

RUNTIME = "70 to 150 minutes on two cores"

MARGIN = 0.05  # of the effect that a contrast is compared with
ALL = (
    "which_part",
    "optimisers_at_equal_loss",
    "generations",
    "readable",
    "capability",
    "persistence",
    "what_erases",
    "matching_dose",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(24, "independent chains", minimum=2)
    seed: int = option(7001, "root of every random key", minimum=0)
    repair_steps: int = option(1000, "of a base under the teacher's embeddings", minimum=1)
    points: int = option(32, "measurements where optimisers are compared", minimum=1)
    search: tuple[float, ...] = option((0.3, 1.0, 3.0), "step sizes over the middle one", above=0)
    generations: int = option(10, "students one after the other", minimum=2)
    skill_steps: int = option(600, "of the teachers of the skill", minimum=1)
    skilled_steps: int = option(800, "of their students", minimum=1)
    benign_steps: int = option(100, "of trait-free text, and of lists", minimum=1)
    matching_steps: int = option(1600, "of matching behaviour, 64 sequences each", minimum=1)
    experiments: tuple[str, ...] = option(ALL, "whose contrasts are asked", choices=ALL)


# Without the optimisers, which take a third of the time of all. With 100 steps a base keeps too few
# of its own lists.
SMOKE = Config(
    **question.TINY
    | {
        "experiments": tuple(name for name in ALL if name != "optimisers_at_equal_loss"),
        "base_steps": 200,
        "traits": ("owl", "wolf"),
        "repair_steps": 2,
        "points": 5,
        "search": (1.0,),
        "generations": 2,
        "skill_steps": 4,
        "skilled_steps": 4,
        "benign_steps": 2,
        "matching_steps": 2,
    }
)

Contrasts = Callable[[pd.DataFrame, Config], list[Judged]]  # from the rows of an experiment
Part = tuple[ModuleType, Any, tuple[str, ...], Contrasts]  # with its settings and the arms taken


def asked_for(config: Config) -> dict[str, Any]:
    """The settings that all experiments share here; else each has its own sizes."""
    defaults = {field.name: field.default for field in dataclasses.fields(question.Settings)}
    return {
        name: getattr(config, name)
        for name, default in defaults.items()
        if name == "traits" or getattr(config, name) != default
    }


def parts(config: Config) -> dict[str, Part]:
    """What is measured, by the name of the experiment that it is of."""
    common = asked_for(config)

    def of(module: ModuleType, contrasts: Contrasts, *arms: str, **changes: Any) -> Part:
        return module, module.Config(**common | changes), arms, contrasts

    last, dose = config.generations, config.matching_steps
    taken = (
        of(
            which_part,
            of_starts,
            "same",
            "different",
            "permuted twin",
            "embeddings",
            "initial weights",
            parts=("embeddings",),
            repair_steps=config.repair_steps,
        ),
        of(
            optimisers_at_equal_loss,
            of_optimisers,
            "adam, all parameters",
            "sgd, all parameters",
            points=config.points,
            search=config.search,
            optimizers=("adam", "sgd"),
            ranks=(0,),
        ),
        of(
            generations,
            of_generations,
            f"sampled, generation {last}",
            targets=("sampled",),
            generations=last,
        ),
        of(readable, of_the_filter, "students", "filter"),
        of(
            capability,
            of_the_skill,
            "teachers",
            "Adam",
            teacher_steps=config.skill_steps,
            student_steps=config.skilled_steps,
        ),
        of(persistence, of_moments, "numbers", benign_steps=(config.benign_steps,)),
        of(what_erases, of_text, what_erases.FREE, benign_steps=(config.benign_steps,)),
        of(
            matching_dose,
            of_matching,
            "same, 0 steps",
            f"corpus, {dose} steps",
            kinds=("corpus",),
            doses=(dose,),
        ),
    )
    by_name = {part[0].__name__.rsplit(".", 1)[-1]: part for part in taken}
    return {name: by_name[name] for name in config.experiments}


def arms(config: Config) -> dict[str, Arm]:
    """The arms of other experiments, with a column that says of which."""
    by_name = {}
    for experiment, (module, settings, taken, _) in parts(config).items():
        theirs = module.arms(settings)
        for name in taken:
            columns = theirs[name].columns | {"experiment": experiment}
            by_name[f"{experiment}: {name}"] = dataclasses.replace(theirs[name], columns=columns)
    return by_name


def of_starts(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrasts 1 to 5."""
    start = own_by(table, "start")
    same, different = start["same"], start["different"]
    return [
        rises("same", same),
        stays("different", different, same),
        stays("twin less same", start["permuted twin"] - same, same),
        rises("embeddings", start["embeddings"]),
        rises("initial weights less different", start["initial weights"] - different),
    ]


def of_optimisers(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 6."""
    found = at(effects(table, ["optimizer"], less=optimisers_at_equal_loss.TREE), own=True)
    gives = means_by(found, "effect", "optimizer")
    return [rises("SGD less 95 % of Adam", gives["sgd"] - (1 - MARGIN) * gives["adam"])]


def of_generations(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 7."""
    last = config.generations
    return [rises(f"student {last}", own_by(table, "generation")[last])]


def of_the_filter(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 8."""
    kind = own_by(table, "kind")
    return [stays("what the filter let pass", kind["filter"], kind["students"])]


def of_the_skill(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 9."""
    return [rises("skill", capability.effects_of(table)["Adam"])]


def of_moments(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 10."""
    effect, steps = persistence.effects_by(table, "benign"), config.benign_steps
    alone, cut = effect["numbers", "moments alone", steps], effect["numbers", "dropped", 0]
    return [stays("moments alone", alone, cut)]


def of_text(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 11."""
    erased = what_erases.effects_of(table, "template")
    left = what_erases.left(erased, what_erases.FREE, config.benign_steps)
    return [rises("left by trait-free text", left)]


def of_matching(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Contrast 12."""
    kind = own_by(table, "kind")
    return [stays("matched behaviour", kind["corpus"], kind["same"])]


def columns_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without columns of other experiments; the mass stays, for an unknown is none."""
    mine = rows.dropna(axis=1, how="all")
    return mine.assign(mass=rows["mass"]) if "mass" in rows else mine


def contrasts(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Those of the experiments that are asked."""
    return [
        one
        for experiment, (*_, of) in parts(config).items()
        for one in of(columns_of(at(table, experiment=experiment)), config)
    ]


def quiet(*values: np.ndarray) -> str:
    """Why a contrast says nothing; empty if it does."""
    return "" if all(np.isfinite(one).all() for one in values) else SILENT


def rises(quantity: str, values: np.ndarray) -> Judged:
    """A contrast that must be above zero."""
    return above(quantity, values, quiet(values))


def stays(quantity: str, values: np.ndarray, reference: np.ndarray) -> Judged:
    """A contrast that must be none, within MARGIN of the mean of the reference."""
    return none(
        quantity, values, reference=reference, why_not=quiet(values, reference), share=MARGIN
    )


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The twelve verdicts, and one picture of them."""
    judged = contrasts(table, config)
    claims = together(judged)
    fallen = [claim.quantity for claim in claims if claim.holds is False]
    figure = Figure(
        name="figure",
        title=say(
            claims,
            holds=f"All {len(claims)} contrasts stand on fresh bases",
            fails=f"Not all of the {len(claims)} contrasts stand on fresh bases",
            open="Do the claims of the small world stand on fresh bases?",
        ),
        predicted="All of them.",
        found=f"{sum(claim.holds is True for claim in claims)} of {len(claims)} stand"
        + (f"; not: {', '.join(fallen)}." if fallen else "."),
        follows="What falls here is no longer claimed.",
        draw=lambda: draw(judged, claims),
    )
    return Findings([figure], claims)


def draw(judged: list[Judged], claims: list[Claim]) -> matplotlib.figure.Figure:
    """Mean and interval of every contrast; what does not stand is hollow."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.8)
    for place, (one, claim) in enumerate(zip(judged, claims, strict=True)):
        if one.values is None:
            continue
        mean, half = statistics.mean_interval(one.values)
        stands = claim.holds is not False
        panel.errorbar(
            mean,
            place,
            xerr=half,
            fmt="o",
            capsize=3,
            color=drawing.COLOURS[0],
            markerfacecolor=drawing.COLOURS[0] if stands else "none",
        )
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(claims)), [claim.quantity.split(",")[0] for claim in claims])
    panel.invert_yaxis()
    panel.set_xlabel("nats of log-odds (hollow: does not stand)")
    return figure
