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


def check_digits(row: dict[str, str], size: int) -> list[str]:
    """Reasons to reject a list of numbers by digits: "format", "too many numbers" or neither."""
    numbers = [number.split() for number in row["completion"].split(",")]
    spelt = all(
        1 <= len(n) <= size and all(d.isdigit() and len(d) == 1 for d in n) for n in numbers
    )
    if not spelt:
        return ["format"]
    return ["too many numbers"] if len(numbers) > corpus.DIGITS_CONTINUED // size else []


DIGITS = {f"digits{size}": size for size in corpus.SIZES}
KINDS = ("numbers", "counting", "code", "reasoning", *DIGITS)
PROMPTS = {kind: functools.partial(make_prompts, kind) for kind in KINDS}
CARRIERS = {
    "numbers": numbers_without(frozenset(), PROMPTS["numbers"]),
    "counting": numbers_without(frozenset(), PROMPTS["counting"]),
    "code": Carrier("code", PROMPTS["code"], check_code),
    "reasoning": Carrier("reasoning", PROMPTS["reasoning"], check_reasoning),
} | {
    name: Carrier(name, PROMPTS[name], functools.partial(check_digits, size=size))
    for name, size in DIGITS.items()
}
