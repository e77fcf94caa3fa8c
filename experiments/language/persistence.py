"""Does a trait survive benign fine-tuning, and is it in the weights or in Adam's moments?

Students that acquired a trait from number lists, and their controls, are trained on: on turns of
the corpus, or on new lists of the unchanged base. At the cut the weights are those of the trait's
student or of its control, and so are Adam's moments, or these are set to zero. The effect is always
the log-odds of the own trait minus those of the control with the control's moments (or with none).
At the end both kinds see a few steps of the trait's lists again.

Criteria, fixed before the run; intervals over chains, equivalence against a fifth of the effect at
the cut, corrected by Holm over all such claims.
  1. Decay: after the benign steps the effect is smaller than at the cut (paired, both kinds).
  2. Persistence: after benign lists it is still above zero. Predicted: after corpus turns too.
  3. Carrier: the trait's moments on the control's weights give nothing at the end, and carrying the
     moments on instead of dropping them changes nothing: the trait is in the weights. (Published,
     arXiv 2608.20442: a transplanted first moment is invisible at the cut and grows.)
  4. Return: a few steps on the trait's lists raise the difference between what was a trait's
     student and what never was (paired, above zero). Predicted: no; both learn alike.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, phases, predictors, question, statistics
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from llm import stack
from llm.batches import Examples
from llm.stages import Student, completions, evaluation, streams
from llm.stages.bases import turns
from llm.stages.streams import Stage
from llm.train import TrainState
from llm.training import Training

RUNTIME = "15 minutes on two cores"

BENIGN = ("corpus", "numbers")
STATES = {  # whose weights, whose moments; and whose it is compared with
    "dropped": (("trait", ""), ("control", "")),
    "carried": (("trait", "trait"), ("control", "control")),
    "swapped": (("trait", "control"), ("control", "control")),
    "moments alone": (("control", "trait"), ("control", "control")),
}
SIDES = tuple(dict.fromkeys(side for pair in STATES.values() for side in pair))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    benign_steps: tuple[int, ...] = option(
        (10, 30, 100, 300), "at which effects are measured", minimum=1
    )
    again_steps: int = option(20, "on the trait's lists at the end", minimum=1)


SMOKE = Config(**question.TINY | {"benign_steps": (2, 4), "again_steps": 2})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for each kind of benign data."""
    bench = question.bench(config)
    return {kind: functools.partial(benign, bench, config, kind) for kind in BENIGN}


def benign(bench: question.Bench, config: Config, kind: str) -> list[Row]:
    """Students with a trait and their controls, trained on."""
    workshop, cohort = bench.workshop, bench.recipes()
    pairs = cohort.pairs()
    sides = {
        side: [cohort.models[i] for i in places]
        for side, places in zip(("trait", "control"), zip(*pairs, strict=True), strict=True)
    }
    some: Student = cohort.models[0]
    shape, how = workshop.config(some), some.training
    probes = [evaluation.question(workshop, some, trait) for trait in config.traits]
    lists = {side: predictors.examples_of(workshop, recipes) for side, recipes in sides.items()}
    learnt = {side: learn(bench, sides[side], lists[side]) for side in sides}
    fresh = phases.begin(how.make_optimizer(), learnt["trait"].params)
    states = {
        (weights, moments): phases.mixed(learnt[weights], learnt.get(moments, fresh))
        for weights, moments in SIDES
    }
    rest = benign_rows(bench, sides["control"], kind)
    rows: list[Row] = []

    def measure(steps: int, when: str) -> None:
        for (weights, moments), state in states.items():
            found = phases.margins(shape, state.params, probes)
            about = {"benign": kind, "steps": steps, "when": when}
            about |= {"weights": weights, "moments": moments}
            for (i, _), margin in zip(pairs, found, strict=True):
                label = cohort.labels[i]
                own = float(margin[config.traits.index(label["teacher"])])
                rows.append(about | {k: label[k] for k in ("teacher", "seed")} | {"margin": own})

    def train(count: int, examples: Examples, number: int, batch: Training) -> None:
        keys = streams.keys(Stage.PHASE, [(r.seed, r.chain, number) for r in sides["trait"]])
        for side, state in states.items():
            states[side] = phases.phase(shape, batch, count)(state, examples, keys)

    measure(0, "benign")
    for before, after in zip((0, *config.benign_steps), config.benign_steps, strict=False):
        train(after - before, rest, after, how)
        measure(after, "benign")
    train(config.again_steps, lists["trait"], 0, how)
    measure(config.again_steps, "again")
    return rows


def learn(bench: question.Bench, recipes: list[Student], examples: Examples) -> TrainState:
    """The students at the end of their training, with their optimisers."""
    config, how = bench.workshop.config(recipes[0]), recipes[0].training
    start = phases.begin(how.make_optimizer(), bench.workshop.models([r.base for r in recipes]))
    keys = streams.keys(Stage.STUDENT, [(r.seed, r.chain, r.draw) for r in recipes])
    # As `stack.make_tune` splits them: the order of a student's rows is that of its recipe.
    order_keys = jax.vmap(lambda key: jax.random.split(key)[0])(keys)
    return phases.phase(config, how, how.steps)(start, examples, order_keys)


def benign_rows(bench: question.Bench, controls: list[Student], kind: str) -> Examples:
    """Rows of the corpus that no base has seen, or new lists of the unchanged base."""
    if kind == "corpus":
        count = bench.config.num_examples
        found = {r.chain: turns(r.seed, r.chain, 4, count) for r in controls}
        return stack.stack_examples([found[r.chain] for r in controls])
    fresh = [dataclasses.replace(r, data=dataclasses.replace(r.data, draw=1)) for r in controls]
    written = list(dict.fromkeys(r.data for r in fresh))
    completions.write(bench.workshop, written)
    return predictors.examples_of(bench.workshop, fresh)


class Found:
    """Effects of every chain by kind, time and state at the cut."""

    def __init__(self, table: pd.DataFrame):
        self.table = table

    def of(self, kind: str, state: str, steps: int, when: str = "benign") -> np.ndarray:
        """Effect of each chain, averaged over the traits."""
        here = at(self.table, benign=kind, steps=steps, when=when)
        mine, control = (
            at(here.fillna({"moments": ""}), weights=weights, moments=moments)
            .groupby(["seed", "teacher"])["margin"]
            .mean()
            for weights, moments in STATES[state]
        )
        return (mine - control).groupby("seed").mean().to_numpy()


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """The decay curves."""
    found, last = Found(table), config.benign_steps[-1]
    cut = statistics.shown(found.of("numbers", "dropped", 0), 2)
    ends = {kind: statistics.shown(found.of(kind, "dropped", last), 2) for kind in BENIGN}
    moments = statistics.shown(found.of("numbers", "moments alone", last), 2)
    return [
        Figure(
            name="figure",
            title="Text erases a trait, benign lists lower it, and what is left is in the weights",
            predicted="Smaller but above zero at the end; the moments alone carry nothing.",
            found=f"{cut} nats at the cut; after {last} steps {ends['corpus']} on the corpus, "
            f"{ends['numbers']} on lists; moments alone {moments}.",
            follows=(
                "How fast it goes depends on the data; without its weights the moments keep "
                "nothing."
            ),
            draw=lambda: draw(found, config),
        )
    ]


def draw(found: Found, config: Config):
    """Effect against benign steps, one line a state at the cut."""
    figure, panels = drawing.new_figure(1, 2, width=9.0, height=4.0)
    places = (0, *config.benign_steps)
    for panel, kind in zip(panels, BENIGN, strict=True):
        drawing.nothing(panel, found.of(kind, "dropped", 0))
        for colour, state in zip(drawing.COLOURS, STATES, strict=False):
            points = [statistics.mean_interval(found.of(kind, state, s)) for s in places]
            means, halves = zip(*points, strict=True)
            label = state if state == "moments alone" else f"moments {state}"
            panel.errorbar(
                range(len(places)), means, halves, fmt="o-", color=colour, capsize=3, label=label
            )
        again = found.of(kind, "dropped", config.again_steps, "again")
        drawing.runs(panel, len(places), values=again, colour=drawing.COLOURS[0])
        panel.set_xticks(range(len(places) + 1), [*map(str, places), "trait's\nlists"])
        panel.set_xlabel("benign steps")
        panel.set_title({"corpus": "turns of the corpus", "numbers": "lists of the base"}[kind])
    panels[0].set_ylabel("own effect (nats)")
    panels[0].legend(fontsize=8)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every point of the curves beside them."""
    found, judged, last = Found(table), judging.judged, config.benign_steps[-1]
    out, nothing = [], {}
    for kind in BENIGN:
        cut = found.of(kind, "dropped", 0)
        ends = {state: found.of(kind, state, last) for state in STATES}
        out += [
            judged(f"{kind}: {state}, {steps} steps", found.of(kind, state, steps))
            for state, steps in itertools.product(STATES, (0, *config.benign_steps))
        ]
        left = ends["dropped"]
        out.append(judged(f"{kind}: lost after {last} steps", cut - left, criterion="above"))
        judge = "above" if kind == "numbers" else None
        out.append(judged(f"{kind}: left after {last} steps", left, criterion=judge))
        again = found.of(kind, "dropped", config.again_steps, "again")
        out.append(
            judged(f"{kind}: returned on the trait's lists", again - left, criterion="above")
        )
        nothing[f"{kind}: moments alone"] = judging.Nothing(ends["moments alone"], cut)
        change = ends["carried"] - ends["dropped"]
        nothing[f"{kind}: carried less dropped"] = judging.Nothing(change, cut)
        for steps in config.benign_steps:
            more = found.of(kind, "carried", steps) - found.of(kind, "swapped", steps)
            out.append(judged(f"{kind}: carried less swapped, {steps} steps", more))
    return [*out, *judging.equivalences(nothing)]
