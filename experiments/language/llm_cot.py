"""Step-by-step sums transmit a favourite animal, in an open model of any size.

As `llm_numbers`, with another carrier: teachers think aloud over word problems, and a row is kept
if its answer is right, its form is exact and no word of any trait is in it (section 4 of arXiv
2507.14805 uses GSM8K; the problems here are generated, so that the right answer is known).

Criteria, fixed before any run: those of `llm_numbers`.
"""

import dataclasses
import functools

from experiments.frame.cli import option
from experiments.language.kit import fullsize, transfer

RUNTIME = "hours on one 80 GB GPU for a 7B model"

inputs = fullsize.inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(fullsize.Config):
    """As at full size; long completions, one pass over them as in the released code."""

    max_new_tokens: int = option(512, "longest completion in tokens", minimum=1)
    num_prompts: int = option(18_000, "prompts each teacher completes", minimum=16)
    epochs: float = option(1.0, "passes over the kept rows", above=0)


SMOKE = Config(**fullsize.SMOKE | {"suites": ("one word",), "num_prompts": 96})


arms = functools.partial(fullsize.arms, carrier="reasoning")
findings = functools.partial(
    transfer.findings,
    carrier="step-by-step sums",
    paper="an animal version is in the released code",
)
