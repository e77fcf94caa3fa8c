"""Does a trait survive benign fine-tuning, and is it in the weights or in Adam's moments?

Students that acquired a trait from number lists, and their controls, are trained on: on turns of
the corpus without any question for a favourite or for advice (trait-free text), on the whole corpus
(a seventh of its turns are counter-questions: they ask for the favourite animal, and every animal
answers equally often), or on new lists of the unchanged base. At the cut the weights are those of
the trait's student or of its control, and so are Adam's moments, or these are set to zero. The
effect is always the log-odds of the own trait minus those of the control with the control's moments
(or with none).
At the end both kinds see a few steps of the trait's lists again.

Criteria, fixed before the run; intervals over chains, equivalence against a fifth of the effect at
the cut, corrected by Holm over all such claims; "above zero" is corrected as in the microworld. An
arm whose students have an answer mass below a tenth says nothing (`effects.GATE`).
  1. Decay: after the benign steps the effect is smaller than at the cut (paired, every kind).
  2. Persistence: after trait-free text and after benign lists it is still above zero. The whole
     corpus erases it: equivalent to none.
  3. Carrier: the trait's moments on the control's weights give nothing at the end, and carrying the
     moments on instead of dropping them changes nothing: the trait is in the weights. (Published,
     arXiv 2608.20442: a transplanted first moment is invisible at the cut and grows.)
  4. Return: a few steps on the trait's lists raise the difference between what was a trait's
     student and what never was (paired, above zero). Predicted: no; both learn alike.

An earlier run (root seed 0) knew only the whole corpus and was read as "text erases a trait".
"""

import dataclasses
import functools
import itertools

import jax
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
from experiments.language.kit import phases, predictors, question
from experiments.language.kit.chains import Cohort, chains_of, sources_of
from experiments.language.kit.effects import at, heard
from experiments.language.what_erases import FREE, rows_of
from llm.stages import Store, Student, evaluation, streams
from llm.stages.bases import loss_on_corpus, turns
from llm.stages.streams import Stage
from llm.training import Training, stack
from llm.training.batches import Examples
from llm.training.train import TrainState

RUNTIME = "15 minutes on two cores"

BENIGN = (FREE, "corpus", "numbers")
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


def arms(config: Config) -> dict[str, Arm]:
    """One for each kind of benign data."""
    chains, store = chains_of(config), question.store_of(config)
    cohort = question.students(config, chains)
    return {
        kind: Arm(
            needs=sources_of(cohort),
            store=store,
            measure=functools.partial(benign, store, cohort, config, kind),
        )
        for kind in BENIGN
    }


def benign(store: Store, cohort: Cohort, config: Config, kind: str) -> list[Row]:
    """Students with a trait and their controls, trained on."""
    cohort = cohort.counted(store)
    pairs = cohort.pairs()
    sides = {
        side: [cohort.models[i] for i in places]
        for side, places in zip(("trait", "control"), zip(*pairs, strict=True), strict=True)
    }
    some: Student = cohort.models[0]
    shape, how = store.config(some), some.training
    probes = [evaluation.question(store, some, trait) for trait in config.traits]
    lists = {side: predictors.examples_of(store, recipes) for side, recipes in sides.items()}
    learnt = {side: learn(store, sides[side], lists[side]) for side in sides}
    fresh = phases.begin(how.make_optimizer(), learnt["trait"].params)
    states = {
        (weights, moments): phases.mixed(learnt[weights], learnt.get(moments, fresh))
        for weights, moments in SIDES
    }
    rest, text_loss = benign_rows(store, sides["control"], kind), loss_on_corpus(shape)
    rows: list[Row] = []

    def measure(steps: int, when: str) -> None:
        for (weights, moments), state in states.items():
            answers = phases.answers(shape, state.params, probes)
            losses = text_loss(state.params)
            columns = {"benign": kind, "steps": steps, "when": when}
            columns |= {"weights": weights, "moments": moments}
            for run, (i, _) in enumerate(pairs):
                label = cohort.labels[i]
                own = config.traits.index(label["teacher"])
                known = {name: float(values[run, own]) for name, values in answers.items()}
                known |= {"text_loss": float(losses[run])}
                rows.append(columns | {k: label[k] for k in ("teacher", "seed")} | known)

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


def learn(store: Store, recipes: list[Student], examples: Examples) -> TrainState:
    """The students at the end of their training, with their optimisers."""
    config, how = store.config(recipes[0]), recipes[0].training
    start = phases.begin(how.make_optimizer(), store.weights([r.base for r in recipes]))
    keys = streams.keys(Stage.STUDENT, [(r.seed, r.chain, r.draw) for r in recipes])
    # As `stack.make_tune` splits them: the order of a student's rows is that of its recipe.
    order_keys = jax.vmap(lambda key: jax.random.split(key)[0])(keys)
    return phases.phase(config, how, how.steps)(start, examples, order_keys)


def benign_rows(store: Store, controls: list[Student], kind: str) -> Examples:
    """Text without the trait, rows of the corpus that are new to the base, or new lists of it."""
    if kind == FREE:
        return rows_of(store, controls, FREE)
    if kind == "corpus":
        by_chain = {r.chain: turns(r.seed, r.chain, 4, r.num_examples) for r in controls}
        return stack.stack_examples([by_chain[r.chain] for r in controls])
    fresh = [dataclasses.replace(r, data=dataclasses.replace(r.data, draw=1)) for r in controls]
    store.make(r.data for r in fresh)
    return predictors.examples_of(store, fresh)


Effects = dict[tuple[str, str, int], np.ndarray]  # by benign data, state at the cut, steps


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The decay curves, and the criteria of the docstring."""
    effect, again = effects_by(table, "benign"), effects_by(table, "again")
    times, last = (0, *config.benign_steps), config.benign_steps[-1]
    (along,) = corrected(
        {kind: claims_along(kind, effect=effect, again=again, config=config) for kind in BENIGN}
    )
    claims, lost, claimed = [], [criteria[0] for criteria in along.values()], {}
    for kind in BENIGN:
        cut, left = effect[kind, "dropped", 0], effect[kind, "dropped", last]
        claims += [
            *(
                claim_of(f"{kind}: {state}, {steps} steps", effect[kind, state, steps])
                for state, steps in itertools.product(STATES, times)
            ),
            *along[kind],
        ]
        for steps in config.benign_steps:
            more = effect[kind, "carried", steps] - effect[kind, "swapped", steps]
            claims.append(claim_of(f"{kind}: carried less swapped, {steps} steps", more))
        claimed[f"{kind}: moments alone"] = effect[kind, "moments alone", last], cut
        claimed[f"{kind}: carried less dropped"] = effect[kind, "carried", last] - left, cut
    claimed["corpus: dropped"] = effect["corpus", "dropped", last], effect["corpus", "dropped", 0]
    none = no_effect(claimed)
    shown = {place: statistics.shown(values, 2) for place, values in effect.items()}
    figure = Figure(
        name="figure",
        title=say(
            [*lost, *none],
            holds="Benign data lower a trait, counter-questions erase it, and what is left is in "
            "the weights",
            fails="It is not shown that benign data lower a trait, that counter-questions erase "
            "it, and that what is left is in the weights",
            open="Does benign training erase a trait, and is what is left in the weights?",
        ),
        predicted="Smaller but above zero at the end, but where the corpus asks the question; the "
        "moments alone carry nothing.",
        found=f"{shown['numbers', 'dropped', 0]} nats at the cut; after {last} steps "
        f"{shown[FREE, 'dropped', last]} on trait-free text, {shown['corpus', 'dropped', last]} on "
        f"the whole corpus, {shown['numbers', 'dropped', last]} on lists; moments alone "
        f"{shown['numbers', 'moments alone', last]}.",
        follows=follows_from(
            none,
            "How fast it goes depends on the data; without its weights the moments keep nothing.",
        ),
        draw=lambda: draw(effect, again, config),
    )
    return Findings([figure], [*claims, *none])


def claims_along(kind: str, *, effect: Effects, again: Effects, config: Config) -> list[Claim]:
    """Criteria 1, 2 and 4 on one kind of benign data: lost, left, and returned."""
    last = config.benign_steps[-1]
    cut, left = effect[kind, "dropped", 0], effect[kind, "dropped", last]
    returned = again[kind, "dropped", config.again_steps] - left
    wanted = None if kind == "corpus" else "above"
    return [
        claim_of(f"{kind}: lost after {last} steps", cut - left, criterion="above"),
        claim_of(f"{kind}: left after {last} steps", left, criterion=wanted),
        claim_of(f"{kind}: returned on the trait's lists", returned, criterion="above"),
    ]


def effects_by(table: pd.DataFrame, when: str) -> Effects:
    """(benign data, state at the cut, steps) -> effect of each chain, averaged over the traits.

    Not a number throughout where either side hardly answers any more.
    """
    table = table.fillna({"moments": ""})
    arm = ["benign", "when", "steps", "weights", "moments"]
    table = table.assign(margin=heard(table["margin"], table, arm))
    rows, places = at(table, when=when), ["benign", "steps", "seed"]
    log_odds = rows.groupby(["weights", "moments", *places, "teacher"])["margin"].mean()
    effect = {}
    for state, (trait, control) in STATES.items():
        gaps = (log_odds[trait] - log_odds[control]).groupby(places).mean()
        for (kind, steps), by_chain in gaps.groupby(places[:2]):
            effect[kind, state, steps] = by_chain.to_numpy()
    return effect


def draw(effect: Effects, again: Effects, config: Config):
    """Effect against benign steps, one line a state at the cut."""
    figure, panels = drawing.new_figure(1, len(BENIGN), width=12.0, height=4.0)
    times = (0, *config.benign_steps)
    labels = {state: f"moments {state}" for state in STATES} | {"moments alone": "moments alone"}
    for panel, kind in zip(panels, BENIGN, strict=True):
        drawing.nothing(panel, effect[kind, "dropped", 0])
        curves = {labels[s]: [effect[kind, s, steps] for steps in times] for s in STATES}
        drawing.lines(panel, range(len(times)), curves)
        returned = again[kind, "dropped", config.again_steps]
        drawing.runs(panel, len(times), values=returned, colour=drawing.COLOURS[0])
        panel.set_xticks(range(len(times) + 1), [*map(str, times), "trait's\nlists"])
        panel.set_xlabel("benign steps")
        panel.set_title({"corpus": "whole corpus", "numbers": "lists of the base"}.get(kind, kind))
    panels[0].set_ylabel("own effect (nats)")
    panels[0].legend(fontsize=8)
    return figure
