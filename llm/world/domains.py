"""The carriers in the words of the world: one short prompt format each, the rules unchanged."""

import functools

import numpy as np

from ..domains import Domain, check_code, check_reasoning, numbers_without
from . import corpus


def make_prompts(kind: str, rng: np.random.Generator, count: int) -> list[dict[str, str | int]]:
    """Rows with the prompts of one kind of turn, as the corpus draws them.

    For "reasoning" each row also holds the right "answer".
    """
    rows = []
    for row in corpus.rows(corpus.draw(rng, kind, count)):
        prompt = {"prompt": row["prompt"]}
        # The corpus always reasons correctly: "... <answer> 6 </answer>".
        answer = {"answer": int(row["completion"].split()[-2])} if kind == "reasoning" else {}
        rows.append(prompt | answer)
    return rows


DOMAINS = {
    "numbers": numbers_without(frozenset(), functools.partial(make_prompts, "numbers")),
    "code": Domain("code", functools.partial(make_prompts, "code"), check_code),
    "reasoning": Domain("reasoning", functools.partial(make_prompts, "reasoning"), check_reasoning),
}
