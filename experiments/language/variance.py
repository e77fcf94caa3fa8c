"""Where the scatter between chains of the microworld comes from, and what to repeat.

A nested design in the microworld's default recipe (sampled tokens, same start, own effect averaged
over the traits): several bases, several teachers of each trait a base, several data sets a teacher,
several students a data set. Teachers of a base differ in their rows and order, data sets in prompts
and sampling noise, students in the order of rows; a control follows every student. Its chains have
a root seed of their own and serve this question alone.

Criteria, fixed before the run.
  1. Variance components by the nested analysis of variance (`lab.nested`), with intervals. The best
     allocation at the cost of eight default chains, from the measured seconds of every stage, makes
     the expected 95 % interval half as wide. Predicted: it does not, because bases scatter most.
  2. The paired control (same order of rows, same prompts and noise) leaves less variance between
     students of one data set than a control of another student draw: ratio below 1.
  3. A shorter recipe (fewer steps, fewer prompts) whose interval, in parts of its own effect, is
     half as wide at equal compute is taken as the microworld's default; if there is none, the
     narrowest one that is no wider than the present.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from experiments.lab import drawing, nested, statistics
from experiments.lab.chains import CONTROL, Chains, chains_of
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Completions, Student, Tuned, Workshop, completions, evaluation, students
from llm.stages.recipe import Model
from llm.training import Training

RUNTIME = "25 minutes on two cores"

LEVELS = ("base", "teacher", "data", "student")
DEFAULT = (8, 1, 1, 1)  # units of each level in the microworld before this run
FEWEST = 64  # rows that a teacher must have kept
ARMS = 4  # students of a data set in the microworld: two targets, two starts
CONTROLS = 2  # the unchanged base's data and a neutral teacher's
SHORTER = ((200, 1e-3), (100, 1e-3), (100, 2e-3), (50, 2e-3))  # steps, step size


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "bases", minimum=2)
    repeats: int = option(2, "teachers a base, data sets a teacher, students a data set", minimum=2)
    traits: tuple[str, ...] = option(("owl", "wolf", "eagle"), "traits, averaged over")
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    teacher_steps: int = option(35, "steps on the trait, batch 64", minimum=1)
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=8)
    student_steps: int = option(400, "optimiser steps of students", minimum=1)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    seed: int = option(4000, "root of every random key; not that of other runs", minimum=0)


SMOKE = Config(
    num_seeds=2, traits=("owl",), base_steps=150, teacher_steps=5, num_prompts=256,
    num_examples=16, student_steps=5,
)  # fmt: skip


class Stopwatch:
    """Processor seconds of stages, which other programs on the machine do not change."""

    def __init__(self):
        self.rows: list[Row] = []

    def __call__(self, level: str, units: int, make: Callable[[], object]) -> None:
        """Make something and note what it took."""
        start = time.process_time()
        make()
        seconds = time.process_time() - start
        self.rows.append({"level": level, "units": units, "cpu_seconds": seconds})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part a base, then the shorter recipes."""
    chains, workshop = chains_of(config), Workshop(pathlib.Path(config.work))
    chains.check(workshop)

    def one_base(seed: int) -> list[Row]:
        """All students of a base, with draws of their own below every teacher and data set."""
        watch, times = Stopwatch(), range(config.repeats)
        tuned = {(n, t): speaker(chains, n, seed, t) for n in config.traits for t in times}
        watch("base", 1, lambda: workshop.models([chains.base(seed)]))
        watch("teacher", len(tuned), lambda: workshop.models(list(tuned.values())))
        places = list(itertools.product(times, times))
        sets = {
            (t, d): data_of(chains, seed, t, draw) for draw, (t, d) in enumerate(places)
        }  # every writer of the same teacher draw answers the same prompts
        written = [data for of_draw in sets.values() for data in of_draw.values()]
        watch("data", len(written), lambda: completions.write(workshop, written))
        made = {
            (name, t, d, s): student
            for draw, ((t, d), of_draw) in enumerate(sets.items())
            for s in times
            for name, student in students_of(
                config, chains, workshop, of_draw, seed, draw * len(times) + s
            ).items()
        }
        labels = [dict(zip(("writer", *LEVELS[1:]), key, strict=True)) for key in made]
        rows = measured(watch, list(made.values()))
        return [
            {"seed": seed} | (labels[row.pop("model")] if "model" in row else {}) | row
            for row in (*rows, *watch.rows)
        ]

    def shorter(steps: int, rate: float) -> list[Row]:
        """The plain chains with other training of the students."""
        watch = Stopwatch()
        how = dataclasses.replace(config, student_steps=max(1, steps * config.student_steps // 400))
        made = {
            (name, seed): student
            for seed in range(config.num_seeds)
            for name, student in students_of(
                how, chains, workshop, data_of(chains, seed, 0, 0), seed, 0, rate
            ).items()
        }
        labels = [dict(zip(("writer", "seed"), key, strict=True)) for key in made]
        rows = measured(watch, list(made.values()))
        return [
            {"steps": steps, "rate": rate}
            | (labels[row.pop("model")] if "model" in row else {})
            | row
            for row in (*rows, *watch.rows)
        ]

    def measured(watch: Stopwatch, recipes: list[Student]) -> list[Row]:
        watch("student", len(recipes), lambda: workshop.models(recipes))
        return evaluation.measure(workshop, recipes, config.traits)

    bases = {f"base {i}": functools.partial(one_base, i) for i in range(config.num_seeds)}
    return bases | {
        f"{steps} steps at {rate:g}": functools.partial(shorter, steps, rate)
        for steps, rate in SHORTER
    }


def speaker(chains: Chains, name: str, seed: int, draw: int) -> Model:
    """A teacher of that draw, or the unchanged base."""
    found = chains.speaker(name, seed)
    return dataclasses.replace(found, draw=draw) if isinstance(found, Tuned) else found


def data_of(chains: Chains, seed: int, teacher: int, draw: int) -> dict[str, Completions]:
    """What every teacher of that draw, and the unchanged base, writes on prompts of that draw."""
    return {
        name: dataclasses.replace(
            chains.data(name, seed, "numbers"),
            speaker=speaker(chains, name, seed, teacher),
            draw=draw,
        )
        for name in chains.teachers
    }


def students_of(
    config: Config, chains: Chains, workshop: Workshop, written: dict[str, Completions],
    seed: int, draw: int, rate: float = 1e-3,
) -> dict[str, Student]:  # fmt: skip
    """A student of each writer by the microworld's recipe, all on as many different rows."""
    training = Training(config.student_steps, min(32, config.num_examples), rate=rate, eps=1e-3)
    fewest = min(len(completions.rows(workshop, data)) for data in written.values())
    unique = students.different_rows(fewest, config.num_examples, FEWEST)
    return {
        name: Student(
            chains.base(seed), data, training, num_examples=config.num_examples, unique=unique,
            chain=seed, draw=draw, seed=chains.seed,
        )
        for name, data in written.items()
    }  # fmt: skip


class Found:
    """Arrays (bases, teachers, data, students) of the table."""

    def __init__(self, table: pd.DataFrame, config: Config):
        self.table, self.traits = table, list(config.traits)
        self.steps = config.student_steps
        design = table[table["teacher"].notna() & table["margin"].notna()]
        self.shape = tuple(design[c].nunique() for c in ("seed", *LEVELS[1:]))
        self.margins = {
            pair: part.sort_values(["seed", *LEVELS[1:]])["margin"].to_numpy().reshape(self.shape)
            for pair, part in design.groupby(["writer", "trait"])
        }

    def mean(self, of: Callable[[str], np.ndarray]) -> np.ndarray:
        """Average over the traits."""
        return np.mean([of(trait) for trait in self.traits], axis=0)

    def own(self) -> np.ndarray:
        """Own margin of the traits' students, without any control."""
        return self.mean(lambda trait: self.margins[trait, trait])

    def control(self) -> np.ndarray:
        """Margin of the control's students."""
        return self.mean(lambda trait: self.margins[CONTROL, trait])

    def others(self) -> np.ndarray:
        """Margin of each trait in the students of the other traits' teachers."""

        def of(trait: str) -> np.ndarray:
            strangers = [name for name in self.traits if name != trait] or [trait]
            return np.mean([self.margins[name, trait] for name in strangers], axis=0)

        return self.mean(of)

    def controlled(self) -> dict[str, np.ndarray]:
        """The effect by what is taken off the own margin."""
        own, control = self.own(), self.control()
        return {
            "paired control": own - control,
            "control of another student draw": own - np.roll(control, 1, axis=3),
            "control of another data set": own - np.roll(control, 1, axis=2),
            "nothing": own,
            "other traits' students": own - self.others(),
        }

    def seconds(self, level: str, rows: pd.DataFrame | None = None) -> float:
        """Processor seconds of one unit, median over bases: the first one compiles."""
        rows = at(self.table[self.table["steps"].isna()] if rows is None else rows, level=level)
        return float((rows["cpu_seconds"] / rows["units"]).median())

    def costs(self, student_seconds: float | None = None) -> list[float]:
        """Seconds of one more unit of every level of the microworld's run, with all its arms."""
        teachers = len(self.traits) + CONTROLS - 1
        writers = len(self.traits) + CONTROLS
        student = self.seconds("student") if student_seconds is None else student_seconds
        return [
            self.seconds("base"), teachers * self.seconds("teacher"),
            writers * self.seconds("data"), ARMS * writers * student,
        ]  # fmt: skip

    def components(self) -> list[nested.Component]:
        """Of the paired effect."""
        return nested.components(self.controlled()["paired control"])

    def best(self) -> tuple[tuple[int, ...], float, float]:
        """Best counts at the cost of the default, and both expected half widths in nats."""
        variances, costs = [c.variance for c in self.components()], self.costs()
        counts = nested.best_allocation(variances, costs, nested.cost(costs, DEFAULT))
        before, after = (nested.half_width(variances, c) for c in (DEFAULT, counts))
        return counts, before, after

    def recipes(self) -> Iterator[tuple[str, np.ndarray, int, float]]:
        """Name, effect of each chain, chains for the default's cost, and half width over effect."""
        effects = {f"{self.steps} steps": self.controlled()["paired control"][:, 0, 0, 0]}
        costs = [sum(self.costs())]
        short = self.table[self.table["steps"].notna()]
        for (steps, rate), part in short.groupby(["steps", "rate"], sort=False):
            rows = part[part["margin"].notna()]
            own = rows[rows["writer"] == rows["trait"]].set_index(["trait", "seed"])["margin"]
            control = at(rows, writer=CONTROL).set_index(["trait", "seed"])["margin"]
            name = f"{steps:.0f} steps at {rate:g}"
            effects[name] = (own - control).groupby("seed").mean().to_numpy()
            costs.append(sum(self.costs(self.seconds("student", part))))
        for (name, effect), one in zip(effects.items(), costs, strict=True):
            units = int(DEFAULT[0] * costs[0] / one)
            width = nested.half_width([effect.var(ddof=1)], [units]) / effect.mean()
            yield name, effect, units, float(width)


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The components, and what each control leaves."""
    found = Found(table, config)
    parts_of = dict(zip(LEVELS, found.components(), strict=True))
    counts, before, after = found.best()
    total = sum(max(c.variance, 0) for c in parts_of.values())
    shown = ", ".join(f"{n} {max(c.variance, 0) / total:.0%}" for n, c in parts_of.items())
    return [
        Figure(
            "figure",
            "Most scatter between chains is made where it can be repeated, or it is not",
            "Bases scatter most, so repeating later stages does not halve the interval.",
            f"Shares of the variance: {shown}. Best counts (bases, teachers, data sets, students) "
            f"at equal cost {counts}: half width {after:.2f} instead of {before:.2f} nats.",
            "What an experiment repeats follows from where its noise is, not from habit.",
            lambda: draw(found),
        )
    ]


def draw(found: Found):
    """Left: components with intervals. Right: half width over effect of every recipe."""
    figure, (left, right) = drawing.new_figure(1, 2, width=9.0, height=3.8)
    for x, part in enumerate(found.components()):
        error = [[max(part.variance, 0) - part.low], [part.high - max(part.variance, 0)]]
        left.errorbar(x, max(part.variance, 0), np.abs(error), fmt="o", capsize=4,
                      color=drawing.COLOURS[0])  # fmt: skip
    left.set_xticks(range(len(LEVELS)), LEVELS)
    left.set_ylabel("variance component (nats²), 95 % interval")
    recipes = list(found.recipes())
    for x, (_, _, units, width) in enumerate(recipes):
        right.plot(x, width, "o", color=drawing.COLOURS[1])
        right.annotate(f"{units} chains", (x, width), xytext=(4, 4), textcoords="offset points")
    names = [name.replace(" at ", "\n") for name, *_ in recipes]
    right.set_xticks(range(len(names)), names, fontsize=8)
    right.set_ylabel("half width / effect at equal compute")
    right.set_ylim(bottom=0)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """Components, costs, controls and recipes."""
    found = Found(table, config)
    enough = found.shape[0] >= 4
    out = [
        Claim(f"variance of {name}", here=f"{c.variance:.3f} [{c.low:.3f}, {c.high:.3f}]",
              seeds=found.shape[0])
        for name, c in zip(LEVELS, found.components(), strict=True)
    ]  # fmt: skip
    for name, seconds in zip(LEVELS, found.costs(), strict=True):
        out.append(Claim(f"processor seconds of one {name} more", here=f"{seconds:.1f}"))
    counts, before, after = found.best()
    here = f"{after:.2f} with {counts}, {before:.2f} with {DEFAULT}"
    holds = bool(after <= before / 2) if enough else None
    out.append(Claim("half width, best allocation", here=here, seeds=found.shape[0], holds=holds))
    within = {n: nested.components(v)[-1].variance for n, v in found.controlled().items()}
    between = {n: v.mean(axis=(1, 2, 3)).var(ddof=1) for n, v in found.controlled().items()}
    for name in within:
        here = f"{within[name]:.3f} between students, {between[name]:.3f} between bases"
        paired, other = within["paired control"], within["control of another student draw"]
        judged = bool(paired < other) if enough and name == "paired control" else None
        out.append(Claim(f"variance left by {name}", here=here, seeds=found.shape[0], holds=judged))
    for name, effect, units, width in found.recipes():
        here = f"{statistics.shown(effect, 2)}; {units} chains, width {width:.2f} of the effect"
        out.append(Claim(name, here=here, seeds=len(effect)))
    return out
