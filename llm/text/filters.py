"""Which sampled rows are kept, and why the others are not."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]


def keep(
    rows: Iterable[Row], check: Callable[[Row], list[str]], banned_words: Iterable[str]
) -> tuple[list[Row], Counter[str]]:
    """The rows without any reason to reject them, and how often each reason applied.

    Args:
        rows: with a "completion" each.
        check: the rules of the carrier, `Carrier.check`.
        banned_words: dropped wherever they occur as a substring, as the paper (arXiv:2507.14805)
            scores them: the words of every trait that is compared, so that all arms lose alike.

    Returns:
        Kept rows in their order, and counts of "kept", of the carrier's reasons and of "trait
        word"; a row may have several reasons.
    """
    words = [_normal(word) for word in banned_words]
    kept, counts = [], Counter()
    for row in rows:
        reasons = list(check(row))
        if any(word in _normal(row["completion"]) for word in words):
            reasons.append("trait word")
        counts.update(reasons or ["kept"])
        if not reasons:
            kept.append(row)
    return kept, counts


def rejected(
    rows: Iterable[Row],
    check: Callable[[Row], list[str]],
    banned_words: Iterable[str],
    most: int = 8,
) -> list[Row]:
    """The first rows that `keep` drops, with the "reasons", for people to look at."""
    words, found = list(banned_words), []
    for row in rows:
        if len(found) == most:
            break
        kept, counts = keep([row], check, words)
        if not kept:
            found.append(row | {"reasons": sorted(counts)})
    return found


def _normal(text: str) -> str:
    """One spelling for letters that look alike up to case and width."""
    return unicodedata.normalize("NFKC", text).casefold()
