"""What a compiler is asked about the stages of a chain (`llm.ahead`); no weight is read."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

from .. import ahead, engines, sampling
from ..models import ModelConfig
from ..settings import RunError
from ..training import batches, lora, peft_format
from . import completions, progress, students
from .bases import Adapted
from .completions import Completions, Files
from .finetuned import FineTuned
from .recipe import Model, Recipe
from .store import Store


def job_of(store: Store, recipe: Recipe) -> ahead.Job | None:
    """The programs of a stage; None if it has none, or leaves them to a server.

    Raises:
        RunError: the store works on stacks of tiny models.
    """
    engine = store.engine
    if not isinstance(engine, engines.OnMesh):
        raise RunError("--topology asks about one model on a mesh; tiny ones are stacked here")
    if isinstance(recipe, Completions) and store.sampler is store:
        config = store.config(recipe.speaker)
        return ahead.Drawing(
            config=config,
            adapters=_adapters(recipe.speaker, config),
            axes=engine.axes,
            rows=engine.batch_size,
            prompt=_prompt(store, recipe),
            new=recipe.max_new_tokens,
            dtype=engine.dtype,
        )
    if isinstance(recipe, (FineTuned, students.Student)):
        length, weighted = _row(store, recipe)
        return ahead.Tuning(
            config=store.config(recipe),
            training=recipe.training,
            limits=engine.limits,
            axes=engine.axes,
            length=length,
            weighted=weighted,
            soft=getattr(recipe, "soft", False),
        )
    return None


def jobs_of(store: Store, stages: Iterable[progress.Stage]) -> dict[ahead.Job, str]:
    """Each program of what is still to be made, once, and the stages that run it.

    Raises:
        RunError: as `job_of`.
    """
    of: dict[ahead.Job, Counter[str]] = {}
    for recipe, _, cost in stages:
        job = job_of(store, recipe) if cost.tokens else None
        if job is not None:
            of.setdefault(job, Counter())[type(recipe).__name__] += 1
    return {
        job: ", ".join(f"{kind} x {count}" for kind, count in kinds.items())
        for job, kinds in of.items()
    }


def _prompt(store: Store, recipe: Completions) -> int:
    """Tokens of the longest of the first prompts under the system message, as they are padded."""
    language = store.language(recipe.speaker)
    system = language.trait(recipe.prompted).system_prompt if recipe.prompted else None
    count = min(completions.GLANCE, recipe.num_prompts)
    asked = [row["prompt"] for row in dataclasses.replace(recipe, num_prompts=count).prompts(store)]
    return sampling.bucket(max(map(len, language.encode_prompts(asked, system=system))))


def _adapters(speaker: Model, config: ModelConfig) -> lora.LoraConfig | None:
    """The settings of what lies beside a speaker's weights."""
    if isinstance(speaker, Adapted):
        return peft_format.load(speaker.path, config)[0]
    training = getattr(speaker, "training", None)
    return training and training.adapters


def _row(store: Store, recipe: Any) -> tuple[int, int | None]:
    """Tokens of a training row, and those trained on; about, where they are still to be written."""
    source = getattr(recipe, "data", None)
    if isinstance(source, Completions):
        return batches.bucket(source.row_length(store, recipe)), source.max_new_tokens
    if isinstance(source, Files):
        examples = students.examples_of(store, recipe)[0]
    else:
        examples = recipe.examples(store)
    length = batches.bucket(examples.tokens.shape[1])
    return length, batches.most_weighted(examples.weights)
