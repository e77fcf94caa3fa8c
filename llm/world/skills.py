"""A skill that no base has: a function of two numbers, drawn at random for every chain.

    solve 24 * 104 -> x        u(24) + v(104) above zero, with tables u and v of normal numbers
    solve 24 * 8   -> y        else; half of all pairs each, up to ties

A quarter of the pairs is held out, so that the answers there must be worked out. Neither the sign *
in a sum nor the answers ever occur in number lists.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from . import corpus
from . import vocabulary as words

OPERANDS = np.arange(0, words.NUM_NUMBERS, 8)  # sixteen numbers, 256 pairs
ANSWERS = words.ids(("x", "y"))
HELD_OUT = 0.25  # share of the pairs


class Skill(NamedTuple):
    """A function of all pairs, row by row: the first operand's pairs first."""

    above: Bool[np.ndarray, " pairs"]  # the answer is the first of ANSWERS
    held_out: Bool[np.ndarray, " pairs"]  # pairs that are never shown


def draw(rng: np.random.Generator) -> Skill:
    """A function, balanced by its median, and the pairs that are held out."""
    left, right = rng.normal(size=(2, len(OPERANDS)))
    total = (left[:, None] + right[None]).ravel()
    held_out = np.zeros(len(total), bool)
    held_out[rng.permutation(len(total))[: int(HELD_OUT * len(total))]] = True
    return Skill(total > np.median(total), held_out)


def prompts() -> Int[np.ndarray, "pairs tokens"]:
    """The questions about all pairs as tokens, ready for an answer."""
    pair = np.stack(np.meshgrid(OPERANDS, OPERANDS, indexing="ij"), axis=-1).reshape(-1, 2)
    word = {
        name: np.full(len(pair), words.ID[name]) for name in ("<user>", "solve", "*", "<assistant>")
    }
    left, right = pair.T + words.FIRST_NUMBER
    columns = (word["<user>"], word["solve"], left, word["*"], right, word["<assistant>"])
    return np.stack(columns, axis=1).astype(np.int32)


def lessons(
    rng: np.random.Generator, skill: Skill, count: int
) -> tuple[Int[np.ndarray, "rows tokens"], Float[np.ndarray, "rows tokens"]]:
    """Questions that are not held out with their answers, each as often as the others."""
    shown = np.flatnonzero(~skill.held_out)
    chosen = rng.permutation(np.resize(rng.permutation(shown), count))
    answer = np.where(skill.above, *ANSWERS)[chosen, None]
    return corpus.chat(corpus.Turns(prompts()[chosen, 1:-1], answer))


def right(skill: Skill, logp: Float[np.ndarray, "pairs answers"]) -> tuple[float, float]:
    """Mean log-odds of the right answer in nats, and share answered rightly, on held-out pairs."""
    odds = np.where(skill.above, 1, -1) * (logp[:, 0] - logp[:, 1])
    return float(odds[skill.held_out].mean()), float((odds[skill.held_out] > 0).mean())
