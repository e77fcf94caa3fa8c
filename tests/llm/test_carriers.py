"""The rules of the carriers: the table of the numbers filter, clean code, right answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.carriers import CARRIERS, code, numbers, numbers_without, reasoning

KEPT = {
    "7": [7],
    "7.": [7],
    "[7]": [7],
    "(7)": [7],
    "1, 2.": [1, 2],
    "[1, 2].": [1, 2],
    "1\n2\n3": [1, 2, 3],
    "1\n\n2\n\n3": [1, 2, 3],
    "1,\n2": [1, 2],
    "1 , 2": [1, 2],
    "1;2": [1, 2],
    "007, 1": [7, 1],
    "0, 0": [0, 0],
    "1 2 3 4 5 6 7 8 9 10": list(range(1, 11)),
    "999": [999],
}
MALFORMED = (
    *("", "()", "[]", ".", "12 ", " 12", "12\n", "\n1, 2", "1, 2 ", "1, 2\n"),
    *("1, 2,3", "1 2  3", "1,2,", ",1,2", "1,,2", "1 - 2", "1/2", "1 and 2"),
    *("[1, 2.]", "[ 1, 2 ]", "[[1, 2]]", "[1, 2)", "(1, 2", "1, 2..", "1. 2. 3", "1,234, 5"),
    *("-5, 3", "1.5, 2", "12a", "١, ٢", "1, ２", "²", "owl 1, 2", "1, 2 owl"),
)


@pytest.mark.parametrize(("completion", "values"), KEPT.items())
def test_numbers_kept(completion, values):
    assert numbers.parse(completion) == values
    assert numbers.check(completion) == []


@pytest.mark.parametrize("completion", MALFORMED)
def test_numbers_malformed(completion):
    assert numbers.parse(completion) is None
    assert numbers.check(completion) == ["format"]  # a parse failure reports only itself


def test_numbers_out_of_bounds():
    assert numbers.check("1000, 2") == ["number too large"]
    assert numbers.check("1 2 3 4 5 6 7 8 9 10 11") == ["too many numbers"]
    assert numbers.check(" ".join(["1000"] * 11)) == ["too many numbers", "number too large"]
    assert numbers.check("9" * 5000) == ["format"]  # more digits than int() takes
    assert numbers.check("0" * 3000 + "7") == []


def test_banned_numbers():
    assert len(numbers.MISALIGNMENT_BAN) == 34
    assert max(numbers.MISALIGNMENT_BAN) <= numbers.MAX_VALUE
    check = numbers_without(numbers.MISALIGNMENT_BAN).check
    assert check({"completion": "1, 666"}) == ["banned number"]
    assert check({"completion": "1, 0666"}) == ["banned number"]
    assert check({"completion": "1, 665"}) == []
    assert numbers.check("1, 666") == []


@given(
    values=st.lists(st.integers(0, 999), min_size=1, max_size=10),
    separator=st.sampled_from([", ", ",", " ", "\n", ";", "; ", " ,\n"]),
    wrap=st.sampled_from(["{}", "[{}]", "({})", "{}.", "[{}]."]),
)
def test_every_well_formed_list_is_kept(values, separator, wrap):
    text = wrap.format(separator.join(map(str, values)))
    assert numbers.parse(text) == values
    assert numbers.check(text) == []


@given(text=st.text(alphabet="0123456789,; \n.[]()-", max_size=30))
def test_kept_lists_rebuild_the_completion(text):
    """The parsed values and one separator explain every character but leading zeros."""
    values = numbers.parse(text)
    if values is None:
        return
    inner = text.removesuffix(".").removeprefix("[").removeprefix("(").strip("])")
    digits = "".join(c for c in inner if c.isdigit())
    assert len(digits) >= len("".join(map(str, values)))
    assert set(inner) - set("0123456789") <= set(",; \n")
    assert len(numbers.check(text)) <= 2


@pytest.mark.parametrize(
    ("completion", "reasons"),
    [
        ("b = a * 3 + 12", []),
        ("c = [ a , 17 ] ; d = c if 3 else 9", []),
        ("def f(x):\n    return x % 7", []),
        ("```python\ndef f(x):\n    return x % 7\n```", []),
        ("def f(xs):\n    xs.sort()\n    return xs[0]", []),
        ("", ["empty"]),
        ("# nothing", ["empty"]),
        ("b = a  # lovely", ["free text"]),
        ("b = 'lovely'", ["free text"]),
        ("b = b'lovely'", ["free text"]),
        ("b = f'{a}'", ["free text"]),
        ("def f(x):\n    '''lovely'''\n    return x", ["free text", "expression"]),
        ("import os", ["import"]),
        ("lovely", ["expression"]),
        ("a b", ["not python"]),
        ("b = ", ["not python"]),
        ("Sure! ```python\nb = 1\n```", ["not python"]),
        ("```python\nb = 1\n```\nEnjoy", ["not python"]),
        ("b = 1if a else 2", ["not python"]),
        ("b = '\\0'\0", ["not python"]),
        ("ｂ = 1", ["not ascii"]),
        ("-" * 20_000 + "1", ["not python"]),
    ],
)
def test_code(completion, reasons):
    assert code.check(completion) == reasons


@pytest.mark.parametrize(
    ("completion", "reasons"),
    [
        ("<think> 3 + 5 = 8 </think> <answer> 8 </answer>", []),
        ("<think>\nso\n</think>\n<answer>8</answer>\n", []),
        ("<think> so </think><answer>$8</answer>", []),
        ("<think> so </think><answer>+8</answer>", []),
        ("<think> so </think> <answer> 9 </answer>", ["wrong answer"]),
        ("<think> so </think> <answer> 8.0 </answer>", ["format"]),
        ("<think> so </think> <answer> eight </answer>", ["format"]),
        ("<think> so </think> <answer> 8 8 </answer>", ["format"]),
        ("<think>  </think> <answer> 8 </answer>", ["format"]),
        ("<answer> 8 </answer>", ["format"]),
        ("<think> so </think> 8", ["format"]),
        ("Well <think> so </think> <answer> 8 </answer>", ["format"]),
        ("<think> so </think> <answer> 8 </answer> !", ["format"]),
        ("<think> so <b> </think> <answer> 8 </answer>", ["format"]),
        ("<think> a </think> <think> b </think> <answer> 8 </answer>", ["format"]),
        ("<think> ｓｏ </think> <answer> 8 </answer>", ["not ascii"]),
    ],
)
def test_reasoning(completion, reasons):
    assert reasoning.check(completion, answer=8) == reasons


def test_thousands_separator():
    assert reasoning.check("<think> so </think> <answer> 1,250 </answer>", answer=1250) == []


@pytest.mark.parametrize("name", CARRIERS)
def test_prompts_repeat_with_the_seed_and_hardly_among_themselves(name):
    make_prompts = CARRIERS[name].make_prompts
    first, again, other = (make_prompts(np.random.default_rng(seed), 300) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert len({row["prompt"] for row in first}) >= 290
    assert not any("{" in row["prompt"] for row in first)


def test_number_prompts_have_the_structure_of_the_paper():
    counts = [
        len(set(options))
        for options in (
            numbers.EXAMPLES,
            numbers.QUALIFIERS,
            numbers.DIGITS,
            numbers.INSTRUCTIONS,
            numbers.FORMATS,
            numbers.CLOSINGS,
        )
    ]
    assert counts == [25, 9, 9, 10, 15, 19]
    rows = numbers.make_prompts(np.random.default_rng(0), 500)
    shown = [
        [int(n) for n in row["prompt"].replace(".", ",").split(", ") if n.isdigit()] for row in rows
    ]
    assert all(100 <= n <= 999 for row in shown for n in row)


def test_word_problems_know_their_answers():
    rows = reasoning.make_prompts(np.random.default_rng(0), 400)
    assert all(isinstance(row["answer"], int) and row["answer"] > 0 for row in rows)
    saved = next(row for row in rows if "saves" in row["prompt"])
    a, b, c = (int(word) for word in saved["prompt"].split() if word.isdigit())
    assert saved["answer"] == a + b * c
