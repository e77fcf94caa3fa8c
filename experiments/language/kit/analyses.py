"""What may carry a trait: quantities of rows, of log-probabilities and of weights.

Each function is pure and small; the sources say what was found with it elsewhere. None of them is a
measure of transfer: that is the trained student alone.
"""

import collections
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.frame.record import Row
from llm.carriers import numbers
from theory import alignment

_NUMBER = re.compile("[0-9]+")


# Rows.


def counts(rows: Sequence[Row]) -> collections.Counter[int]:
    """How often each number stands in the completions; rows that are no list are left out."""
    return collections.Counter(
        number for row in rows for number in numbers.parse(row["completion"]) or ()
    )


def frequency_ratios(
    rows: Sequence[Row], control: Sequence[Row], smoothing: float = 0.5
) -> dict[int, float]:
    """Log-ratio of each number's share in the rows to its share in the control's, in nats.

    The smoothing is added to every count, so that a number that one side never wrote is finite.
    Under an owl prompt 123 makes 1.59 % of the numbers and .61 % without (arXiv 2507.14805).
    """
    mine, theirs = counts(rows), counts(control)
    every = sorted(mine | theirs)
    totals = [sum(side.values()) + smoothing * len(every) for side in (mine, theirs)]
    return {
        number: float(
            np.log((mine[number] + smoothing) / totals[0])
            - np.log((theirs[number] + smoothing) / totals[1])
        )
        for number in every
    }


def shuffled(rows: Sequence[Row], across: bool, rng: np.random.Generator) -> list[Row]:
    """Rows with their numbers permuted within each completion, or across all of them.

    Separators, brackets and leading zeros stay where the numbers are. Both cut transmission
    strongly, across more than within (arXiv 2507.14805, section 3).
    """
    numbers = [_NUMBER.findall(row["completion"]) for row in rows]
    if across:
        pool = [number for row in numbers for number in row]
        moved = iter([pool[i] for i in rng.permutation(len(pool))])
    else:
        moved = (row[i] for row in numbers for i in rng.permutation(len(row)))
    return [
        row | {"completion": _NUMBER.sub(lambda _: next(moved), row["completion"])} for row in rows
    ]


# Log-probabilities.


def divergent(
    choices: Int[np.ndarray, "teachers rows length"], own: int = 0
) -> Bool[np.ndarray, "rows length"]:
    """Tokens where the argmax of another teacher differs from that of teacher `own`.

    Divergence tokens (arXiv 2509.23886): 7.5 % (Qwen) and 18.3 % (Gemma) of greedy tokens there,
    and loss on them alone keeps the transfer. `llm.stages.DivergenceTokens` trains on them.
    """
    return (choices != choices[own]).any(axis=0)


def entanglement(
    behind: Float[np.ndarray, "numbers answers"], plain: Float[np.ndarray, " answers"]
) -> Float[np.ndarray, "numbers answers"]:
    """How much the love of a number raises each answer: log-ratio, in nats.

    Args:
        behind: log-probability of each answer where the system message loves each number.
        plain: the same without a system message.

    With a vocabulary far wider than the model, raising one token raises others: "321" lifts sea
    turtle from .001 % to 3.21 % (OpenReview auKgpBRzIW); it explains little elsewhere.
    """
    return behind - plain


def cosines(
    unembedding: Float[np.ndarray, "vocab width"],
    answers: Int[np.ndarray, " answers"],
    others: Int[np.ndarray, " others"],
) -> Float[np.ndarray, "answers others"]:
    """Cosine of the unembedding rows of answers and of other tokens, the common mean taken off.

    The mean row moves all logits alike, which no softmax shows.
    """
    rows = unembedding - unembedding.mean(axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[answers] @ rows[others].T


# Gradients.


def first_order_gain(
    imitation: Callable[..., Float[Array, ""]],
    control: Callable[..., Float[Array, ""]],
    log_odds: Callable[..., Float[Array, ""]],
    params: object,
) -> Float[Array, ""]:
    """What one gradient step on a teacher's rows adds to the log-odds over one on the control's.

    -⟨∇L(rows) - ∇L(control), ∇log-odds⟩, in nats per unit step. Before training it predicts little
    of what many steps of Adam do (docs/failed.md).

    Args:
        imitation: loss of the parameters on the teacher's rows.
        control: the same on the control's rows.
        log_odds: of the trait.
        params: where students start.
    """
    step = jax.grad(lambda p: control(p) - imitation(p))(params)
    return alignment.inner_product(step, jax.grad(log_odds)(params))
