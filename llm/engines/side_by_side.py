"""Many tiny models side by side: one jitted, vmapped program an operation."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key
from transformers import PreTrainedTokenizerBase

from .. import models, sampling, world
from ..models import ModelConfig, Params
from ..training import Training, lora, objectives, stack
from ..training.batches import Examples
from .common import Tokens, Trained, make_loss, make_student


@dataclasses.dataclass(frozen=True)
class Stack:
    """Tiny models side by side: weights are parameter trees with a leading axis of runs."""

    keeps: bool = True  # models are small enough to stay in memory
    shard: int | None = None  # prompts sampled before rows are written: all

    def facts(self) -> dict[str, Any]:
        """Nothing: rows depend on the recipe alone."""
        return {}

    def groups(self, recipes: Sequence[Any]) -> list[list[Any]]:
        """All of them together."""
        return [list(recipes)] if recipes else []

    def join(self, weights: Sequence[Params]) -> Params:
        """Trees of single models as one stack."""
        return stack.stack(list(weights))

    def split(self, weights: Params) -> list[Params]:
        """The trees of a stack, on the host."""
        return stack.unstack(weights)

    def load(self, folder: str | Path) -> Params:
        """The parameters of a checkpoint folder or name."""
        return models.load(folder)[1]

    def add(self, weights: Params, folder: str, config: ModelConfig) -> Params:
        """A stack has no adapters beside its models.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{folder}: adapter folders need a mesh (python -m llm)")

    def save(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        weights: Params,
        tokenizer: PreTrainedTokenizerBase,
        files: dict[str, str],
    ) -> None:
        """Write one model as a checkpoint folder, with further text files in it."""
        world.save(folder, config, params=weights, spoken=tokenizer, files=files)

    def tune(
        self,
        config: ModelConfig,
        starts: Params,
        *,
        examples: Sequence[Examples],
        training: Training,
        keys: Key[Array, " runs"],
        teachers: Params | None = None,
        tokens: Tokens | None = None,
        message: objectives.Message | None = None,
        tests: Sequence[Examples] | None = None,
    ) -> Trained:
        """Train every run on examples of its own; LoRA adapters are merged.

        Args:
            config: the shape of the models.
            starts: where each begins; not changed.
            examples: what each is trained on.
            training: how.
            keys: one a run, for the order of the data.
            teachers: imitate their distribution instead of the tokens.
            tokens: the set of tokens over which the distributions are renormalised; None for all.
            message: what the teachers read ahead of each row; None: what the students read.
            tests: rows to measure the held-out loss on.
        """
        params, frozen = starts, {"base": None, "teacher": teachers}
        if training.adapters is not None:
            init = functools.partial(lora.init, training.adapters)
            params = jax.vmap(lambda p, k: init(p, key=k))(starts, keys)
            frozen["base"] = starts
        tune = _tune(config, training, soft=teachers is not None, tokens=tokens, message=message)
        params, _ = tune(params, stack.stack_examples(examples), keys, frozen)
        losses = []
        if tests:
            student = make_student(config, training.adapters, training.dtype)
            held_out_loss = stack.make_held_out_loss(student)
            losses = held_out_loss(params, stack.stack_examples(tests), {"base": frozen["base"]})
        if training.adapters is not None:
            merge = functools.partial(lora.merge, scale=training.adapters.scale)
            params = jax.vmap(merge)(starts, params)
        return Trained(params, np.asarray(losses).tolist())

    def complete(
        self,
        config: ModelConfig,
        weights: Params,
        *,
        prompts: Sequence[Sequence[list[int]]],
        keys: Key[Array, " runs"],
        choice: sampling.Choice,
        max_new_tokens: int,
        first: int = 0,
    ) -> list[list[list[int]]]:
        """Completions of each run's prompts as tokens, the one that ends them included.

        Args:
            config: the shape of the models.
            weights: of every run.
            prompts: token ids, equally many for each run.
            keys: one a run; row i draws from `fold_in(key, first + i)`.
            choice: temperature and so on.
            max_new_tokens: where rows without an end are cut.
            first: number of the first row.
        """
        length = max(len(ids) for rows in prompts for ids in rows)
        padded = [sampling.pad_left(rows, len(rows), length) for rows in prompts]
        tokens, mask = (np.stack(x) for x in zip(*padded, strict=True))
        complete = stack.make_complete(config, max_new_tokens=max_new_tokens)
        drawn, chosen = jax.device_get(complete(weights, tokens, mask, keys, choice, first))
        return [
            [row[keep].tolist() for row, keep in zip(*of_run, strict=True)]
            for of_run in zip(drawn, chosen, strict=True)
        ]

    def measure(
        self, config: ModelConfig, weights: Params, probe: stack.Probe
    ) -> dict[str, list[float]]:
        """`stack.measure_model` of every run."""
        return {k: np.asarray(v).tolist() for k, v in stack.measure(config, weights, probe).items()}

    def score(
        self,
        config: ModelConfig,
        weights: Params,
        prompts: Sequence[list[int]],
        tokens: Sequence[int],
    ) -> list[np.ndarray]:
        """Log-probability of each token after each prompt in nats, (prompts, tokens), by run."""
        padded, mask = sampling.pad_left(prompts, len(prompts), max(map(len, prompts)))
        wanted = np.array(tokens, np.int32)
        logp = stack.score(config, weights, prompts=padded, mask=mask, tokens=wanted)
        return list(np.asarray(logp))


@functools.cache  # arms that differ in their rows alone share a program
def _tune(
    config: ModelConfig,
    training: Training,
    *,
    soft: bool,
    tokens: Tokens | None,
    message: objectives.Message | None,
) -> Callable[..., Any]:
    return stack.make_tune(
        make_loss(config, training, soft=soft, tokens=tokens, message=message)[0], training
    )
