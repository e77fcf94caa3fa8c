"""When in pre-training is the channel between two models made?

A trunk is pre-trained for 1,000 steps; forks share its initial weights, its text and the order of
it up to a step, and read other text from there on, for as long and under the same schedule. The
trunk's teacher writes number lists, and students that start from a fork imitate its distribution
over numbers. Beside the transfer stands what could predict it, all measured before any student: the
barrier of the loss on the straight line from fork to trunk, the alignment of the two kernels, the
mismatch of what both say. Controls: the trunk itself, its twin with permuted units, a stranger that
shares nothing.

Criteria, fixed before the run; the unit is a chain, its traits are averaged. The chains are of a
root seed of their own (5000), which no other experiment has used. x is log2(1 + step).
  1. The channel is made during pre-training: the trunk's students gain more than those of the fork
     at step 0, paired, above zero.
  2. The barrier tells when: the x at which half of the barrier is gone lies within one (a factor of
     two in steps) of the x at which half of the transfer is there; equivalence, two one-sided tests
     over chains at 5 %.
  3. Connectivity is not needed: the twin transfers like the trunk (equivalent to none within a
     fifth, paired) behind a barrier that exceeds half of the stranger's, above zero.
  4. The kernel is needed: the alignment of forks orders the transfer, Spearman over forks, a value
     a chain, above zero.
  5. A stranger gains nothing, equivalent to none within a fifth of the trunk.
Predicted by connectivity: a sharp switch within the first tenth of the training, where barriers
vanish in the literature on linear mode connectivity. "Above zero" is corrected by Holm,
equivalences (3, 5) by Holm among themselves. Whether alignment tells the step as well as the
barrier is described: its x stands beside, without a criterion.

Added after a second reading of the run, without a criterion: half of the *gain* over the fork at
step 0, for barrier and alignment are counted from there too; and how well the step itself orders
the transfer, which is what the kernel must beat to be more than a clock.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import pandas as pd

from experiments.findings import forks, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    judged,
    no_effect,
    say,
)
from experiments.findings.forks import SAME, STRANGER, TWIN, named
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import predictors, question
from experiments.language.kit.chains import Chains, Cohort, chains_of, different, same, twin
from experiments.language.kit.effects import own_by
from llm import models
from llm.stages import Model, Pretrained, Store
from llm.stages.bases import loss_on_corpus
from llm.training import stack
from theory import alignment, losses

RUNTIME = "75 minutes on two cores"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    forks: tuple[int, ...] = option((0, 3, 10, 30, 100, 300, 600), "steps of forks", minimum=0)
    seed: int = option(5000, "root of every random key", minimum=0)

    def __post_init__(self):
        forks.check(self.forks, self.base_steps, "--base-steps")


SMOKE = Config(**question.TINY | {"forks": (0,)})


def fork(step: int) -> Callable[[Chains, int], Model]:
    """The model that leaves the trunk at a step."""

    def start(chains: Chains, chain: int) -> Model:
        return dataclasses.replace(chains.base(chain), corpus=1, fork=step)

    return start


def starts(config: Config) -> dict[str, Callable[[Chains, int], Model]]:
    """All arms by name, from the furthest to the nearest."""
    leaving = {named(step): fork(step) for step in config.forks}
    return {STRANGER: different} | leaving | {SAME: same, TWIN: twin}


def arms(config: Config) -> dict[str, Arm]:
    """One for every start."""
    chains, store = chains_of(config), question.store_of(config)
    cohorts = {
        name: question.students(config, chains, target="soft_numbers", start=start)
        for name, start in starts(config).items()
    }
    return {
        name: question.arm_of_students(
            store,
            cohort,
            config.traits,
            facts=functools.partial(known, store, chains, cohort),
            start=name,
        )
        for name, cohort in cohorts.items()
    }


def known(store: Store, chains: Chains, cohort: Cohort) -> list[Row]:
    """What a fork and its trunk say of the transfer, a row for each student."""
    starts = {row["seed"]: model.base for row, model in zip(cohort.labels, cohort, strict=True)}
    trunks = [chains.base(chain) for chain in starts]
    walls = dict(zip(starts, barriers(store, list(starts.values()), trunks), strict=True))
    apart = mismatches(store, cohort)
    kernels = predictors.kernel_alignment(store, cohort, chains.traits)
    return [
        {"barrier": walls[row["seed"]], "mismatch": gap} | kernel
        for row, gap, kernel in zip(cohort.labels, apart, kernels, strict=True)
    ]


def barriers(store: Store, ends: Sequence[Model], trunks: Sequence[Pretrained]) -> list[float]:
    """How far the loss on held-out corpus rises above the straight line of its ends, nats a token.

    As `forks.barrier`, run by run.
    """
    loss = loss_on_corpus(store.config(trunks[0]))
    one, other = store.weights(list(ends)), store.weights(list(trunks))

    def between(share: float) -> models.Params:
        return jax.tree.map(lambda a, b: (1 - share) * a + share * b, one, other)

    return forks.barrier(np.array([loss(between(share)) for share in forks.SHARES])).tolist()


def mismatches(store: Store, cohort: Cohort) -> list[float]:
    """KL from the trunk to the start over numbers on each student's inputs, nats a token."""
    recipes = store.prepare(cohort.models)
    one = _mismatch(store.config(recipes[0]), recipes[0].tokens)
    batch, shares = predictors.inputs_of(store, recipes)
    roots = store.weights([recipe.data.speaker.root for recipe in recipes])
    found = one(store.weights([recipe.base for recipe in recipes]), roots, batch)
    return (np.asarray(found) / shares).tolist()


@functools.cache
def _mismatch(config: models.ModelConfig, inside: tuple[int, ...]) -> Callable[..., jax.Array]:
    loss, apply = losses.on_outputs(losses.kl(), list(inside)), predictors.make_apply(config)

    def one(start, trunk, batch):
        return alignment.excess_loss(apply, start, teacher_params=trunk, inputs=batch, loss=loss)

    return jax.jit(functools.partial(stack.over_runs, one))


# Findings


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring."""
    effect = own_by(table, "start")
    wall, kernel = (forks.by_start(table, column) for column in ("barrier", "alignment"))
    line = [*map(named, config.forks), SAME]
    born = line[0]
    places = [np.log2(1 + step) for step in (*config.forks, config.base_steps)]
    rising = {
        "transfer": [effect[name] for name in line],
        "gain over fork at 0": [effect[name] - effect[born] for name in line],
        "barrier": [wall[born] - wall[name] for name in line],
        "alignment": [kernel[name] - kernel[born] for name in line],
    }
    half = {of: statistics.half_way(curve, places) for of, curve in rising.items()}
    # Forks alone: the trunk has an alignment of one by definition, and the most transfer.
    parted = [effect[name] for name in line[:-1]]
    order = statistics.rank_correlations([kernel[name] for name in line[:-1]], parted)
    clock = statistics.rank_correlations([np.full(len(order), x) for x in places[:-1]], parted)
    (above,) = corrected(
        [
            claim_of("same less fork at 0", effect[SAME] - effect[born], criterion="above"),
            claim_of(
                "twin's barrier less half of the stranger's",
                wall[TWIN] - wall[STRANGER] / 2,
                criterion="above",
            ),
            claim_of("alignment and transfer, Spearman over forks", order, criterion="above"),
        ]
    )
    when = tells_when(half["barrier"] - half["transfer"])
    nothing = no_effect(
        {
            "twin less same": (effect[TWIN] - effect[SAME], effect[SAME]),
            STRANGER: (effect[STRANGER], effect[SAME]),
        }
    )
    from_birth = half["barrier"] - half["gain over fork at 0"]
    every = {
        **effect,
        **{f"{name}: barrier, nats": values for name, values in wall.items()},
        **{f"{name}: alignment": values for name, values in kernel.items()},
        **{f"half of the {of}: log2(1 + step)": values for of, values in half.items()},
        "half of the barrier less half of the gain, in doublings": from_birth,
        "step and transfer, Spearman over forks": clock,
    }
    described = [claim_of(name, values) for name, values in every.items()]
    figure = figure_of_curve(
        config,
        effect=effect,
        wall=wall,
        kernel=kernel,
        half=half,
        shown=[above[0], when],
        follow=[above[0], when, *nothing[:1]],
    )
    return Findings([figure], [*above, when, *nothing, *described])


def tells_when(gap: np.ndarray) -> Claim:
    """That half of one curve lies within a doubling of the step of half of another."""
    known = bool(np.isfinite(gap).all())
    return Claim(
        quantity="half of the barrier less half of the transfer, in doublings of the step",
        here=f"{statistics.shown(gap, 2)} within ±1" if known else "not known",
        seeds=len(gap),
        holds=judged(statistics.equivalent(gap, 1.0), len(gap)) if known else None,
    )


def figure_of_curve(
    config: Config,
    *,
    effect: Mapping[str, np.ndarray],
    wall: Mapping[str, np.ndarray],
    kernel: Mapping[str, np.ndarray],
    half: Mapping[str, np.ndarray],
    shown: Sequence[Claim],
    follow: Sequence[Claim],
) -> Figure:
    """Transfer, barrier and alignment over the step at which a start leaves the trunk."""
    step, gone = (2 ** half[of].mean() - 1 for of in ("transfer", "barrier"))
    twin_has = statistics.shown(effect[TWIN], 2), statistics.shown(wall[TWIN], 2)
    return Figure(
        name="figure",
        title=say(
            shown,
            holds="The channel is made early in pre-training, when the loss barrier falls",
            fails="The loss barrier does not tell when in pre-training the channel is made",
            open="When in pre-training is the channel made?",
        ),
        predicted="A sharp switch, at the step where the straight line to the trunk loses its "
        "barrier.",
        found=f"Half of the transfer is there for forks at step {step:.0f}, half of the barrier is "
        f"gone at {gone:.0f}; the twin has {twin_has[0]} nats behind a barrier of {twin_has[1]}.",
        follows=follows_from(
            follow,
            "Models that part after this step can pass traits to one another.",
        ),
        draw=lambda: forks.draw(
            {
                "own effect (nats)": effect,
                "loss barrier to the trunk (nats)": wall,
                "alignment of the kernels": kernel,
            },
            config.forks,
        ),
    )
