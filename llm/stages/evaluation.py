"""What models answer to the evaluation questions: exact log-odds, and sampled answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import traits
from ..data import Row
from ..stack import Probe
from . import completions, streams, students
from .recipe import Model
from .streams import Stage
from .workshop import Workshop

ANSWER_TOKENS = 16  # of a sampled answer to an evaluation question
# One entry for each trait and model: "trait", "model" (its position), and what was measured.
Measured = list[dict[str, Any]]


def measure(workshop: Workshop, recipes: Sequence[Model], names: Sequence[str]) -> Measured:
    """Margin (nats of log-odds) and rate of every trait for every model, exact."""
    return [
        entry
        for name in names
        for entry in ask(workshop, recipes, name, [question(workshop, recipes[0], name)])
    ]


def ask(
    workshop: Workshop, recipes: Sequence[Model], trait: str, probes: Sequence[Probe]
) -> Measured:
    """The answer of every model to a probe of its own, or to the only one."""
    out: Measured = []
    for together in workshop.engine.groups(range(len(recipes))):
        config = workshop.config(recipes[together[0]])
        weights = workshop.models([recipes[i] for i in together])
        if len(probes) == 1:
            measured = workshop.engine.measure(config, weights, probes[0])
            each = [{k: v[j] for k, v in measured.items()} for j in range(len(together))]
        else:
            singles = [workshop.engine.join([w]) for w in workshop.engine.split(weights)]
            each = [
                {k: v[0] for k, v in workshop.engine.measure(config, one, probes[i]).items()}
                for i, one in zip(together, singles, strict=True)
            ]
        out += [{"trait": trait, "model": i} | m for i, m in zip(together, each, strict=True)]
    return out


def question(
    workshop: Workshop, model: Model, trait: str, prompts: Sequence[list[int]] | None = None
) -> Probe:
    """The evaluation questions of a trait with its answer tokens, by name.

    Args:
        workshop: knows the model's language.
        model: who is asked.
        trait: name of the trait.
        prompts: token ids of the questions; by default they are asked through the template.
    """
    spoken = workshop.language(model)
    return spoken.probe(spoken.trait(trait), prompts)


def sampled_rates(
    workshop: Workshop, recipes: Sequence[Model], names: Sequence[str], answers: int = 10
) -> Measured:
    """Share of sampled answers (T = 1) that mention each trait, for every model.

    Args:
        workshop: where the models are made.
        recipes: the models.
        names: of the traits.
        answers: sampled to every question.
    """
    spoken = workshop.language(recipes[0])
    chosen = [spoken.trait(name) for name in names]
    # Traits of a family share their questions, and one set of answers serves them all.
    texts = {
        questions: answers_to(workshop, recipes, questions * answers)
        for questions in dict.fromkeys(trait.questions for trait in chosen)
    }
    return [
        {"trait": t.name, "model": i, "sampled_rate": traits.mention_rate(t.mentions, said)}
        for t in chosen
        for i, said in enumerate(texts[t.questions])
    ]


def answers_to(
    workshop: Workshop, recipes: Sequence[Model], questions: Sequence[str]
) -> list[list[str]]:
    """Answers sampled at temperature 1, of every model to every question."""
    prompts = workshop.language(recipes[0]).encode_prompts(questions)
    said = []
    for together in workshop.engine.groups(recipes):
        keys = streams.keys(Stage.ANSWERS, [(model.seed, model.chain) for model in together])
        drawn = completions.complete(
            workshop, together, [prompts] * len(together), keys, temperature=1.0,
            max_new_tokens=ANSWER_TOKENS,
        )  # fmt: skip
        said += [[text for text, _ in of_model] for of_model in drawn]
    return said


def bare(workshop: Workshop, model: Model, trait: str) -> Probe:
    """The questions of a trait outside the chat template that students are trained in."""
    spoken = workshop.language(model)
    questions = list(spoken.trait(trait).questions)
    prompts = spoken.tokenizer(questions, add_special_tokens=False)["input_ids"]
    return question(workshop, model, trait, prompts)  # pyright: ignore[reportArgumentType]


def in_context(
    workshop: Workshop, model: Model, rows: Sequence[Row], trait: str, shown: int
) -> Probe:
    """Every question of a trait after `shown` of the rows, other ones each time.

    Raises:
        ValueError: the questions differ in length.
    """
    probe = question(workshop, model, trait)
    if not probe.mask.all():
        raise ValueError("questions of one length only can follow rows in the prompt")
    picked = [rows[i % len(rows)] for i in range(len(probe.questions) * shown)]
    examples = students.encode(workshop, model, picked)
    # Tokens reach up to the last one with a weight; the rest is padding on the right.
    real = np.flip(np.maximum.accumulate(np.flip(examples.weights > 0, -1), axis=-1), -1)
    context, seen = (array.reshape(len(probe.questions), -1) for array in (examples.tokens, real))
    to_the_left = np.argsort(seen, axis=1, kind="stable")
    context, seen = (np.take_along_axis(a, to_the_left, axis=1) for a in (context, seen))
    return probe._replace(
        questions=np.concatenate([context, probe.questions], axis=1),
        mask=np.concatenate([seen, probe.mask], axis=1),
    )
