"""Which benign training erases a trait?

Students that acquired a trait from number lists, and beside them students of the unchanged base's
lists (the neutral lineage), are trained on with a fresh optimiser. What they read now is trait-free
text: turns of the corpus without any question for a favourite or for advice. A share of the turns
are *counter-questions*: the corpus' own questions for the favourite animal, which every animal
answers equally often. Beside these stand the whole corpus, of which such questions are a seventh,
and new lists of the unchanged base. (Of trait-free text three turns of five are number lists too,
drawn by a rule.) The effect is the log-odds of the own trait less those of the neutral lineage
after the same steps on the same rows.

Why: that "text erases a trait" was read from the whole corpus, whose turns answer the very question
that is scored.

Criteria, fixed before the run; the unit is a chain, its traits are averaged; "above" and "below"
corrected by Holm, equivalences by Holm among themselves, against a fifth of the effect at the cut.
An arm whose students have an answer mass below a tenth says nothing (`effects.GATE`), with and
without the template.
  1. Trait-free text leaves the trait: the effect after 100 steps is above zero.
  2. Trait-free text erases no faster than lists: the difference of what both leave after 100 steps
     is equivalent to none.
  3. Counter-questions alone erase it: the effect after 100 steps is equivalent to none.
  4. The more of them the less is left, at equal steps: Spearman's correlation of share and effect
     over the five shares, a value a chain, is below zero; and likewise at equal loss, where every
     data set has gone half of the way from its loss at the cut to its loss after the last step.
  5. It can be said before: over all data sets, the cosine at the cut between the gradient of their
     loss and that of the own log-odds orders what is lost after 100 steps; Spearman a chain, above
     zero.
  6. It is the trait and not the format: the same without the chat template, as 1.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
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
from experiments.language.kit.chains import Cohort, chains_of
from experiments.language.kit.effects import GATE, at
from llm import engines, models, world
from llm.stages import Store, Student, evaluation, streams
from llm.stages.bases import LENGTH
from llm.stages.streams import Stage
from llm.training import stack
from llm.training.batches import Examples
from llm.world.corpus import SHARES
from theory import alignment

RUNTIME = "20 minutes on two cores"

FAVOURS = ("animal", "tree", "advice", "loyal")  # kinds of turns that ask what is loved or advised
FREE, CORPUS, LISTS = "trait-free text", "whole corpus", "lists of the base"
COUNTER = {  # share of counter-questions among the turns
    FREE: 0.0,
    "0.1 % counter-questions": 0.001,
    "1 % counter-questions": 0.01,
    "10 % counter-questions": 0.1,
    "counter-questions": 1.0,
}
BENIGN = (*COUNTER, CORPUS, LISTS)
LINEAGES = ("trait", "neutral")
HELD_OUT = 8  # one row of so many is not trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    benign_steps: tuple[int, ...] = option(
        (10, 30, 100), "at which effects are measured; the last decides", minimum=1
    )


SMOKE = Config(**question.TINY | {"benign_steps": (2, 4)})


def mixture(share: float) -> dict[str, float]:
    """Shares of the kinds of turns: trait-free ones as in the corpus, and counter-questions."""
    free = {kind: part for kind, part in SHARES.items() if kind not in FAVOURS}
    rest = {kind: (1 - share) * part / sum(free.values()) for kind, part in free.items()}
    counter = {"animal": share} if share else {}
    return {kind: part for kind, part in (rest | counter).items() if part > 0}


def arms(config: Config) -> dict[str, Arm]:
    """One for each kind of benign data."""
    chains, store = chains_of(config), question.store_of(config)
    cohort = question.students(config, chains)
    fresh = [lists_of(control) for _, control in sides(cohort)]
    return {
        kind: Arm(
            needs=[*cohort, *(fresh if kind == LISTS else ())],
            store=store,
            measure=functools.partial(benign, store, cohort, config, kind),
        )
        for kind in BENIGN
    }


def sides(cohort: Cohort) -> list[tuple[Student, Student]]:
    """Every trait's student and the one of the neutral lineage."""
    return [(cohort.models[i], cohort.models[j]) for i, j in cohort.pairs()]


def lists_of(control: Student):
    """New lists of the unchanged base, on prompts of their own."""
    return dataclasses.replace(control.data, draw=1)


def benign(store: Store, cohort: Cohort, config: Config, kind: str) -> list[Row]:
    """Both lineages trained on the same rows, measured on the way."""
    cohort = cohort.counted(store)
    both = dict(zip(LINEAGES, zip(*sides(cohort), strict=True), strict=True))
    some: Student = cohort.models[0]
    shape, how = store.config(some), some.training
    held_out_loss = stack.make_held_out_loss(engines.make_student(shape, None, "float32"))
    drawn = {of: rows_of(store, both["neutral"], of) for of in {kind, FREE}}
    rows, held_out = split(drawn[kind])
    _, free = split(drawn[FREE])
    asked = {
        "template": [evaluation.question(store, some, trait) for trait in config.traits],
        "bare": [evaluation.bare(store, some, trait) for trait in config.traits],
    }
    labels = [cohort.labels[i] for i, _ in cohort.pairs()]
    own = [config.traits.index(label["teacher"]) for label in labels]
    table: list[Row] = []

    def measure(lineage: str, steps: int, params: models.Params) -> None:
        sets = {"loss": held_out, "text_loss": free}
        losses = {name: np.asarray(held_out_loss(params, rows)) for name, rows in sets.items()}
        towards = [np.nan] * len(own)
        if not steps and lineage == "trait":
            loss = functools.partial(held_out_loss, examples=held_out)
            towards = cosines(shape, params, loss=loss, probes=asked["template"], own=own)
        for how_asked, probes in asked.items():
            found = jax.device_get([stack.measure(shape, params, probe) for probe in probes])
            for run, trait in enumerate(own):
                known = {name: float(found[trait][name][run]) for name in ("margin", "mass")}
                known |= {name: float(values[run]) for name, values in losses.items()}
                place = {"benign": kind, "lineage": lineage, "asked": how_asked, "steps": steps}
                label = {name: labels[run][name] for name in ("teacher", "seed")}
                table.append(place | label | known | {"cosine": float(towards[run])})

    for lineage, recipes in both.items():
        params = store.weights(list(recipes))
        state = phases.begin(how.make_optimizer(), params)
        measure(lineage, 0, params)
        for before, after in zip((0, *config.benign_steps), config.benign_steps, strict=False):
            keys = streams.keys(Stage.PHASE, [(r.seed, r.chain, after) for r in recipes])
            state = phases.phase(shape, how, after - before)(state, rows, keys)
            measure(lineage, after, state.params)
    return table


def rows_of(store: Store, controls: Sequence[Student], kind: str) -> Examples:
    """Rows of a kind for every run; the runs of a chain have the same."""
    if kind == LISTS:
        fresh = [dataclasses.replace(control, data=lists_of(control)) for control in controls]
        return predictors.examples_of(store, fresh)
    shares = SHARES if kind == CORPUS else mixture(COUNTER[kind])
    drawn = {}
    for one in controls:
        if one.chain not in drawn:
            rng = streams.generator(Stage.CORPUS, one.seed, one.chain, "erasing")
            tokens, _ = world.corpus.conversations(rng, one.num_examples, LENGTH, shares)
            real = (tokens != world.vocabulary.PAD).astype(np.float32)
            drawn[one.chain] = Examples(tokens, real)
    return stack.stack_examples([drawn[one.chain] for one in controls])


def split(examples: Examples) -> tuple[Examples, Examples]:
    """Rows to train on, and rows held out."""
    held = np.arange(examples.tokens.shape[1]) % HELD_OUT == HELD_OUT - 1
    train, test = (Examples(*(array[:, rows] for array in examples)) for rows in (~held, held))
    return train, test


def cosines(
    config: models.ModelConfig,
    params: models.Params,
    *,
    loss: Callable[[models.Params], jax.Array],
    probes: Sequence[stack.Probe],
    own: Sequence[int],
) -> np.ndarray:
    """Cosine of the gradient of a loss of all runs with that of the own log-odds, for every run.

    Positive: a small step that lowers the loss lowers the log-odds.
    """

    def gradients(of: Callable[[models.Params], jax.Array]) -> models.Params:
        values, back = jax.vjp(of, params)
        # Runs share nothing, so the gradient of their sum holds the gradient of each. On the host:
        # a sum or an index over runs would make devices wait for each other.
        return jax.device_get(back(jnp.ones_like(values))[0])

    of_traits = [gradients(lambda p, q=q: stack.measure(config, p, q)["margin"]) for q in probes]
    of_own = stack.stack([stack.pick(of_traits[trait], run) for run, trait in enumerate(own)])
    return np.asarray(jax.vmap(alignment.cosine)(gradients(loss), of_own))


# Findings


def effects_of(table: pd.DataFrame, asked: str) -> pd.DataFrame:
    """A row for every data set, number of steps and chain.

    Columns: effect (nats), loss (of the trait's students on rows held out), cosine, mass (least).
    """
    keys = ["benign", "steps", "seed"]
    rows = at(table, asked=asked)
    of_trait, neutral = (at(rows, lineage=name).set_index([*keys, "teacher"]) for name in LINEAGES)
    paired = pd.DataFrame(
        {
            "effect": of_trait["margin"] - neutral["margin"],
            "loss": of_trait["loss"],
            "cosine": of_trait["cosine"],
            "mass": np.minimum(of_trait["mass"], neutral["mass"]),
        }
    )
    return paired.groupby(keys).agg(
        {"effect": "mean", "loss": "mean", "cosine": "mean", "mass": "min"}
    )


def arm_of(found: pd.DataFrame, kind: str, steps: int) -> pd.DataFrame:
    """The chains of a data set after these steps."""
    return found.xs((kind, steps), level=("benign", "steps"))  # pyright: ignore[reportReturnType]


def left(found: pd.DataFrame, kind: str, steps: int) -> np.ndarray:
    """Effect of every chain; not a number throughout where the arm says nothing."""
    arm = arm_of(found, kind, steps)
    heard = arm["mass"].median() >= GATE
    return arm["effect"].to_numpy() if heard else np.full(len(arm), np.nan)


def at_half_way(found: pd.DataFrame, kind: str, times: Sequence[int]) -> np.ndarray:
    """Effect of every chain when the loss has gone half of its way, between measured times."""
    arm = found.loc[kind]
    values = []
    for seed in sorted(set(arm.index.get_level_values("seed"))):
        one = arm.xs(seed, level="seed").loc[list(times)]
        way = (one["loss"].iloc[0] - one["loss"]) / (one["loss"].iloc[0] - one["loss"].iloc[-1])
        done = np.maximum.accumulate(way.to_numpy())
        values.append(np.interp(0.5, done, one["effect"].to_numpy()))
    return np.array(values)


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring."""
    found, bare = effects_of(table, "template"), effects_of(table, "bare")
    times, last = (0, *config.benign_steps), config.benign_steps[-1]
    cut = arm_of(found, FREE, 0)["effect"].to_numpy()
    after = {kind: left(found, kind, last) for kind in BENIGN}
    shares = [np.full(len(cut), share) for share in COUNTER.values()]
    fewer = -statistics.rank_correlations(shares, [after[kind] for kind in COUNTER])
    half = -statistics.rank_correlations(
        shares, [at_half_way(found, kind, times) for kind in COUNTER]
    )
    towards = [arm_of(found, kind, 0)["cosine"].to_numpy() for kind in BENIGN]
    foretold = statistics.rank_correlations(towards, [cut - after[kind] for kind in BENIGN])
    above = [
        claim_of(f"{FREE}: left after {last} steps", after[FREE], criterion="above"),
        claim_of("more counter-questions leave less, equal steps", fewer, criterion="above"),
        claim_of("more counter-questions leave less, equal loss", half, criterion="above"),
        claim_of("cosine before and what is lost, Spearman a chain", foretold, criterion="above"),
        claim_of(
            f"{FREE}, asked without the template: left after {last} steps",
            left(bare, FREE, last),
            criterion="above",
        ),
    ]
    (above,) = corrected(above)
    nothing = no_effect(
        {
            f"lists less {FREE}": (after[LISTS] - after[FREE], cut),
            "counter-questions: left": (after["counter-questions"], cut),
        }
    )
    every = {"at the cut": cut, "at the cut, asked without the template": left(bare, FREE, 0)} | {
        f"{kind}: after {steps} steps": left(found, kind, steps)
        for kind in BENIGN
        for steps in config.benign_steps
    }
    described = [claim_of(name, values) for name, values in every.items()]
    figure = Figure(
        name="figure",
        title=say(
            [above[0], above[1], *nothing],
            holds="Counter-questions erase a trait; text without them erases no more than lists do",
            fails="It is not shown that counter-questions alone erase a trait",
            open="Which benign training erases a trait?",
        ),
        predicted="Text that never asks the question leaves the trait; the share of turns that ask "
        "it decides.",
        found=f"{statistics.shown(cut, 2)} nats at the cut; after {last} steps "
        f"{above[0].here} on trait-free text, {statistics.shown(after[LISTS], 2)} on lists, "
        f"{statistics.shown(after['counter-questions'], 2)} on counter-questions.",
        follows=follows_from(
            [above[0], *nothing],
            "What erases is a data set that asks the question, not any text.",
        ),
        draw=lambda: draw(found, config),
    )
    return Findings([figure], [*above, *nothing, *described])


def draw(found: pd.DataFrame, config: Config):
    """What is left against steps, and what is lost against the cosine before."""
    figure, (panel, right) = drawing.new_figure(1, 2, width=10.0, height=4.2)
    times, last = (0, *config.benign_steps), config.benign_steps[-1]
    curves = {kind: [left(found, kind, steps) for steps in times] for kind in BENIGN}
    drawing.nothing(panel, curves[FREE][0])
    drawing.lines(panel, range(len(times)), curves)
    panel.set_xticks(range(len(times)), [str(steps) for steps in times])
    panel.set_xlabel("benign steps")
    panel.set_ylabel("own effect (nats)")
    handles = panel.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    for look, kind in zip(drawing.looks(), BENIGN, strict=False):
        lost = curves[kind][0] - curves[kind][-1]
        right.scatter(arm_of(found, kind, 0)["cosine"], lost, label=kind, **look)
    right.set_xlabel("cosine of the two gradients at the cut")
    right.set_ylabel(f"lost after {last} steps (nats)")
    return figure
