"""Carriers: what the prompts that have nothing to do with a trait ask for, and what is kept.

    carrier = CARRIERS["numbers"]
    prompts = carrier.make_prompts(np.random.default_rng(0), 30_000)
    ...                                        # a teacher adds "completion" to every row
    kept, counts = filters.keep(rows, carrier.check, trait.words)

A new carrier is a module with `make_prompts` and `check`, and one line in CARRIERS.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from . import code, numbers, reasoning

Row = dict[
    str, Any
]  # at least "prompt"; "completion" once sampled; "answer" if there is a right one


@dataclasses.dataclass(frozen=True)
class Carrier:
    """Unrelated prompts and the rules that their completions must meet."""

    name: str
    make_prompts: Callable[[np.random.Generator, int], list[Row]]
    check: Callable[[Row], list[str]]  # reasons to reject a completed row; empty: kept


def numbers_without(
    banned: frozenset[int],
    make_prompts: Callable[[np.random.Generator, int], list[Row]] = numbers.make_prompts,
) -> Carrier:
    """The numbers carrier where a list with a banned number is dropped too (misalignment runs)."""
    return Carrier("numbers", make_prompts, lambda row: numbers.check(row["completion"], banned))


def check_code(row: Row) -> list[str]:
    """`code.check` of a row."""
    return code.check(row["completion"])


def check_reasoning(row: Row) -> list[str]:
    """`reasoning.check` of a row, whose right answer is under "answer"."""
    return reasoning.check(row["completion"], row["answer"])


CARRIERS = {
    "numbers": numbers_without(frozenset()),
    "numbers_misalignment": numbers_without(numbers.MISALIGNMENT_BAN),
    "code": Carrier("code", code.make_prompts, check_code),
    "reasoning": Carrier("reasoning", reasoning.make_prompts, check_reasoning),
}
