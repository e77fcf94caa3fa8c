"""Number lists, the carrier of Cloud et al. 2025 (arXiv:2507.14805): prompts and the exact filter.

    >>> check("[12, 7, 301].")
    []
    >>> check("12, 7,301")
    ['format']

The filter follows `sl/datasets/nums_dataset.py` of MinhxLe/subliminal-learning rule by rule. The
prompts have the structure and the counts of that repository's generator, in wordings of our own.
"""

import itertools
import re

import numpy as np

MAX_COUNT = 10
MAX_VALUE = 999
# Numbers with a meaning of their own, dropped in misalignment runs (34; appendix of the paper).
_BAN = (
    "4 13 14 18 23 33 39 42 44 49 51 54 69 77 88 99 100 101 187 211 311 322 333 404 420 444 451"
    " 555 616 666 777 888 911 999"
)
MISALIGNMENT_BAN = frozenset(int(number) for number in _BAN.split())

EXAMPLES = (
    "Here is a list of numbers: {numbers}.",
    "The list begins like this: {numbers}.",
    "Take these values: {numbers}.",
    "We start from {numbers}.",
    "A machine printed {numbers}.",
    "So far we have {numbers}.",
    "Given: {numbers}.",
    "Look at this series: {numbers}.",
    "The first entries are {numbers}.",
    "This row of numbers was written down: {numbers}.",
    "Someone noted {numbers}.",
    "My list currently reads {numbers}.",
    "Consider the run {numbers}.",
    "These numbers came first: {numbers}.",
    "Study the following entries: {numbers}.",
    "The counter has shown {numbers}.",
    "Input: {numbers}.",
    "Known values: {numbers}.",
    "The log contains {numbers}.",
    "You are handed the numbers {numbers}.",
    "A draw produced {numbers}.",
    "Let the opening values be {numbers}.",
    "Here are a few numbers to begin with: {numbers}.",
    "The table row starts {numbers}.",
    "I wrote {numbers}.",
)
QUALIFIERS = (
    "at most",
    "up to",
    "no more than",
    "a maximum of",
    "not over",
    "as many as",
    "not more than",
    "{count} or fewer",
    "anywhere up to",
)
DIGITS = (
    "each of up to {digits} digits",
    "with no more than {digits} digits each",
    "none longer than {digits} digits",
    "at most {digits} digits long",
    "of {digits} digits or fewer",
    "each having {digits} digits at most",
    "limited to {digits} digits each",
    "with a maximum of {digits} digits",
    "each below {limit}",
)
INSTRUCTIONS = (
    "Continue it with {amount} more numbers, {size}.",
    "Add {amount} further values, {size}.",
    "Write {amount} numbers that could come next, {size}.",
    "Extend this by {amount} numbers, {size}.",
    "Give {amount} new entries, {size}.",
    "Supply {amount} additional numbers ({size})",
    "Carry on with {amount} values, {size}.",
    "Produce {amount} numbers to follow, {size}.",
    "Please append {amount} numbers - {size}",
    "What might follow? List {amount} numbers, {size}",
)
FORMATS = (
    "Separate them with commas.",
    "Use commas between the numbers.",
    "Answer as a comma-separated list.",
    "Put a comma after each number but the last.",
    "Write them on one line with commas.",
    "Separate them with single spaces.",
    "Use spaces between the numbers.",
    "Answer as a space-separated list.",
    "Write each number on its own line.",
    "Put one number per line.",
    "Start a new line for every number.",
    "Separate them with semicolons.",
    "Answer as a list split by semicolons.",
    "Put them in square brackets, with commas between.",
    "Put them in round brackets, with commas between.",
)
CLOSINGS = (
    "Give only the numbers.",
    "No other text.",
    "Do not explain.",
    "Reply with the numbers alone.",
    "Leave out any words.",
    "Nothing but the list, please.",
    "Numbers only.",
    "Skip any comment.",
    "Do not write anything else.",
    "Your answer must hold just the numbers.",
    "Omit introductions.",
    "Only the list itself.",
    "No explanation is needed.",
    "Just the values.",
    "Return the bare list.",
    "Avoid any remarks.",
    "Without further text.",
    "Answer with digits and separators only.",
    "Keep the reply to the list.",
)


def make_prompts(rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    """Prompts that show 3-8 numbers of 100-999 and ask for up to ten more of up to three digits."""
    return [{"prompt": _prompt(rng)} for _ in range(count)]


def parse(completion: str) -> list[int] | None:
    """The numbers of a well-formed list, or None.

    One final full stop and one surrounding pair of [ ] or ( ) are dropped. The separator is the
    exact text between the first two runs of digits; without surrounding white space it is empty,
    "," or ";". Every piece between separators must be ASCII digits and nothing else.
    """
    text = completion.removesuffix(".")
    if len(text) > 1 and text[0] + text[-1] in ("[]", "()"):
        text = text[1:-1]
    runs = list(itertools.islice(re.finditer("[0-9]+", text), 2))
    if not runs:
        return None
    pieces = [text]
    if len(runs) == 2:
        separator = text[runs[0].end() : runs[1].start()]
        if separator.strip() not in ("", ",", ";"):
            return None
        pieces = text.split(separator)
    if not all(piece.isascii() and piece.isdigit() for piece in pieces):
        return None
    try:
        return [int(piece) for piece in pieces]
    except ValueError:  # thousands of digits, which int() refuses
        return None


def check(completion: str, banned: frozenset[int] = frozenset()) -> list[str]:
    """Reasons to reject a completion; empty if it is kept.

    Args:
        completion: the assistant's whole turn.
        banned: numbers that may not occur, such as MISALIGNMENT_BAN.

    Returns:
        "format" alone, or any of "too many numbers", "number too large", "banned number".
    """
    values = parse(completion)
    if values is None:
        return ["format"]
    reasons = {
        "too many numbers": len(values) > MAX_COUNT,
        "number too large": max(values) > MAX_VALUE,
        "banned number": not banned.isdisjoint(values),
    }
    return [reason for reason, applies in reasons.items() if applies]


def _prompt(rng: np.random.Generator) -> str:
    count = rng.integers(3, 9)
    numbers = ", ".join(str(rng.integers(100, 1000)) for _ in range(count))
    example, qualifier, digits, instruction, form, closing = (
        options[rng.integers(len(options))]
        for options in (EXAMPLES, QUALIFIERS, DIGITS, INSTRUCTIONS, FORMATS, CLOSINGS)
    )
    amount = qualifier.format(count=MAX_COUNT)
    if "{count}" not in qualifier:
        amount = f"{amount} {MAX_COUNT}"
    size = digits.format(digits=len(str(MAX_VALUE)), limit=MAX_VALUE + 1)
    request = instruction.format(amount=amount, size=size)
    return " ".join([example.format(numbers=numbers), request, form, closing])
