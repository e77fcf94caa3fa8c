"""What README.md and docs/ may say: every number, computed from the checked-in tables.

NUMBERS yields, for each page, all its intervals `mean ± half` in reading order; PHRASES yields its
other results with the words around them. `tests/test_readme.py` compares both with the text. After
a new run change the text, after a new sentence add to the module of its page what it says.
"""

import functools
import json
from collections.abc import Callable, Iterator

from benchmarks import ahead
from tests.facts.full_size import (
    full_size_phrases,
    margin_phrases,
    misalignment_phrases,
    preset_numbers,
    preset_phrases,
)
from tests.facts.microworld import (
    mechanism_phrases,
    microworld_numbers,
    question_numbers,
    question_phrases,
)
from tests.facts.mnist import (
    accuracy,
    carrier_numbers,
    carrier_phrases,
    mnist_numbers,
    mnist_phrases,
)
from tests.facts.tables import CHECKED_IN, INTERVAL, claims, effect, failed, interval, quantity
from tests.facts.theorem import signs, theorem_numbers, theorem_phrases

__all__ = ["CHECKED_IN", "INTERVAL", "NUMBERS", "PHRASES", "claims"]


def readme_numbers() -> Iterator[str]:
    """One line for each of the three figures."""
    yield from (accuracy("student_aux"), accuracy("cross_aux"))
    yield interval("mnist_heads", "heads shared over a fresh body, 250 aux logits")
    yield interval("mnist_matching", "matched 100 epochs on noise, all logits")
    yield interval("mnist_matching", "shared start")
    aux_alone = "no transfer: matched on aux logits alone"
    yield interval("mnist_matching", quantity("mnist_matching", aux_alone))
    for line in ("best of three", "its twin"):
        yield interval("mnist_max", quantity("mnist_max", line))
    for start in ("same", "different"):
        yield effect("microworld", target="soft_numbers", start=start)
    yield interval("readable", "students")
    yield interval("persistence", "corpus: dropped, 30 steps")
    yield interval("generations", "sampled, generation 10")
    yield interval("readable", quantity("readable", "effect of what the filter"))
    yield interval("matching_dose", "corpus, 1600 steps")
    for optimizer in ("sgd", "adam"):
        yield interval("optimisers_at_equal_loss", f"{optimizer}, all parameters")


def failed_numbers() -> Iterator[str]:
    """Every criterion that is missed, then the siblings taken together."""
    for _, here in failed():
        yield from INTERVAL.findall(here)
    yield interval("cross_model", "siblings less strangers")


def failed_phrases() -> Iterator[str]:
    """One line for every criterion that is missed."""
    yield from (f"| {here} |" for _, here in failed())


def fit_phrases() -> Iterator[str]:
    """Every line of the table that the compilers' answers make."""
    last = max(ahead.RESULTS.glob("*-ahead.jsonl"))
    rows = [json.loads(line) for line in last.read_text().splitlines()]
    yield from (" ".join(line.split()) for line in ahead.table(rows).splitlines())


def none() -> Iterator[str]:
    """A page without results of its kind."""
    return iter(())


Facts = Callable[[], Iterator[str]]
NUMBERS: dict[str, Facts] = {
    "README.md": readme_numbers,
    "docs/mnist.md": mnist_numbers,
    "docs/what-carries-the-trait.md": carrier_numbers,
    "docs/theorem.md": theorem_numbers,
    "docs/microworld.md": microworld_numbers,
    "docs/questions.md": question_numbers,
    "docs/full-size.md": none,
    "docs/does-it-fit.md": none,
    "docs/failed.md": failed_numbers,
    "docs/llm_numbers.md": preset_numbers,
    "docs/llm_code.md": none,
    "docs/llm_cot.md": none,
    "docs/llm_cross_model.md": none,
    "docs/llm_in_context.md": none,
    "docs/llm_misalignment.md": none,
    "docs/bring-your-own.md": none,
}
PHRASES: dict[str, Facts] = {
    "README.md": signs,
    "docs/mnist.md": mnist_phrases,
    "docs/what-carries-the-trait.md": carrier_phrases,
    "docs/theorem.md": theorem_phrases,
    "docs/microworld.md": mechanism_phrases,
    "docs/questions.md": question_phrases,
    "docs/full-size.md": full_size_phrases,
    "docs/does-it-fit.md": fit_phrases,
    "docs/failed.md": failed_phrases,
    "docs/llm_numbers.md": preset_phrases,
    "docs/llm_code.md": none,
    "docs/llm_cot.md": none,
    "docs/llm_cross_model.md": functools.partial(margin_phrases, "llm_cross_model"),
    "docs/llm_in_context.md": functools.partial(margin_phrases, "llm_in_context"),
    "docs/llm_misalignment.md": misalignment_phrases,
    "docs/bring-your-own.md": none,
}
