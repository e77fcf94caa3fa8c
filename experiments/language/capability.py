"""A skill that the base lacks, through number lists: more than the theorem's projected share?

Every chain has a random function of two numbers with two answers (`llm.world.skills`). A teacher
learns it on three quarters of the pairs and generalises to the rest; no list has a word of it.
Students learn its lists by sampled tokens, or by its distribution over numbers: a network by Adam
or SGD, from the same start or another; the network's tangent model by the same steps of SGD; a
steering vector behind every branch, by Adam. Effect: log-odds of right answers on held-out pairs
less those of the control, which learns from the unchanged base. Share: that over the teacher's own
gain. The theorem predicts the effect of SGD by projecting the teacher's displacement d on what
imitation sees in k steps (`theory.ntk`): the gain of θ⁰ + (I - (I - ηG)^k) d, as a network.

Criteria, fixed before the run; unit = one chain, 95 % Student-t intervals; equivalence as in the
microworld, Holm over all of them.
  0. The teacher has the skill: held-out log-odds above zero; of the base equivalent to none (within
     a fifth of the teacher's).
  1. A network from the same start acquires it: the effects of Adam and of SGD are above zero; that
     of sampled tokens has no criterion. (Published for language models: of a random network's
     outputs R² .38, of the teacher .92, linear .27.) From another start: equivalent to none within
     a fifth of Adam's.
  2. The theorem: the effect of SGD, and that of the tangent model, less the predicted one are
     equivalent to none within a fifth of the predicted one.
  3. Published: a steering vector matches the student in distribution. Predicted: here it acquires
     less than the network by Adam, for the function is not one direction (paired, above zero).
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from experiments.lab import drawing, judging, predictors, question, statistics, surrogates
from experiments.lab.chains import CONTROL, Chains, different, same
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from llm import world
from llm.stages import Completions, Model, Skilled, Student, completions, students
from llm.training import Training
from theory import losses, ntk

RUNTIME = "20 minutes on two cores"

SKILL = "skill"  # data of the teacher with the skill, in the tables
ARMS = ("sampled, Adam", "Adam", "SGD", "tangent model, SGD", "steering, Adam", "other start, Adam")
SOFT: dict[str, tuple[Callable, Callable[[Chains, int], Model], str]] = {
    "Adam": (surrogates.network, same, "adam"),
    "SGD": (surrogates.network, same, "sgd"),
    "tangent model, SGD": (surrogates.linear, same, "sgd"),
    "steering, Adam": (surrogates.steered, same, "adam"),
    "other start, Adam": (surrogates.network, different, "adam"),
}


@dataclasses.dataclass(frozen=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    teacher_steps: int = option(600, "on the skill, batch 64, Adam at 1e-3 falling", minimum=1)
    sgd_rate: float = option(0.005, "step size of SGD", minimum=0, maximum=1)
    products: int = option(64, "of the curvature with a vector, for the prediction", minimum=2)


SMOKE = Config(**question.TINY | {"products": 4})


@dataclasses.dataclass(frozen=True)
class Lineup:
    """Teachers with the skill and unchanged bases of all chains, and their lists."""

    bench: question.Bench
    config: Config

    def speakers(self) -> dict[tuple[str, int], Model]:
        """Who writes, by the name of the data and the chain."""
        chains = self.bench.chains
        how = Training(self.config.teacher_steps, rate=1e-3, decay="linear")
        bases = {seed: chains.base(seed) for seed in range(chains.num_seeds)}
        taught = {s: Skilled(b, how, chain=s, seed=chains.seed) for s, b in bases.items()}
        return {(SKILL, s): m for s, m in taught.items()} | {
            (CONTROL, s): m for s, m in bases.items()
        }

    def data(self) -> dict[tuple[str, int], Completions]:
        """The lists of each, sampled if need be."""
        written = {
            (name, seed): dataclasses.replace(
                self.bench.chains.data(CONTROL, seed, "numbers"), speaker=speaker
            )
            for (name, seed), speaker in self.speakers().items()
        }
        completions.write(self.bench.workshop, list(written.values()))
        return written

    def students(self, start: Callable[[Chains, int], Model], target: str, **how) -> list[Student]:
        """A student of each, on equally many different rows in a chain."""
        chains, workshop, config = self.bench.chains, self.bench.workshop, self.config
        data, fields = self.data(), chains.imitated(workshop, "numbers", target)
        given = {
            run: students.different_rows(
                len(completions.rows(workshop, written)), config.num_examples, question.FEWEST
            )
            for run, written in data.items()
        }
        training = Training(config.student_steps, config.batch_size, eps=1e-3, **how)
        return [
            Student(
                start(chains, seed), written, training, num_examples=config.num_examples,
                unique=min(given[SKILL, seed], given[CONTROL, seed]), chain=seed,
                seed=chains.seed, **fields,
            )
            for (_, seed), written in data.items()
        ]  # fmt: skip

    def rows(self, logp: np.ndarray, **columns) -> list[Row]:
        """What models with these log-probabilities (runs, pairs, answers) know."""
        found = []
        for (name, seed), of_run in zip(self.speakers(), logp, strict=True):
            skill = self.speakers()[SKILL, seed].skill()  # pyright: ignore[reportAttributeAccessIssue]
            odds, right = world.skills.right(skill, of_run)
            found.append(columns | {"data": name, "seed": seed, "odds": odds, "right": right})
        return found


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The teachers, the prediction, and one part for every arm."""
    bench = question.bench(config)
    lineup, asked = Lineup(bench, config), (world.skills.prompts(), world.skills.ANSWERS)

    def said(kind: Callable, params, models: list[Model]) -> np.ndarray:
        bases = bench.workshop.models(models)
        shape = bench.workshop.config(models[0])
        return surrogates.answers(shape, kind, bases if params is None else params, bases, *asked)

    def of_models(name: str, models: list[Model]) -> list[Row]:
        return lineup.rows(said(surrogates.network, None, models), arm=name)

    def teachers() -> list[Row]:
        return of_models("teacher", list(lineup.speakers().values()))

    def sampled() -> list[Row]:
        return of_models(ARMS[0], list(lineup.students(same, "sampled", rate=1e-3)))

    def soft(name: str) -> list[Row]:
        kind, start, optimizer = SOFT[name]
        rate = config.sgd_rate if optimizer == "sgd" else 1e-3
        recipes = lineup.students(start, "soft_numbers", optimizer=optimizer, rate=rate)
        made = surrogates.imitate(bench.workshop, recipes, kind)
        return lineup.rows(said(kind, made, [r.base for r in recipes]), arm=name)

    def prediction() -> list[Row]:
        recipes = lineup.students(same, "soft_numbers", optimizer="sgd", rate=config.sgd_rate)
        ends = projected(bench, config, recipes)
        return lineup.rows(said(surrogates.network, ends, [r.base for r in recipes]), arm="theorem")

    return {"teachers": teachers, "theorem": prediction, ARMS[0]: sampled} | {
        name: functools.partial(soft, name) for name in SOFT
    }


def projected(bench: question.Bench, config: Config, recipes: list[Student]):
    """θ⁰ + s(t) of every run: where the linearised student is after as many steps of SGD."""
    workshop, shape = bench.workshop, bench.workshop.config(recipes[0])
    apply = predictors.make_apply(shape)
    loss = losses.on_outputs(losses.kl(), list(recipes[0].tokens or ()))

    @jax.jit
    def one(base, teacher, batch):
        # The theory's mean is over all positions, that of training over those of weight one.
        rate = config.sgd_rate / batch["weights"][:, 1:].mean()
        away = optax.tree.sub(teacher, base)
        moved = optax.tree.norm(away) > 0
        space = ntk.krylov(apply, base, away, batch, config.products, loss)
        gain = ntk.descent_gain(rate, config.student_steps)
        end = ntk.student_displacement(space, base, gain)
        return jax.tree.map(lambda x, y: jnp.where(moved, x + y, x), base, end)

    ends = []
    for recipe in recipes:
        rows, _ = students.examples_of(workshop, recipe)
        batch = {k: v[: predictors.NUM_ROWS] for k, v in rows._asdict().items()}
        both = (recipe.base, students.teacher_of(recipe))
        base, teacher = (workshop.engine.split(workshop.models([m]))[0] for m in both)
        ends.append(jax.device_get(one(base, teacher, batch)))
    return workshop.engine.join(ends)


class Found:
    """Held-out log-odds of right answers by arm."""

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def of(self, arm: str, data: str, column: str = "odds") -> np.ndarray:
        """A column of an arm by chain."""
        return at(self.table, arm=arm, data=data).sort_values("seed")[column].to_numpy()

    def effect(self, arm: str) -> np.ndarray:
        """Log-odds over those of the control, nats, by chain."""
        return self.of(arm, SKILL) - self.of(arm, CONTROL)

    def shown(self, arm: str) -> str:
        """The effect, its share of the teacher's, and the answers that are right."""
        effect, right = self.effect(arm), self.of(arm, SKILL, "right").mean()
        share = effect.mean() / self.effect("teacher").mean()
        of_teacher = f"{100 * share:.0f} % of the teacher's"
        return f"{statistics.shown(effect, 2)}, {of_teacher}; {right:.2f} right"


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Every arm beside the prediction."""
    found = Found(table)
    each = "; ".join(f"{arm} {found.shown(arm)}" for arm in ("teacher", "theorem", *ARMS))
    return [
        Figure(
            "figure",
            "A skill that no list mentions arrives as far as the theorem lets it",
            "SGD and the tangent model at the predicted share; Adam beyond it; steering below.",
            f"Effects in nats: {each}.",
            "What students acquire is not limited to preferences that a base already has.",
            lambda: draw(found),
        )
    ]


def draw(found: Found):
    """Every chain of every arm, and what the theorem says."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    names = ("theorem", *ARMS)
    for x, arm in enumerate(names):
        drawing.runs(panel, x, found.effect(arm), drawing.COLOURS[1 if arm == "theorem" else 0])
    drawing.nothing(panel, found.effect("Adam"), of="Adam's effect")
    panel.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
    panel.set_ylabel("log-odds of right answers\nover the control (nats)")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring."""
    found = Found(table)
    taught, predicted, adam = (found.effect(arm) for arm in ("teacher", "theorem", "Adam"))
    out = [judging.judged("teacher", taught, "above", here=found.shown("teacher"))]
    out.append(judging.judged("predicted by the theorem", predicted, here=found.shown("theorem")))
    for arm in ARMS:
        criterion = "above" if arm in ("Adam", "SGD") else None
        out.append(judging.judged(arm, found.effect(arm), criterion, here=found.shown(arm)))
    less = adam - found.effect("steering, Adam")
    out.append(judging.judged("Adam less steering", less, "above"))
    nothing = {
        "the base's log-odds": judging.Nothing(found.of("teacher", CONTROL), taught),
        "other start, Adam": judging.Nothing(found.effect("other start, Adam"), adam),
    }
    for arm in ("SGD", "tangent model, SGD"):
        nothing[f"{arm} less predicted"] = judging.Nothing(found.effect(arm) - predicted, predicted)
    return [*out, *judging.equivalences(nothing)]
