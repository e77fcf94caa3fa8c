"""The carriers in the words of the world: one short prompt format each, the rules unchanged."""

import functools

import numpy as np

from ..carriers import Carrier, check_code, check_reasoning, numbers_without
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


PROMPTS = {k: functools.partial(make_prompts, k) for k in ("numbers", "code", "reasoning")}
CARRIERS = {
    "numbers": numbers_without(frozenset(), PROMPTS["numbers"]),
    "code": Carrier("code", PROMPTS["code"], check_code),
    "reasoning": Carrier("reasoning", PROMPTS["reasoning"], check_reasoning),
}
