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
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.findings import drawing, nested, statistics
from experiments.findings.claims import Claim, Figure, Findings, judged, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import question
from experiments.language.kit.chains import CONTROL, Chains, chains_of
from experiments.language.kit.effects import at
from llm.stages import Completions, FineTuned, Store, Student, evaluation
from llm.stages.recipe import Model
from llm.training import Training

RUNTIME = "10 minutes on two cores"

LEVELS = ("base", "trait", "teacher", "data", "student")
DRAWS = LEVELS[2:]
AXES = ["seed", *LEVELS[1:]]  # columns of the levels
FEWEST = 64  # rows that a teacher must have kept
ARMS = 4  # students of a data set in the microworld: two targets, two starts
CONTROLS = 2  # the unchanged base's data and a neutral teacher's
BEFORE = (400, 1e-3)  # steps and step size of students before this run, with twice the prompts
RECIPES = (BEFORE, (100, 1e-3), (100, 2e-3), (50, 2e-3))
MOST = 0.75  # of the variance, beside which the rest is little
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


def arms(config: Config) -> dict[str, Arm]:
    """One a base, then the other recipes; they make what they need themselves, by the clock."""
    chains, store = chains_of(config), question.store_of(config)
    bases = {
        f"base {chain}": Arm(measure=functools.partial(one_base, store, chains, config, chain))
        for chain in range(config.num_seeds)
    }
    return bases | {
        named(recipe): Arm(measure=functools.partial(other_recipe, store, chains, config, recipe))
        for recipe in RECIPES
    }


def one_base(store: Store, chains: Chains, config: Config, chain: int) -> list[Row]:
    """All students of a base, with draws of their own below every teacher and data set."""
    watch, times = Stopwatch(), range(config.repeats)
    tuned = {(n, t): speaker(chains, n, chain, t) for n in config.traits for t in times}
    watch("base", 1, lambda: store.make([chains.base(chain)]))
    watch("teacher", len(tuned), lambda: store.make(tuned.values()))
    places = list(itertools.product(times, times))
    sets = {
        (t, d): data_of(chains, chain, t, draw) for draw, (t, d) in enumerate(places)
    }  # every writer of the same teacher draw answers the same prompts
    written = [data for of_draw in sets.values() for data in of_draw.values()]
    watch("data", len(written), lambda: store.make(written))
    students = {
        (name, t, d, s): student
        for draw, ((t, d), of_draw) in enumerate(sets.items())
        for s in times
        for name, student in students_of(
            config,
            chains,
            written=of_draw,
            chain=chain,
            draw=draw * len(times) + s,
        ).items()
    }
    labels = [{"seed": chain} | dict(zip(("writer", *DRAWS), key, strict=True)) for key in students]
    recipes = list(students.values())
    watch("student", len(recipes), lambda: store.make(recipes))
    rows = evaluation.measure(store, recipes, config.traits)
    return [*labelled(rows, labels), *({"seed": chain} | row for row in watch.rows)]


def other_recipe(
    store: Store, chains: Chains, config: Config, recipe: tuple[int, float]
) -> list[Row]:
    """The plain chains with other training of the students: steps and step size."""
    watch, (steps, learning_rate) = Stopwatch(), recipe
    how = dataclasses.replace(config, student_steps=max(1, steps * config.student_steps // 200))
    students = {
        (name, chain): student
        for chain in range(config.num_seeds)
        for name, student in students_of(
            how,
            chains,
            written=data_of(chains, chain, 0, 0),
            chain=chain,
            draw=0,
            learning_rate=learning_rate,
        ).items()
    }
    labels = [dict(zip(("writer", "seed"), key, strict=True)) for key in students]
    recipes = list(students.values())
    store.prepare(recipes)
    for half in (recipes[::2], recipes[1::2]):  # of one shape: the first compiles
        watch("student", len(half), lambda half=half: store.make(half))
    rows = evaluation.measure(store, recipes, config.traits)
    columns = {"steps": steps, "step_size": learning_rate}
    return [columns | row for row in (*labelled(rows, labels), *watch.rows)]


def labelled(rows: Sequence[Row], labels: Sequence[Row]) -> list[Row]:
    """What was measured, with the label of its model in the place of the model's number."""
    return [
        labels[row["model"]] | {name: value for name, value in row.items() if name != "model"}
        for row in rows
    ]


def speaker(chains: Chains, name: str, chain: int, draw: int) -> Model:
    """A teacher of that draw, or the unchanged base."""
    model = chains.speaker(name, chain)
    return dataclasses.replace(model, draw=draw) if isinstance(model, FineTuned) else model


def data_of(chains: Chains, chain: int, teacher: int, draw: int) -> dict[str, Completions]:
    """What every teacher of that draw, and the unchanged base, writes on prompts of that draw."""
    return {
        name: dataclasses.replace(
            chains.data(name, chain, "numbers"),
            speaker=speaker(chains, name, chain, teacher),
            draw=draw,
        )
        for name in chains.teachers
    }


def students_of(
    config: Config,
    chains: Chains,
    *,
    written: dict[str, Completions],
    chain: int,
    draw: int,
    learning_rate: float = 1e-3,
) -> dict[str, Student]:
    """A student of each writer by the microworld's recipe, all on as many different rows."""
    batch = min(config.batch_size, config.num_examples)
    training = Training(
        steps=config.student_steps, batch_size=batch, learning_rate=learning_rate, eps=1e-3
    )
    return {
        name: Student(
            base=chains.base(chain),
            data=data,
            training=training,
            num_examples=config.num_examples,
            as_many_as=tuple(written.values()),
            fewest=question.FEWEST,
            chain=chain,
            draw=draw,
            seed=chains.seed,
        )
        for name, data in written.items()
    }


class Recipe(NamedTuple):
    """What a recipe gives within the budget."""

    effect: np.ndarray  # of each chain
    chains: int  # that the budget buys
    width: float  # expected half width of their interval, over the effect


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The components, and the width of every recipe."""
    rows = rows_by_recipe(table)
    effect, costs = paired(rows["plain"]), costs_by_recipe(rows)
    components, bases = dict(zip(LEVELS, components_of(effect), strict=True)), len(effect)
    variances = [component.variance for component in components.values()]
    # What the microworld's run before this one cost is what every recipe may cost.
    budget = nested.cost(costs[named(BEFORE)], COUNTS_BEFORE)
    best = nested.best_allocation(variances, costs["plain"], budget)
    recipes = {
        "plain": within_budget(effect, costs["plain"], COUNTS_BEFORE, budget),
        "plain, best": within_budget(effect, costs["plain"], best, budget),
    } | {
        name: within_budget(paired(rows[name]), costs[name], COUNTS_BEFORE, budget)
        for name in map(named, RECIPES)
    }
    width = {name: recipe.width for name, recipe in recipes.items()}
    share, narrowest = width["plain, best"] / width[named(BEFORE)], narrowest_of(recipes)

    def of_level(name: str, seconds: float) -> Claim:
        variance = statistics.bracketed(*components[name], digits=3)
        here = f"{variance}, {seconds:.1f} s"
        return Claim(quantity=f"{name}: variance, seconds of one more", here=here, seeds=bases)

    def of_recipe(name: str) -> Claim:
        effect, chains, width = recipes[name]
        here = f"{statistics.shown(effect, 2)}; {chains} chains, half width {width:.2f} of it"
        return Claim(quantity=name, here=here, seeds=len(effect))

    claims = [
        *map(of_level, LEVELS, costs["plain"]),
        *map(of_recipe, recipes),
        Claim(
            quantity="half width of the best allocation, over that before",
            here=f"{share:.2f} with {best} of {', '.join(LEVELS)}",
            holds=judged(share <= 0.5, bases),
        ),
        Claim(
            quantity="narrowest recipe is the default",
            here=f"{narrowest}: {width[narrowest]:.2f} of its effect, plain {width['plain']:.2f}",
            seeds=bases,
            holds=judged(narrowest.startswith("plain"), bases),
        ),
        *left_by_controls(rows["plain"]),
    ]
    return Findings([figure_of_components(components, recipes, bases)], claims)


def narrowest_of(recipes: dict[str, Recipe]) -> str:
    """The recipe of the narrowest interval, in parts of its own effect."""
    return min(recipes, key=lambda name: recipes[name].width)


def figure_of_components(
    components: dict[str, nested.Component], recipes: dict[str, Recipe], bases: int
) -> Figure:
    """Where the scatter is, and what narrows the interval."""
    variances = {name: max(component.variance, 0) for name, component in components.items()}
    shares = {name: variance / sum(variances.values()) for name, variance in variances.items()}
    # No criterion; what the title rests on.
    above = shares["base"] + shares["trait"] > MOST
    between = Claim(quantity="most is between bases and traits", holds=judged(above, bases))
    before, narrowest = recipes[named(BEFORE)], narrowest_of(recipes)
    return Figure(
        name="figure",
        title=say(
            [between],
            holds="The scatter is between bases and their traits; teachers, data and students add "
            "little",
            fails="Teachers, data and students add to the scatter between bases and their traits",
            open="Where does the scatter between chains come from?",
        ),
        predicted="Traits of a base scatter most, then bases: more traits a base, not more "
        "students.",
        found=f"Shares of the variance: {', '.join(f'{n} {x:.0%}' for n, x in shares.items())}. "
        f"Half width over effect at equal compute {before.width:.2f} before, "
        f"{recipes[narrowest].width:.2f} with the recipe {narrowest!r}.",
        follows="What an experiment repeats follows from where its noise is, not from habit.",
        draw=lambda: draw(components, recipes),
    )


def log_odds(rows: pd.DataFrame) -> np.ndarray:
    """Mean log-odds over writers, an axis a level: bases, traits, and the draws that rows have."""
    measured = rows[rows["margin"].notna()]
    levels = list(measured[AXES].dropna(axis="columns"))
    means = measured.groupby(levels)["margin"].mean().to_numpy()
    return means.reshape([measured[level].nunique() for level in levels])


def paired(rows: pd.DataFrame) -> np.ndarray:
    """Own log-odds less those of the control of the same draws, an axis a level."""
    own = rows[rows["writer"] == rows["trait"]]
    return log_odds(own) - log_odds(at(rows, writer=CONTROL))


def left_by_controls(rows: pd.DataFrame) -> list[Claim]:
    """The variance of own log-odds between students of one data set by what is taken off them."""
    own = log_odds(rows[rows["writer"] == rows["trait"]])
    control = log_odds(at(rows, writer=CONTROL))
    others = log_odds(rows[(rows["writer"] != CONTROL) & (rows["writer"] != rows["trait"])])
    effects = {
        "paired control": own - control,
        "control of another student draw": own - np.roll(control, 1, axis=LEVELS.index("student")),
        "control of another data set": own - np.roll(control, 1, axis=LEVELS.index("data")),
        "nothing": own,
        "other traits' students": own - others,
    }
    within = {name: nested.components(effect)[-1].variance for name, effect in effects.items()}
    between = {name: effect.mean(axis=(1, 2, 3, 4)).var(ddof=1) for name, effect in effects.items()}
    less = judged(within["paired control"] < within["control of another student draw"], len(own))
    return [
        Claim(
            quantity=f"variance left by {name}",
            here=f"{within[name]:.3f} between students, {between[name]:.3f} between bases",
            seeds=len(own),
            holds=less if name == "paired control" else None,
        )
        for name in effects
    ]


def components_of(effect: np.ndarray) -> list[nested.Component]:
    """What every level adds to the variance, the difference of the traits' means taken off."""
    all_but_traits = tuple(axis for axis in range(effect.ndim) if axis != 1)
    of_traits = effect.mean(axis=all_but_traits, keepdims=True)
    return nested.components(effect - of_traits + effect.mean(), known=True)


def named(recipe: tuple[int, float]) -> str:
    """A recipe for people."""
    return "{} steps at {:g}".format(*recipe)


def rows_by_recipe(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows of the plain recipe, which the nested design is of, and of the others."""
    others = {named((steps, x)): at(table, steps=steps, step_size=x) for steps, x in RECIPES}
    return {"plain": table[table["steps"].isna()]} | others


def seconds_of(rows: pd.DataFrame) -> dict[str, float]:
    """Processor seconds of one unit by level: median without the first time, which compiles."""
    timed = rows[rows["level"].notna()]
    of_one = (timed["cpu_seconds"] / timed["units"]).groupby(timed["level"])
    return {str(level): float(times.iloc[1:].median()) for level, times in of_one}


def costs_by_recipe(rows: dict[str, pd.DataFrame]) -> dict[str, list[float]]:
    """Seconds of one more unit of every level of the microworld's run, with all its arms."""
    plain = seconds_of(rows["plain"])
    seconds = {name: plain | seconds_of(of_recipe) for name, of_recipe in rows.items()}
    seconds[named(BEFORE)]["data"] *= 2  # it had twice the prompts
    return {name: costs_of(**of_one) for name, of_one in seconds.items()}


def costs_of(*, base: float, teacher: float, data: float, student: float) -> list[float]:
    """Those of the levels, from the seconds of one base, teacher, data set and student."""
    controls = CONTROLS * (data + ARMS * student) + teacher
    return [base + controls, 0.0, teacher, data, ARMS * student]


def within_budget(
    effect: np.ndarray, costs: Sequence[float], counts: Sequence[int], budget: float
) -> Recipe:
    """What as many bases as the budget buys give, with `counts` of the other levels below them.

    Args:
        effect: an axis a level; levels without one do not scatter.
        costs: of one unit of every level.
        counts: of every level; that of the bases is not read.
        budget: in the unit of the costs.
    """
    below = tuple(counts[1:])
    chains = int(budget / nested.cost(costs, (1, *below)))
    variances = [component.variance for component in components_of(effect)]
    half = nested.half_width(variances, (chains, *below))
    of_chains = effect.mean(axis=tuple(range(1, effect.ndim)))
    return Recipe(of_chains, chains, float(half / effect.mean()))


def draw(components: dict[str, nested.Component], recipes: dict[str, Recipe]):
    """Left: components with intervals. Right: half width over effect of every recipe."""
    figure, (left, right) = drawing.new_figure(1, 2, width=9.0, height=3.8)
    for x, (variance, low, high) in enumerate(components.values()):
        shown = max(variance, 0)
        error = np.abs([[shown - low], [high - shown]])
        left.errorbar(x, shown, error, fmt="o", capsize=4, color=drawing.COLOURS[0])
    left.set_xticks(range(len(LEVELS)), LEVELS)
    left.set_ylabel("variance component (nats²), 95 % interval")
    for x, recipe in enumerate(recipes.values()):
        right.plot(x, recipe.width, "o", color=drawing.COLOURS[1])
    labels = [
        name.replace(" at ", "\nat ").replace(", ", ",\n") + f"\n({recipe.chains} chains)"
        for name, recipe in recipes.items()
    ]
    right.set_xticks(range(len(labels)), labels, fontsize=7)
    right.set_ylabel("half width / effect at equal compute")
    right.set_ylim(bottom=0)
    return figure
