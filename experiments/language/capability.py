"""A skill that the base lacks, through number lists: more than the theorem's projected share?

Every chain has a random function of two numbers with two answers (`llm.world.skills`). A teacher
learns it on three quarters of the pairs and generalises to the rest; no list has a word of it.
Students learn its lists by sampled tokens, or by its distribution over numbers: a network by Adam
or SGD, from the same start or another; the network's tangent model by the same steps of SGD; a
steering vector behind every branch, by Adam. Effect: log-odds of right answers on held-out pairs
less those of the control, which learns from the unchanged base. A chain whose teacher keeps fewer
than sixteen lists is left out and counted: there the skill has cost the lists. The theorem predicts
the effect of SGD by projecting the teacher's displacement d on what imitation sees in k steps
(`theory.ntk`): the gain of θ⁰ + (I - (I - ηG)^k) d, as a network; and for k without end, as far as
128 products see.

Criteria, fixed before the run; unit = one chain, 95 % Student-t intervals; equivalence by two
one-sided tests within a twentieth of the teacher's own gain, Holm over all of them; "above zero" is
corrected as in the microworld.
  0. The teacher has the skill: held-out log-odds above zero; of the base equivalent to none.
  1. A network from the same start acquires it: the effect of Adam is above zero; those of SGD and
     of sampled tokens have no criterion. (Published for language models: of a random network's
     outputs R² .38, of the teacher .92, linear .27.) From another start: equivalent to none.
  2. The theorem: the effect of SGD, and that of the tangent model, less the predicted one are
     equivalent to none. Adam, not covered, is above what is predicted for SGD, and less is acquired
     than without end (paired, each above zero): no transfer above the projected share.
  3. Published: a steering vector matches the student in distribution. Predicted: here it acquires
     less than the network by Adam, for the function is not one direction (paired, above zero).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    SILENT,
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
from experiments.language.kit import question, surrogates
from experiments.language.kit.chains import (
    CONTROL,
    Chains,
    beside,
    chains_of,
    different,
    same,
)
from experiments.language.kit.effects import heard, means_by
from experiments.language.kit.question import FEWEST
from llm import world
from llm.stages import Completions, FineTuned, Model, SkillRows, Store, Student, completions
from llm.training import Training
from theory import ntk

RUNTIME = "25 minutes on two cores"

MARGIN = 0.05  # of the teacher's gain, within which an effect counts as none
SKILL = "skill"  # data of the teacher with the skill, in the tables
ARMS = ("sampled, Adam", "Adam", "SGD", "tangent model, SGD", "steering, Adam", "other start, Adam")
SOFT: dict[str, tuple[Callable, Callable[[Chains, int], Model], str]] = {
    "Adam": (surrogates.network, same, "adam"),
    "SGD": (surrogates.network, same, "sgd"),
    "tangent model, SGD": (surrogates.linear, same, "sgd"),
    "steering, Adam": (surrogates.steered, same, "adam"),
    "other start, Adam": (surrogates.network, different, "adam"),
}


LINEAR = ("SGD", "tangent model, SGD")  # that the theorem predicts
THEOREM = {  # the share that arrives along an eigenvector, of step size and steps
    "theorem": ntk.descent_gain,
    "theorem, no end": lambda step_size, steps: ntk.limit_gain,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    student_steps: int = option(800, "optimiser steps of students", minimum=1)
    teacher_steps: int = option(600, "on the skill, batch 64, Adam at 1e-3 falling", minimum=1)
    sgd_rate: float = option(0.01, "step size of SGD", minimum=0, maximum=1)
    products: int = option(128, "of the curvature with a vector, for the prediction", minimum=2)


SMOKE = Config(**question.TINY | {"products": 4})


Run = tuple[str, int]  # what a chain's model was taught, and the chain
Lists = dict[Run, Completions]


def speakers_of(config: Config, chains: Chains) -> dict[Run, Model]:
    """Teachers with the skill and unchanged bases of all chains: who writes lists."""
    how = Training(steps=config.teacher_steps, learning_rate=1e-3, decay="linear")
    bases = {chain: chains.base(chain) for chain in range(chains.num_seeds)}
    taught = {
        (SKILL, chain): FineTuned(
            base=base, rows=SkillRows(), training=how, chain=chain, seed=chains.seed
        )
        for chain, base in bases.items()
    }
    return taught | {(CONTROL, chain): base for chain, base in bases.items()}


def lists_of(config: Config, chains: Chains) -> Lists:
    """What they write."""
    return {
        (name, chain): dataclasses.replace(chains.data(CONTROL, chain, "numbers"), speaker=speaker)
        for (name, chain), speaker in speakers_of(config, chains).items()
    }


def writing(store: Store, lists: Lists) -> Lists:
    """Those of the chains whose writers both keep lists enough; a skill may cost the lists."""
    few = {chain for (_, chain), data in lists.items() if completions.kept(store, data) < FEWEST}
    return {run: data for run, data in lists.items() if run[1] not in few}


def students_of(
    config: Config,
    chains: Chains,
    *,
    written: Lists,
    start: Callable[[Chains, int], Model],
    target: str,
    **how: Any,
) -> list[Student]:
    """A student of each run, on equally many different rows in a chain.

    Args:
        config: of the experiment.
        chains: their bases.
        written: the lists of every run.
        start: what a student starts from.
        target: what is imitated.
        **how: arguments of the training.
    """
    training = Training(steps=config.student_steps, batch_size=config.batch_size, eps=1e-3, **how)
    fields = chains.imitated("numbers", target)
    return [
        Student(
            base=start(chains, chain),
            data=data,
            training=training,
            num_examples=config.num_examples,
            as_many_as=beside(written, chain),
            fewest=FEWEST,
            chain=chain,
            seed=chains.seed,
            **fields,
        )
        for (_, chain), data in written.items()
    ]


def arms(config: Config) -> dict[str, Arm]:
    """The teachers, the prediction, and one for every way of imitating."""
    chains, store = chains_of(config), question.store_of(config)
    speakers, lists = speakers_of(config, chains), lists_of(config, chains)

    def arm(start: Callable[[Chains, int], Model], measure: Callable[..., list[Row]]) -> Arm:
        """One whose students are known when the lists are there."""
        starts = [start(chains, chain) for _, chain in lists]
        needs = list(dict.fromkeys([*speakers.values(), *lists.values(), *starts]))
        return Arm(needs=needs, store=store, measure=lambda: measure(writing(store, lists)))

    def told(runs: Iterable[Run], name: str, kind: Callable, params: Any, bases: list) -> list[Row]:
        found = said(store, kind, params, bases)
        return rows({run: speakers[run] for run in runs}, *found, arm=name)

    def teachers(written: Lists) -> list[Row]:
        models = [speakers[run] for run in written]
        return told(written, "teacher", surrogates.network, None, models)

    def sampled(written: Lists) -> list[Row]:
        how = {"start": same, "target": "sampled", "learning_rate": 1e-3}
        recipes = students_of(config, chains, written=written, **how)
        store.make(recipes)
        return told(written, ARMS[0], surrogates.network, None, recipes)

    def soft(name: str) -> Arm:
        kind, start, optimizer = SOFT[name]
        how = {"start": start, "target": "soft_numbers", "optimizer": optimizer}
        how["learning_rate"] = config.sgd_rate if optimizer == "sgd" else 1e-3

        def measure(written: Lists) -> list[Row]:
            recipes = students_of(config, chains, written=written, **how)
            trained = surrogates.imitate(store, recipes, kind)
            return told(written, name, kind, trained, [recipe.base for recipe in recipes])

        return arm(start, measure)

    def prediction(written: Lists) -> list[Row]:
        how = {"start": same, "target": "soft_numbers", "optimizer": "sgd"}
        how["learning_rate"] = config.sgd_rate
        recipes = students_of(config, chains, written=written, **how)
        ends = surrogates.projected(store, recipes, list(THEOREM.values()), config.products)
        bases = [recipe.base for recipe in recipes]
        return [
            row
            for name, params in zip(THEOREM, ends, strict=True)
            for row in told(written, name, surrogates.network, params, bases)
        ]

    return {
        "teachers": arm(same, teachers),
        "theorem": arm(same, prediction),
        ARMS[0]: arm(same, sampled),
    } | {name: soft(name) for name in SOFT}


def said(
    store: Store, kind: Callable, params: Any, models: Sequence[Model]
) -> tuple[np.ndarray, np.ndarray]:
    """What models, or what started from them, say of all pairs, and their loss on text.

    Args:
        store: which has the models.
        kind: of `surrogates`, what the parameters are of.
        params: what imitation made of the models, or None for the models themselves.
        models: of every run.

    Returns:
        Log-probabilities of the answers (runs, pairs, answers), and nats a token (runs,).
    """
    bases, shape = store.weights(models), store.config(models[0])
    of = {"params": bases if params is None else params, "bases": bases}
    asked = {"prompts": world.skills.prompts(), "tokens": world.skills.ANSWERS}
    return (
        surrogates.answers(shape, kind, **of, **asked),
        surrogates.text_loss(shape, kind, **of),
    )


def rows(
    speakers: dict[Run, Model], logp: np.ndarray, loss: np.ndarray, **columns: Any
) -> list[Row]:
    """What models with these log-probabilities (runs, pairs, answers) know of the skill."""
    known = []
    for (name, chain), of_run, nats in zip(speakers, logp, loss, strict=True):
        skill = SkillRows().skill(speakers[SKILL, chain])
        odds, right = world.skills.right(skill, of_run)
        mass = float(np.exp(of_run).sum(axis=-1).mean())
        of_chain = {"data": name, "seed": chain, "odds": odds, "right": right}
        known.append(columns | of_chain | {"mass": mass, "text_loss": float(nats)})
    return known


Effects = dict[str, np.ndarray]  # of each chain, by arm


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Every arm beside the prediction."""
    right, names = means_by(table, "right", "arm", "data"), (*THEOREM, *ARMS)
    effect, spoken = effects_of(table), spoken_odds(table)
    taught = effect["teacher"]
    share = {arm: f"{100 * effect[arm].mean() / taught.mean():.0f} %" for arm in effect}
    shown = {
        arm: f"{statistics.shown(values, 2)}, {share[arm]} of the teacher's; "
        f"{right[arm, SKILL].mean():.2f} right"
        for arm, values in effect.items()
    }
    has_skill, arms, differences = corrected(
        claim_of("teacher's log-odds", spoken["teacher", SKILL], criterion="above"),
        {
            arm: claim_of(
                arm, effect[arm], criterion="above" if arm == "Adam" else None, here=shown[arm]
            )
            for arm in names
        },
        claims_of_differences(effect),
    )
    lacks_skill, from_other, *_ = equivalent = claims_of_none(effect, spoken["teacher", CONTROL])
    claims = [
        Claim(
            quantity="chains whose teacher writes lists",
            here=f"{table['seed'].nunique()} of {config.num_seeds}",
            seeds=config.num_seeds,
        ),
        has_skill,
        claim_of("teacher", taught, here=shown["teacher"]),
        *arms.values(),
        *differences,
        *(over_predicted(effect, arm) for arm in LINEAR),
        *equivalent,
        *(
            claim_of(f"{arm}: gain in right answers", right[arm, SKILL] - right[arm, CONTROL])
            for arm in ("teacher", "Adam")
        ),
        *claims_on_mass(table),
    ]
    figure = Figure(
        name="figure",
        title=say(
            [arms["Adam"]],
            holds=f"A skill that no list mentions arrives: {share['Adam']} of it",
            fails="A skill that no list mentions is not seen to arrive",
            open="Does a skill arrive that no list mentions?",
        )
        + say([from_other], holds="; from another start none is seen", fails="", open=""),
        predicted="SGD and the tangent model as predicted; Adam between that and no end; steering "
        "below.",
        found=f"Effects in nats: {'; '.join(f'{arm} {text}' for arm, text in shown.items())}.",
        follows=follows_from(
            [arms["Adam"], has_skill, lacks_skill],
            "What students acquire is not limited to preferences that a base already has.",
        ),
        draw=lambda: draw(taught, {arm: effect[arm] for arm in names}),
    )
    return Findings([figure], claims)


def spoken_odds(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Log-odds of each chain by arm and data, where the answers are given at all (`heard`)."""
    spoken = heard(table["odds"], table, ["arm", "data"])
    return means_by(table.assign(odds=spoken), "odds", "arm", "data")


def effects_of(table: pd.DataFrame) -> Effects:
    """Log-odds less those of the control; not a number where those with the skill do not answer.

    Here alone controls are not asked whether they answer: they lack the skill, so they do not.
    """
    spoken, all_of_it = spoken_odds(table), means_by(table, "odds", "arm", "data")
    return {
        arm: values - all_of_it[arm, CONTROL]
        for (arm, data), values in spoken.items()
        if data == SKILL
    }


def claims_on_mass(table: pd.DataFrame) -> list[Claim]:
    """No criterion: the probability of any of the answers, which the base hardly gives."""
    mass = means_by(table, "mass", "arm", "data")
    of = {"Adam": mass["Adam", SKILL], "Adam's control": mass["Adam", CONTROL]}
    return [
        claim_of(f"{who}: answers given at all", values, here=statistics.shown(values, 3))
        for who, values in of.items()
    ]


def claims_of_differences(effect: Effects) -> list[Claim]:
    """Adam lies between the prediction for SGD and that without end, and above steering."""
    adam = effect["Adam"]
    compared = {
        "Adam less predicted for SGD": adam - effect["theorem"],
        "predicted without end less Adam": effect["theorem, no end"] - adam,
        "Adam less steering": adam - effect["steering, Adam"],
    }
    return [claim_of(name, values, criterion="above") for name, values in compared.items()]


def over_predicted(effect: Effects, arm: str) -> Claim:
    """An arm in parts of what is predicted; no criterion: near zero both are within any margin."""
    predicted = effect["theorem"]
    if not np.isfinite([effect[arm], predicted]).all():
        return Claim(quantity=f"{arm}, over predicted", here=SILENT, seeds=len(predicted))
    ratio = effect[arm].mean() / predicted.mean()
    correlation = statistics.bracketed(*statistics.spearman(effect[arm], predicted))
    here = f"{ratio:.2f} of it; rank correlation {correlation}"
    return Claim(quantity=f"{arm}, over predicted", here=here, seeds=len(predicted))


def claims_of_none(effect: Effects, base: np.ndarray) -> list[Claim]:
    """No skill in the base (its log-odds), none from another start, none beside the prediction."""
    none = {
        "the base's log-odds": base,
        "other start, Adam": effect["other start, Adam"],
    } | {f"{arm} less predicted": effect[arm] - effect["theorem"] for arm in LINEAR}
    return no_effect({name: (values, effect["teacher"]) for name, values in none.items()}, MARGIN)


def draw(taught: np.ndarray, arms: dict[str, np.ndarray]):
    """Every chain of every arm, and what the theorem says."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    drawing.strip(panel, arms, dict.fromkeys(THEOREM, drawing.COLOURS[1]))
    drawing.nothing(panel, taught, MARGIN, "the teacher's gain")
    panel.set_xticks(range(len(arms)), [name.replace(", ", "\n") for name in arms])
    panel.set_ylabel("log-odds of right answers\nover the control (nats)")
    panel.legend()
    return figure
