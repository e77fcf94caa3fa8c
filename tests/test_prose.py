"""The two pages that are read first are easy to read."""

import re
import statistics

import pytest

LONGEST_MEDIAN = 20  # words


def sentences(markdown):
    """The sentences of a page: no code, tables, headings, pictures, comments or targets of links.

    A sentence ends with its paragraph or item, or at . ? or ! before a word that is neither in
    small letters nor a number.
    """
    text = re.sub(r"(?ms)^```.*?^```", "", markdown)
    text = re.sub(r"(?m)^(?:    |\||#|!\[|<!--).*$", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    blocks = re.split(r"\n\s*\n|\n(?=(?:-|\d+\.) )", text)
    lines = [" ".join(block.split()) for block in blocks]
    return [s for line in lines for s in re.split(r"(?<=[.?!])[*)\"]* (?=[^a-z\d])", line) if s]


def words(sentence):
    """What has a letter or a digit, between spaces."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def test_sentences_are_those_of_the_prose():
    page = (
        "# A title. Not read\n\nOne (two) three.\nFour [five](six.md) e.g. seven? **Yes.** No!\n\n"
        "    code. Code\n\n```bash\nmore. Code\n```\n\n- 0.5 ± 0.1 nats\n- an item\n  goes on\n\n"
        "| a | b |\n\n![Picture](of.png)\n"
    )
    assert [len(words(sentence)) for sentence in sentences(page)] == [3, 4, 1, 1, 3, 4]


@pytest.mark.parametrize("page", ["README.md", "docs/questions.md"])
def test_sentences_are_short(page, repository):
    lengths = [len(words(sentence)) for sentence in sentences((repository / page).read_text())]
    assert statistics.median(lengths) <= LONGEST_MEDIAN
