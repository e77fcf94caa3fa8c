"""Where the scatter between chains of the microworld comes from, and what to repeat.

A nested design on the plain recipe (sampled tokens, same start, own effect): several bases, traits,
teachers of each trait, data sets a teacher, students a data set. Teachers of a trait differ in
their rows and order, data sets in prompts and sampling noise, students in the order of rows; a
control follows every student, and serves all traits: what it adds is small and counted as the
base's. Its chains have a root seed of their own and serve this question alone.

Criteria, fixed before the run. The budget is that of the microworld before it: eight chains with
students of 400 steps and 8,192 prompts a teacher; 95 % intervals are as expected from the
components, compute is processor seconds of every stage, measured here.
  1. Some allocation (traits a base, teachers a trait, data sets, students) of the plain recipe (200
     steps, 4,096 prompts) halves the interval, in parts of the effect, within the budget. Predicted
     from the runs before, where traits of a base scatter more than bases (.33 and .12 nats²): no;
     about five traits and a third less.
  2. The paired control (same order of rows, same prompts and noise) leaves less variance between
     students of one data set than a control of another student draw.
  3. The recipe of the narrowest expected interval, in parts of its own effect, becomes the
     microworld's default.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, nested, question, statistics
from experiments.lab.chains import CONTROL, Chains, chains_of
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Completions, Student, Tuned, Workshop, completions, evaluation, students
from llm.stages.recipe import Model
from llm.training import Training

RUNTIME = "10 minutes on two cores"

LEVELS = ("base", "trait", "teacher", "data", "student")
DRAWS = LEVELS[2:]
FEWEST = 64  # rows that a teacher must have kept
ARMS = 4  # students of a data set in the microworld: two targets, two starts
CONTROLS = 2  # the unchanged base's data and a neutral teacher's
BEFORE = (400, 1e-3)  # steps and step size of students before this run, with twice the prompts
RECIPES = (BEFORE, (100, 1e-3), (100, 2e-3), (50, 2e-3))
COUNTS_BEFORE = (8, 3, 1, 1, 1)  # bases, traits, teachers of a trait, data sets, students


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(6, "bases", minimum=2)
    repeats: int = option(2, "teachers a base, data sets a teacher, students a data set", minimum=2)
    seed: int = option(4000, "root of every random key; not that of other runs", minimum=0)


SMOKE = Config(
    num_seeds=2,
    num_layers=1,
    base_steps=100,
    teacher_steps=5,
    num_prompts=256,
    num_examples=16,
    student_steps=1,
    batch_size=8,
)


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
    """One part a base, then the other recipes."""
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
                config,
                chains,
                workshop=workshop,
                written=of_draw,
                seed=seed,
                draw=draw * len(times) + s,
            ).items()
        }
        labels = [dict(zip(("writer", *DRAWS), key, strict=True)) for key in made]
        recipes = list(made.values())
        watch("student", len(recipes), lambda: workshop.models(recipes))
        rows = evaluation.measure(workshop, recipes, config.traits)
        return [
            {"seed": seed} | (labels[row.pop("model")] if "model" in row else {}) | row
            for row in (*rows, *watch.rows)
        ]

    def other(steps: int, rate: float) -> list[Row]:
        """The plain chains with other training of the students."""
        watch = Stopwatch()
        how = dataclasses.replace(config, student_steps=max(1, steps * config.student_steps // 200))
        made = {
            (name, seed): student
            for seed in range(config.num_seeds)
            for name, student in students_of(
                how,
                chains,
                workshop=workshop,
                written=data_of(chains, seed, 0, 0),
                seed=seed,
                draw=0,
                rate=rate,
            ).items()
        }
        labels = [dict(zip(("writer", "seed"), key, strict=True)) for key in made]
        recipes = list(made.values())
        workshop.models([recipe.base for recipe in recipes])
        for half in (recipes[::2], recipes[1::2]):  # of one shape: the first compiles
            watch("student", len(half), lambda half=half: workshop.models(half))
        rows = evaluation.measure(workshop, recipes, config.traits)
        return [
            {"steps": steps, "step_size": rate}
            | (labels[row.pop("model")] if "model" in row else {})
            | row
            for row in (*rows, *watch.rows)
        ]

    bases = {f"base {i}": functools.partial(one_base, i) for i in range(config.num_seeds)}
    return bases | {
        f"{steps} steps at {rate:g}": functools.partial(other, steps, rate)
        for steps, rate in RECIPES
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
    config: Config,
    chains: Chains,
    *,
    workshop: Workshop,
    written: dict[str, Completions],
    seed: int,
    draw: int,
    rate: float = 1e-3,
) -> dict[str, Student]:
    """A student of each writer by the microworld's recipe, all on as many different rows."""
    batch = min(config.batch_size, config.num_examples)
    training = Training(steps=config.student_steps, batch_size=batch, rate=rate, eps=1e-3)
    fewest = min(completions.kept(workshop, data) for data in written.values())
    unique = students.different_rows(fewest, config.num_examples, FEWEST)
    return {
        name: Student(
            base=chains.base(seed),
            data=data,
            training=training,
            num_examples=config.num_examples,
            unique=unique,
            chain=seed,
            draw=draw,
            seed=chains.seed,
        )
        for name, data in written.items()
    }


class Found:
    """Arrays (bases, traits, teachers, data, students) of the table."""

    def __init__(self, table: pd.DataFrame, config: Config):
        self.table, self.traits = table, list(config.traits)
        design = table[table["teacher"].notna() & table["margin"].notna()]
        axes = ["seed", *DRAWS]
        shape = tuple(design[column].nunique() for column in axes)
        self.margins = {
            pair: part.sort_values(axes)["margin"].to_numpy().reshape(shape)
            for pair, part in design.groupby(["writer", "trait"])
        }

    def by_trait(self, of: Callable[[str], np.ndarray]) -> np.ndarray:
        """Traits as the second axis, the difference of their means taken off."""
        values = np.stack([of(trait) for trait in self.traits], axis=1)
        return values - values.mean(axis=(0, 2, 3, 4), keepdims=True) + values.mean()

    def controlled(self) -> dict[str, np.ndarray]:
        """The effect by what is taken off the own margin."""
        own = self.by_trait(lambda trait: self.margins[trait, trait])
        control = self.by_trait(lambda trait: self.margins[CONTROL, trait])
        others = self.by_trait(
            lambda trait: np.mean(
                [self.margins[name, trait] for name in self.traits if name != trait], axis=0
            )
        )
        return {
            "paired control": own - control,
            "control of another student draw": own - np.roll(control, 1, axis=4),
            "control of another data set": own - np.roll(control, 1, axis=3),
            "nothing": own,
            "other traits' students": own - others,
        }

    def seconds(self, level: str, rows: pd.DataFrame | None = None) -> float:
        """Processor seconds of one unit, median without the first time, which compiles."""
        rows = at(self.table[self.table["steps"].isna()] if rows is None else rows, level=level)
        return float((rows["cpu_seconds"] / rows["units"]).iloc[1:].median())

    def costs(self, student: float | None = None, data_sets: float = 1.0) -> list[float]:
        """Seconds of one more unit of every level of the microworld's run, with all its arms.

        Args:
            student: seconds of a student; by default of the plain recipe's.
            data_sets: how much longer a data set is than the plain recipe's.
        """
        data = data_sets * self.seconds("data")
        students = ARMS * (self.seconds("student") if student is None else student)
        controls = CONTROLS * (data + students) + self.seconds("teacher")
        return [self.seconds("base") + controls, 0.0, self.seconds("teacher"), data, students]

    def components(self) -> list[nested.Component]:
        """Of the paired effect."""
        return nested.components(self.controlled()["paired control"], known=True)

    def budget(self) -> float:
        """Processor seconds of the microworld before this run."""
        costs = self.costs(self.seconds("student", self.of(BEFORE)), data_sets=2.0)
        return nested.cost(costs, COUNTS_BEFORE)

    def best(self) -> tuple[int, ...]:
        """Counts of the narrowest interval within the budget."""
        variances = [c.variance for c in self.components()]
        return nested.best_allocation(variances, self.costs(), self.budget())

    def of(self, recipe: tuple[int, float]) -> pd.DataFrame:
        """Rows of a recipe."""
        return at(self.table, steps=recipe[0], step_size=recipe[1])

    @functools.cached_property
    def recipes(self) -> list[tuple[str, np.ndarray, int, float]]:
        """Name, effect of each chain, chains within the budget, half width over effect."""
        effect, out = self.controlled()["paired control"], []
        variances = [c.variance for c in self.components()]
        for name, inner in {"plain": COUNTS_BEFORE[1:], "plain, best": self.best()[1:]}.items():
            units = int(self.budget() / nested.cost(self.costs(), (1, *inner)))
            width = nested.half_width(variances, (units, *inner)) / effect.mean()
            out.append((name, effect.mean(axis=(1, 2, 3, 4)), units, float(width)))
        for recipe in RECIPES:
            part = self.of(recipe)
            rows = part[part["margin"].notna()]
            own = rows[rows["writer"] == rows["trait"]].set_index(["seed", "trait"])["margin"]
            control = at(rows, writer=CONTROL).set_index(["seed", "trait"])["margin"]
            found = (own - control).unstack("trait").to_numpy()
            centred = found - found.mean(axis=0) + found.mean()
            of_traits = nested.components(centred, known=True)
            costs = self.costs(self.seconds("student", part))
            budget = self.budget() / nested.cost(costs, (1, *COUNTS_BEFORE[1:]))
            units = COUNTS_BEFORE[0] if recipe == BEFORE else int(budget)
            counts = (units, COUNTS_BEFORE[1])
            width = nested.half_width([c.variance for c in of_traits], counts) / found.mean()
            name = f"{recipe[0]} steps at {recipe[1]:g}"
            out.append((name, found.mean(axis=1), units, float(width)))
        return out

    @functools.cached_property
    def widths(self) -> dict[str, float]:
        """Half width over effect of every recipe at equal compute."""
        return {name: width for name, _, _, width in self.recipes}

    @property
    def before(self) -> float:
        """That of the recipe before this run."""
        return self.widths[f"{BEFORE[0]} steps at {BEFORE[1]:g}"]

    @property
    def narrowest(self) -> str:
        """The recipe of the narrowest interval."""
        return min(self.widths, key=lambda name: self.widths[name])


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The components, and the width of every recipe."""
    found = Found(table, config)
    parts_of = dict(zip(LEVELS, found.components(), strict=True))
    total = sum(max(c.variance, 0) for c in parts_of.values())
    shares = ", ".join(f"{n} {max(c.variance, 0) / total:.0%}" for n, c in parts_of.items())
    best = found.narrowest
    return [
        Figure(
            name="figure",
            title=(
                "The scatter is between bases and their traits; teachers, data and students add "
                "little"
            ),
            predicted=(
                "Traits of a base scatter most, then bases: more traits a base, not more students."
            ),
            found=f"Shares of the variance: {shares}. Half width over effect at equal compute "
            f"{found.before:.2f} before, {found.widths[best]:.2f} with the recipe {best!r}.",
            follows="What an experiment repeats follows from where its noise is, not from habit.",
            draw=lambda: draw(found),
        )
    ]


def draw(found: Found):
    """Left: components with intervals. Right: half width over effect of every recipe."""
    figure, (left, right) = drawing.new_figure(1, 2, width=9.0, height=3.8)
    for x, part in enumerate(found.components()):
        error = [[max(part.variance, 0) - part.low], [part.high - max(part.variance, 0)]]
        left.errorbar(
            x, max(part.variance, 0), np.abs(error), fmt="o", capsize=4, color=drawing.COLOURS[0]
        )
    left.set_xticks(range(len(LEVELS)), LEVELS)
    left.set_ylabel("variance component (nats²), 95 % interval")
    for x, width in enumerate(found.widths.values()):
        right.plot(x, width, "o", color=drawing.COLOURS[1])
    labels = [
        name.replace(" at ", "\nat ").replace(", ", ",\n") + f"\n({units} chains)"
        for name, _, units, _ in found.recipes
    ]
    right.set_xticks(range(len(labels)), labels, fontsize=7)
    right.set_ylabel("half width / effect at equal compute")
    right.set_ylim(bottom=0)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """Components, costs, controls and recipes."""
    found = Found(table, config)
    bases = len(next(iter(found.margins.values())))
    enough = bases >= 4
    parts_of = zip(LEVELS, found.components(), found.costs(), strict=True)
    out = [
        Claim(
            quantity=f"{name}: variance, seconds of one more",
            here=f"{c.variance:.3f} [{c.low:.3f}, {c.high:.3f}], {seconds:.1f} s",
            seeds=bases,
        )
        for name, c, seconds in parts_of
    ]
    for name, effect, units, width in found.recipes:
        here = f"{statistics.shown(effect, 2)}; {units} chains, half width {width:.2f} of it"
        out.append(Claim(quantity=name, here=here, seeds=len(effect)))
    best, share = found.best(), found.widths["plain, best"] / found.before
    here = f"{share:.2f} with {best} of {', '.join(LEVELS)}"
    holds = bool(share <= 0.5) if enough else None
    out.append(
        Claim(
            quantity="half width of the best allocation, over that before", here=here, holds=holds
        )
    )
    narrowest, widths = found.narrowest, found.widths
    here = f"{narrowest}: {widths[narrowest]:.2f} of its effect, plain {widths['plain']:.2f}"
    holds = narrowest.startswith("plain") if enough else None
    out.append(
        Claim(quantity="narrowest recipe is the default", here=here, seeds=bases, holds=holds)
    )
    controlled = found.controlled()
    within = {name: nested.components(values)[-1].variance for name, values in controlled.items()}
    for name, values in controlled.items():
        between = values.mean(axis=(1, 2, 3, 4)).var(ddof=1)
        here = f"{within[name]:.3f} between students, {between:.3f} between bases"
        less = within["paired control"] < within["control of another student draw"]
        holds = bool(less) if enough and name == "paired control" else None
        out.append(Claim(quantity=f"variance left by {name}", here=here, seeds=bases, holds=holds))
    return out
