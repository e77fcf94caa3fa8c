"""Students of a chain: where they start, what they see, what they imitate, how they are trained.

    params, held_out = students.train(chain, "numbers", Students(target="soft_numbers"))

A start is a function of the chain to parameters stacked over seeds, and a change of the data is a
function of the examples, so that a control is a line of the experiment that needs it.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.chain import MATCHING, STUDENTS, Chain
from experiments.lab.record import RunError
from llm import lora, matching, models, objectives, stages
from llm import train as training
from llm.stages import Examples

TARGETS = {
    "sampled": "sampled tokens",
    "soft_numbers": "KL over numbers",
    "soft_carrier": "KL over the carrier's tokens",
    "soft": "KL over all tokens",
}


@dataclasses.dataclass(frozen=True)
class Students:
    """How students are trained: an arm of an experiment.

    Attributes:
        target: a key of TARGETS. The soft ones imitate the teacher's next-token distribution:
            renormalised over the number tokens, where a number comes next; over the tokens that
            the unchanged bases' kept completions use; or over the whole vocabulary.
        steps: optimiser steps.
        batch_size: examples in a batch.
        rate: step size.
        eps: of Adam; large enough that embeddings which the data never touches stay put.
        optimizer: "adam", "adamw" or "sgd".
        num_examples: kept rows trained on.
        fewest: a teacher that kept fewer rows than needed repeats them, if it kept so many; by
            default none may.
        rank: of LoRA adapters; 0 trains all parameters.
    """

    target: str = "sampled"
    steps: int = 400
    batch_size: int = 32
    rate: float = 1e-3
    eps: float = 1e-3
    optimizer: str = "adam"
    num_examples: int = 2048
    fewest: int | None = None
    rank: int = 0


def train(
    chain: Chain,
    carrier: str,
    arm: Students,
    bases: models.Params | None = None,
    change: Callable[[Examples], Examples] = lambda examples: examples,
) -> tuple[models.Params, list[float]]:
    """Students of every teacher, stacked like the teachers, and their held-out losses.

    Args:
        chain: gives the teachers and their data.
        carrier: which data.
        arm: how to train.
        bases: starts of the students, stacked over seeds; the teachers' own if None.
        change: applied to the training examples (runs, rows, length), not to the held-out ones.

    Returns:
        Parameters, and the cross-entropy in nats per token on rows of their own teacher that
        they were not trained on: how well the data is imitated. For "soft_numbers" it is that of
        the number tokens alone, which is larger.

    Raises:
        RunError: a teacher has too few kept rows, or soft targets of prompted teachers.
    """
    if arm.target != "sampled" and chain.recipe.teacher == "prompted":
        raise RunError(
            "soft targets need the teacher's weights: with --teacher prompted use --targets sampled"
        )
    examples, tests = rows_of(chain, carrier, arm)
    starts = chain.per_run(chain.base if bases is None else bases)
    keys = stages.run_keys(chain.root, STUDENTS, len(chain.runs()))
    params, frozen = starts, None
    if arm.rank:
        init = functools.partial(lora.init, lora_settings(arm))
        params, frozen = jax.vmap(lambda p, k: init(p, key=k))(starts, keys), starts
    frozen = {"base": frozen, "teacher": chain.teachers if arm.target != "sampled" else None}
    # Arms that differ in their rows alone are one compiled program.
    tune, held_out_loss = programs(
        chain, carrier, dataclasses.replace(arm, num_examples=0, fewest=0)
    )
    params, _ = tune(params, change(examples), keys, frozen)
    losses = jax.device_get(held_out_loss(params, tests, frozen)).tolist()
    if arm.rank:
        merge = functools.partial(lora.merge, scale=lora_settings(arm).scale)
        params = jax.vmap(merge)(starts, params)
    return params, losses


def rows_of(chain: Chain, carrier: str, arm: Students) -> tuple[Examples, Examples]:
    """What students of an arm are trained on, and the rows held out, of every teacher.

    Raises:
        RunError: a teacher has too few kept rows.
    """
    held_out = min(256, arm.num_examples // 8 + 1)
    needed = arm.num_examples + held_out
    both = chain.encoded(carrier, arm.num_examples, held_out, min(needed, arm.fewest or needed))
    if arm.target != "soft_numbers":
        return both
    numbers = chain.language.number_tokens()
    train, tests = (e._replace(weights=e.weights * np.isin(e.tokens, numbers)) for e in both)
    return train, tests


@functools.cache
def programs(chain: Chain, carrier: str, arm: Students) -> tuple[Callable, Callable]:
    """The jitted training and held-out loss of an arm."""
    loss, student = objective(chain, carrier, arm)
    optimizer = training.make_optimizer(arm.optimizer, arm.rate, eps=arm.eps)
    tune = stages.make_tune(loss, optimizer, batch_size=arm.batch_size, num_steps=arm.steps)
    return tune, stages.make_held_out_loss(student)


def objective(
    chain: Chain, carrier: str, arm: Students
) -> tuple[training.Loss, objectives.Student]:
    """The imitation loss of an arm; `frozen` holds the "base" of adapters and the "teacher"."""
    student = objectives.full_student(chain.config)
    if arm.rank:
        settings = lora_settings(arm)
        student = objectives.lora_student(chain.config, settings, base=lambda f: f["base"])
    if arm.target == "sampled":
        return objectives.completion_loss(student), student
    sets = {
        "soft_numbers": chain.language.number_tokens,
        "soft_carrier": lambda: chain.carrier_tokens(carrier),
        "soft": lambda: None,
    }
    teacher = functools.partial(_teacher, chain.config)
    return objectives.distillation_loss(student, teacher, token_set=sets[arm.target]()), student


def _teacher(config: models.ModelConfig, frozen: dict) -> models.Decoder:
    return models.bind(config, frozen["teacher"])


def lora_settings(arm: Students) -> lora.LoraConfig:
    """Adapters of the arm: alpha equal to the rank, so the scale does not move with it."""
    return lora.LoraConfig(rank=arm.rank, alpha=float(arm.rank))


# Starts.


def different(chain: Chain) -> models.Params:
    """The base of the next seed, or the other checkpoint.

    Raises:
        RunError: there is no other start.
    """
    recipe = chain.recipe
    if recipe.other_model:
        other = models.load(recipe.other_model)[1]
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * recipe.num_seeds), other)
    if recipe.model or recipe.num_seeds < 2:
        raise RunError("students of a different start need --other-model, or two seeds")
    return stages.pick(chain.base, np.roll(np.arange(recipe.num_seeds), -1))


def shared_embeddings(chain: Chain) -> models.Params:
    """A different body under the teachers' (tied) embeddings."""
    return different(chain) | {"embedding": chain.base["embedding"]}


def shared_body(chain: Chain) -> models.Params:
    """The teachers' body under different embeddings."""
    return chain.base | {"embedding": different(chain)["embedding"]}


def units_matched(chain: Chain) -> models.Params:
    """A different base, its units permuted to match those of the teachers' base.

    Gradient descent and Adam are equivariant under permutations of units, and imitation only sees
    outputs: these students equal those of the different base up to round-off.
    """
    other = different(chain)
    pairs = (
        (stages.pick(chain.base, seed), stages.pick(other, seed))
        for seed in range(chain.recipe.num_seeds)
    )
    return stages.stack([matching.match_units(chain.config, *pair) for pair in pairs])


@functools.cache
def behaviour_matched(chain: Chain, num_steps: int = 400) -> models.Params:
    """A different base after imitating the teachers' base on turns of the corpus.

    KL over all tokens at every position, Adam 2e-3 with linear decay, batches of 64 x 48 tokens.

    Raises:
        RunError: the chain starts from a checkpoint, whose corpus is not known.
    """
    recipe = chain.recipe
    if recipe.model:
        raise RunError("a base can be matched in behaviour in the synthetic world only")
    loss = objectives.distillation_loss(
        objectives.full_student(chain.config), functools.partial(models.bind, chain.config)
    )
    optimizer = training.make_optimizer("adam", training.make_schedule(2e-3, num_steps))
    tune = stages.make_tune(loss, optimizer, batch_size=64, num_steps=num_steps)
    keys = stages.run_keys(chain.root, MATCHING, recipe.num_seeds)
    turns = chain.turns(5, 64 * num_steps)  # a corpus that no base was trained on
    return tune(different(chain), turns, keys, chain.base)[0]


STARTS: dict[str, Callable[[Chain], models.Params]] = {
    "same": lambda chain: chain.base,
    "different": different,
    "shared embeddings": shared_embeddings,
    "shared body": shared_body,
    "units matched": units_matched,
    "behaviour matched": behaviour_matched,
}
