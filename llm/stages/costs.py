"""What the stages of a chain cost: counts of `plan` for what a recipe trains or lets write."""

from typing import TYPE_CHECKING

from .. import plan
from ..plan import Cost, Rates
from ..training import Training
from .recipe import Model

if TYPE_CHECKING:
    from .store import Store


def of_training(
    store: "Store", model: Model, *, training: Training, length: int, rates: Rates | None
) -> Cost:
    """What it costs to train a model.

    Args:
        store: where it is trained.
        model: what is trained.
        training: how.
        length: tokens of a row.
        rates: of the machine, for the hours.
    """
    config = store.config(model)
    tokens = float(training.steps * training.batch_size * length)
    flops = tokens * plan.flops_per_token(config, training.adapters)
    limits = getattr(store.engine, "limits", None)
    memory = plan.training(config, training, length=length, limits=limits)
    return Cost(tokens, flops, rates and flops / rates.flops, memory)


def of_sampling(
    store: "Store",
    speaker: Model,
    *,
    total: int,
    left: float,
    length: int,
    drawn: int,
    rates: Rates | None,
) -> Cost:
    """What it costs to let a model answer prompts.

    Args:
        store: where it is asked.
        speaker: who answers.
        total: number of prompts.
        left: share of them that is still to be answered.
        length: tokens of a prompt.
        drawn: tokens of an answer, at most.
        rates: of the machine, for the hours.
    """
    config, count = store.config(speaker), left * total
    rows = min(getattr(store.engine, "batch_size", 64), total)
    prompts, answers = count * length, float(count * drawn)
    flops = 2.0 * (prompts + answers) * plan.matmul_weights(config)
    seconds = rates and plan.sampling_seconds(
        config, rates, prompts=prompts, drawn=answers, rows=rows, length=length + drawn / 2
    )
    memory = plan.sampling(config, rows, slots=length + drawn, prompt=length)
    return Cost(prompts + answers, flops, seconds, memory)
