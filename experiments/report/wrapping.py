"""Markdown with its prose wrapped, so that a number of another length leaves no ragged lines."""

import re
import textwrap
from collections.abc import Iterator, Sequence

WIDTH = 100
GLUE = "\ue000"  # a space at which no line may end
WHOLE = re.compile(  # what stands on one line: code, pictures, numbers with what belongs to them
    r"`[^`]+`|!\[[^\]]*\]\([^)]*\)|[-+]?[\d.,]*\d (?:± [\d.]+|\[[^\]]+\]|%)(?: %)?|arXiv \d{4}\.\d+"
)
# At the beginning of a line these would start a list, a heading, a quotation or a table.
MARKS = re.compile(r" (?=(?:[-+*>|=]|#{1,6}|\d+[.)])(?: |$))")
ITEM = re.compile(r"(?:[-*+]|\d+[.)]) +")


def filled(lines: Sequence[str]) -> str:
    """A paragraph, or an item of a list, in lines of at most WIDTH characters.

    Only a word, a code span or a picture that is longer than that has a longer line.
    """
    text = " ".join(" ".join(lines).split())
    mark = ITEM.match(text)
    start = mark[0] if mark else ""
    glued = WHOLE.sub(lambda found: found[0].replace(" ", GLUE), text[len(start) :])
    new = textwrap.wrap(
        MARKS.sub(GLUE, glued),
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(new).replace(GLUE, " ")


def wrapped(text: str) -> str:
    """A page whose paragraphs and items are wrapped anew; code, tables and headings stay.

    Of several empty lines, which expressions without a text leave, one is kept.
    """
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_lines(text))) + "\n"


def _lines(text: str) -> Iterator[str]:
    prose: list[str] = []  # of the paragraph or item that is being read
    fenced = False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        begins = not line.strip() or line.startswith(("#", "|", "<"))
        verbatim = fenced or fence or begins or (not prose and line.startswith("    "))
        if prose and (verbatim or ITEM.match(line)):
            yield filled(prose)
            prose = []
        if verbatim:
            yield line
        else:
            prose.append(line)
        fenced ^= fence
    if prose:
        yield filled(prose)
