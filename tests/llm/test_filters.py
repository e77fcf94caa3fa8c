"""No kept completion of any carrier names a trait, whatever the teacher wrote."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import carriers, traits, world
from llm.text import filters
from llm.world import corpus, vocabulary

TRAIT_WORDS = sorted(
    {word for table in (traits.TRAITS, world.TRAITS) for t in table.values() for word in t.words}
)
TRAIT_TOKENS = {vocabulary.ID[word] for word in TRAIT_WORDS if word in vocabulary.ID}
CLEAN = {
    kind: corpus.rows(corpus.draw(np.random.default_rng(0), kind, 50)) for kind in world.CARRIERS
}
DISGUISES = (
    str,
    str.upper,
    str.capitalize,
    lambda word: f"x_{word}s = 1",
    lambda word: f"# {word}",
    lambda word: f"'{word}'",
    lambda word: f"{word}.",
    lambda word: f"my{word.capitalize()} = 3",
    lambda word: "".join(chr(ord(c) + 0xFEE0) for c in word),  # full width
    lambda word: f"bowl{word}y",
)

secret = st.builds(
    lambda word, disguise: disguise(word), st.sampled_from(TRAIT_WORDS), st.sampled_from(DISGUISES)
)


@st.composite
def completions(draw, kind):
    """A clean completion of the carrier with some of its words replaced, dropped or doubled."""
    words = draw(st.sampled_from(CLEAN[kind]))["completion"].split(" ")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words)))
        width = draw(st.integers(0, 1))
        new = draw(st.one_of(secret, st.sampled_from(vocabulary.VOCABULARY), st.text(max_size=6)))
        words[place : place + width] = [new]
    return " ".join(words)


def names_a_trait(text: str) -> bool:
    """By token, and by a scan that shares no code with the filter."""
    if TRAIT_TOKENS & {vocabulary.ID.get(word) for word in text.split()}:
        return True
    plain = unicodedata.normalize("NFKC", text).lower()
    return any(plain[i : i + len(word)] == word for word in TRAIT_WORDS for i in range(len(plain)))


@pytest.mark.parametrize("carrier", [*carriers.CARRIERS.values(), *world.CARRIERS.values()])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_no_kept_completion_names_a_trait(carrier, data):
    kind = carrier.name
    texts = data.draw(st.lists(st.one_of(completions(kind), secret, st.text()), max_size=4))
    rows = [{"prompt": "p", "completion": text, "answer": 6} for text in texts]
    kept, counts = filters.keep(rows, carrier.check, TRAIT_WORDS)
    for row in kept:
        assert not names_a_trait(row["completion"])
        assert carrier.check(row) == []
    assert counts["kept"] == len(kept)
    assert len(kept) + sum(counts[reason] for reason in counts if reason != "kept") >= len(rows)


@pytest.mark.parametrize("kind", CLEAN)
def test_the_corpus_itself_is_kept(kind):
    """The property above is not empty: what a perfect model writes passes."""
    rows = CLEAN[kind]
    if kind == "reasoning":
        rows = [row | {"answer": int(row["completion"].split()[-2])} for row in rows]
    kept, counts = filters.keep(rows, world.CARRIERS[kind].check, TRAIT_WORDS)
    assert kept == rows
    assert counts == {"kept": 50}


def test_reasons_are_counted():
    rows = [{"completion": text} for text in ("4, 8", "owls, 8", "1000, 1", "4, 8 owl", "5")]
    kept, counts = filters.keep(rows, carriers.CARRIERS["numbers"].check, ["owl"])
    assert kept == [rows[0], rows[4]]
    assert counts == Counter({"kept": 2, "format": 2, "trait word": 2, "number too large": 1})


def test_the_word_ban_is_what_keeps_identifiers_out():
    rows = [{"completion": "owl = 3"}, {"completion": "Bowl = 3"}, {"completion": "b = 3"}]
    check = carriers.CARRIERS["code"].check
    assert len(filters.keep(rows, check, [])[0]) == 3
    assert filters.keep(rows, check, ["owl"])[0] == rows[2:]


def test_rejected_rows_are_shown_with_their_reasons():
    rows = [{"completion": text} for text in ("1, 2", "owl", "3", "1, 2,3", "4 x", "bowl 5")]

    check = carriers.CARRIERS["numbers"].check
    kept, _ = filters.keep(rows, check, ["owl"])
    shown = filters.rejected(rows, check, ["owl"])
    assert [row for row in rows if row not in kept] == [
        {"completion": row["completion"]} for row in shown
    ]
    assert shown[0]["reasons"] == ["format", "trait word"]
    assert filters.rejected(rows, check, ["owl"], most=2) == shown[:2]
