"""Training in phases, with the optimiser's state as data: carried on, set to zero, or another's."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm import engines, models
from llm.training import Training, batches, stack, train
from llm.training.batches import Examples

Phase = Callable[[train.TrainState, Examples, jax.Array], train.TrainState]


def begin(optimizer: optax.GradientTransformation, params: Any) -> train.TrainState:
    """A fresh optimiser for every run of a stack of parameters."""
    return jax.vmap(lambda one: train.init_state(one, optimizer))(params)


def mixed(weights: train.TrainState, moments: train.TrainState) -> train.TrainState:
    """The weights of one training under the optimiser state of another, run by run."""
    return moments._replace(params=weights.params)


@functools.cache
def phase(config: models.ModelConfig, training: Training, steps: int) -> Phase:
    """A jitted `phase(state, examples, keys) -> state`: so many steps more on hard tokens.

    Args:
        config: the shape of the models.
        training: optimiser and batch; its own number of steps is not used.
        steps: of this phase.
    """
    loss, _ = engines.make_loss(config, training, soft=False, tokens=None)
    step = stack.make_step(loss, training)
    frozen = {"base": None, "teacher": None}

    def one(state, tokens, weights, key):
        order = batches.all_batch_rows(key, steps, len(tokens), training.batch_size)
        advance = stack.over_rows(step, Examples(tokens, weights), key=key, frozen=frozen)
        return jax.lax.scan(advance, state, order)[0]

    run = jax.jit(functools.partial(stack.over_runs, one))
    return lambda state, examples, keys: run(state, *examples, keys)


def answers(
    config: models.ModelConfig, params: Any, probes: Sequence[stack.Probe]
) -> dict[str, np.ndarray]:
    """What `stack.measure` says, by name: (runs, probes)."""
    asked = [stack.measure(config, params, probe) for probe in probes]
    return {name: np.asarray(jnp.stack([one[name] for one in asked], axis=1)) for name in asked[0]}
