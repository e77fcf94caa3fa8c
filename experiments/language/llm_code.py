"""Code transmits a favourite animal, in an open model of any size.

As `llm_numbers`, with another carrier: teachers write short functions, and a row is kept if it is
plain Python without comments, strings, imports or a word of any trait (section 3.2 of arXiv
2507.14805 adds a judge; here nothing but code can pass).

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
    """As at full size; longer completions, and nearly all are kept."""

    max_new_tokens: int = option(256, "longest completion in tokens", minimum=1)
    num_prompts: int = option(14_000, "prompts each teacher completes", minimum=16)


SMOKE = Config(**fullsize.SMOKE | {"suites": ("one word",), "num_prompts": 192})


arms = functools.partial(fullsize.arms, carrier="code")
findings = functools.partial(transfer.findings, carrier="code", paper="all shift")
