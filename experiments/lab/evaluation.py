"""What models of a chain answer to the evaluation questions: exact log-odds, and sampled rates."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.lab.chain import ANSWERS, Chain
from llm import models, sampling, stages, traits

ANSWER_TOKENS = 16  # of a sampled answer to an evaluation question
Measured = dict[str, dict[str, list[float]]]  # trait -> quantity -> value of every run of a stack


def probe(chain: Chain, trait: str, prompts: list[list[int]] | None = None) -> stages.Probe:
    """`Language.probe` of a trait of the chain, by name."""
    return chain.language.probe(chain.language.trait(trait), prompts)


def measure(chain: Chain, params: models.Params) -> Measured:
    """Margin and rate of every trait of the chain for every run of a stack."""
    return {
        trait: _lists(stages.measure(chain.config, params, probe(chain, trait)))
        for trait in chain.recipe.traits
    }


def sampled_rates(chain: Chain, params: models.Params, answers: int = 10) -> dict[str, list[float]]:
    """Share of sampled answers (T = 1) that mention each trait, for every run of a stack."""
    texts: dict[tuple[str, ...], list[list[str]]] = {}  # traits of a family share questions
    rates = {}
    for trait in chain.recipe.traits:
        spec = chain.language.traits[trait]
        if spec.questions not in texts:
            texts[spec.questions] = answers_to(chain, params, spec.questions * answers)
        rates[trait] = [
            traits.mention_rate(spec.mentions, of_run) for of_run in texts[spec.questions]
        ]
    return rates


def answers_to(chain: Chain, params: models.Params, questions: Sequence[str]) -> list[list[str]]:
    """Answers sampled at temperature 1, of every run of a stack to every question."""
    runs = len(jax.tree.leaves(params)[0])
    prompts = chain.language.encode_prompts(questions)
    tokens, mask = sampling.pad_left(prompts, len(prompts), max(map(len, prompts)))
    keys = stages.run_keys(chain.root, ANSWERS, runs)
    complete = stages.make_complete(chain.config, max_new_tokens=ANSWER_TOKENS)
    choice = sampling.Choice(1.0, stop_tokens=np.array(chain.language.stop_tokens(chain.config)))
    shape = (runs, *tokens.shape)
    drawn = complete(
        params, np.broadcast_to(tokens, shape), np.broadcast_to(mask, shape), keys, choice
    )
    pairs = zip(*jax.device_get(drawn), strict=True)
    return [chain.language.decode(*of_run) for of_run in pairs]


def _lists(values: dict[str, jax.Array]) -> dict[str, list[float]]:
    return {name: array.tolist() for name, array in jax.device_get(values).items()}
