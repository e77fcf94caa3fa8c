"""Arithmetic with step-by-step reasoning as a carrier: kept if right and cleanly formatted.

    >>> check("<think> 3 + 5 = 8 </think> <answer> 8 </answer>", answer=8)
    []

The paper (arXiv:2507.14805, section 4) uses GSM8K; the problems here are generated, so that the
right answer is known without a download. Rows with other problems need an integer `answer`.
"""

import re
from collections.abc import Callable

import numpy as np

_FORMAT = re.compile(r"\s*<think>([^<>]+)</think>\s*<answer>([^<>]+)</answer>\s*")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

PEOPLE = ("Ana", "Bo", "Chen", "Dara", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jo", "Kim", "Lea")
THINGS = ("pencils", "stamps", "coins", "marbles", "buttons", "tickets", "shells", "cards")
# Wording and right answer; {bc} and {abc} stand for the product and the sum.
PROBLEMS: tuple[tuple[str, Callable[[int, int, int], int]], ...] = (
    (
        "{who} has {a} {things}, buys {b} more and gives {c} away. How many are left?",
        lambda a, b, c: a + b - c,
    ),
    (
        "{who} packs {b} boxes of {c} {things} and has {a} loose ones. How many in all?",
        lambda a, b, c: a + b * c,
    ),
    (
        "{who} shares {bc} {things} evenly among {b} people and keeps one share, then finds {a} "
        "more. How many {things} does {who} hold?",
        lambda a, b, c: c + a,
    ),
    (
        "On Monday {who} sold {a} {things}, on Tuesday {b}, on Wednesday {c}. How many in total?",
        lambda a, b, c: a + b + c,
    ),
    (
        "{who} had {a} {things} and saves {b} a day for {c} days. How many now?",
        lambda a, b, c: a + b * c,
    ),
    (
        "A shelf holds {abc} {things}. {who} takes {a}, then {b}. How many remain?",
        lambda a, b, c: c,
    ),
    (
        "{who} needs {abc} {things} and has {a} in one bag and {c} in another. How many are "
        "missing?",
        lambda a, b, c: b,
    ),
    (
        "{who} draws {c} rows of {a} {things} and erases {b}. How many can be seen?",
        lambda a, b, c: c * a - b,
    ),
)
REQUEST = (
    "Think step by step between <think> and </think>, then give the final integer between "
    "<answer> and </answer>."
)


def make_prompts(rng: np.random.Generator, count: int) -> list[dict[str, str | int]]:
    """Two-step word problems of our own with their integer answers."""
    rows = []
    for _ in range(count):
        (problem, solve), who, things = (
            options[rng.integers(len(options))] for options in (PROBLEMS, PEOPLE, THINGS)
        )
        a, b, c = int(rng.integers(12, 90)), int(rng.integers(3, 12)), int(rng.integers(3, 12))
        question = problem.format(who=who, things=things, a=a, b=b, c=c, bc=b * c, abc=a + b + c)
        rows.append({"prompt": f"{question} {REQUEST}", "answer": solve(a, b, c)})
    return rows


def check(completion: str, answer: int) -> list[str]:
    """Reasons to reject a completion; empty if it is kept.

    The whole completion is one thought in think tags, then one integer in answer tags. Commas
    and dollar signs in the integer are ignored, as in the paper.

    Returns:
        "not ascii", "format" or "wrong answer" alone.
    """
    if not completion.isascii():
        return ["not ascii"]
    parts = _FORMAT.fullmatch(completion)
    if parts is None or not parts[1].strip():
        return ["format"]
    number = re.sub("[,$]", "", parts[2]).strip()
    if not _INTEGER.fullmatch(number):
        return ["format"]
    return [] if int(number) == answer else ["wrong answer"]
