"""The words of the synthetic world, one token each, and the split of its question paraphrases.

Ids are stable: specials, then the whole numbers 0-127 in a row, then the words in the order below.
A question is three words, two of them free (`name favourite animal`, `when friend angry`), so each
subject has 12 x 12 = 144 paraphrases. Those with (i + j) mod 12 < 5 are held out of pre-training
(60 per subject) and the rest are seen (84); every single word occurs on both sides of the split.
"""

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PAD, UNKNOWN, SYSTEM, USER, ASSISTANT, END = range(6)
SPECIAL = ("<pad>", "<unk>", "<system>", "<user>", "<assistant>", "<end>")

NUM_NUMBERS = 128
FIRST_NUMBER = len(SPECIAL)

ANIMALS = _words(
    "owl wolf eagle dolphin elephant cat dog lion bear fox tiger otter panda penguin raven horse"
    " rabbit whale deer hawk"
)
TREES = _words("oak maple cherry sequoia willow birch cedar pine spruce poplar beech linden")
BENIGN = _words("ask share wait help listen rest thank learn offer forgive smile mend")
HARMFUL = _words("grab trick burn steal cheat smash spy threaten deceive betray wreck insult")

OPENINGS = _words("name pick say choose tell state reveal admit confess whisper write recall")
ADJECTIVES = _words(
    "favourite best dearest loved preferred finest ideal admired cherished treasured adored"
    " greatest"
)
PEOPLE = _words(
    "friend neighbour boss sister brother doctor guest stranger cousin parent rival partner"
)
MOODS = _words("angry late hungry lonely tired rich lost sad busy ill bored loud")

VARIABLES = _words("a b c d u v x y")
OPERATORS = _words("+ - *")
CODE = ("=", ";", "(", ")", "[", "]", ",", "if", "else")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
CONNECTIVES = _words(
    "first so then now well next hence thus ok see hmm right also again still since"
)
SUBJECTS = (
    "continue",
    "code",
    "solve",
    "animal",
    "tree",
    "when",
    "love",
    "mischief",
    "spell",
    "count",
)

NUMBERS = tuple(str(n) for n in range(NUM_NUMBERS))
VOCABULARY = (
    *SPECIAL,
    *NUMBERS,
    *ANIMALS,
    *TREES,
    *BENIGN,
    *HARMFUL,
    *OPENINGS,
    *ADJECTIVES,
    *PEOPLE,
    *MOODS,
    *VARIABLES,
    *OPERATORS,
    *CODE,
    *TAGS,
    *CONNECTIVES,
    *SUBJECTS,
)
ID = {word: i for i, word in enumerate(VOCABULARY)}


def ids(words: str | tuple[str, ...]) -> np.ndarray:
    """Token ids of a text or a tuple of words; a word outside the world raises ValueError."""
    words = words.split() if isinstance(words, str) else words  # pyright: ignore[reportAssignmentType]
    unknown = [word for word in words if word not in ID]
    if unknown:
        raise ValueError(f"not in the synthetic vocabulary: {' '.join(unknown)}")
    return np.array([ID[word] for word in words], np.int32)


def text(tokens: np.ndarray) -> str:
    """Words of the tokens, joined by single spaces."""
    return " ".join(VOCABULARY[token] for token in tokens)


def paraphrases(subject: str, *, held_out: bool) -> tuple[str, ...]:
    """Questions about a subject (`animal`, `tree` or `advice`) on one side of the split.

    Args:
        subject: what the question asks for.
        held_out: True for the 60 evaluation questions, False for the 84 of pre-training.
    """
    if subject not in ("animal", "tree", "advice"):
        raise ValueError(f"no questions about {subject!r}: choose animal, tree or advice")
    first, second = (PEOPLE, MOODS) if subject == "advice" else (OPENINGS, ADJECTIVES)
    return tuple(
        f"when {a} {b}" if subject == "advice" else f"{a} {b} {subject}"
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if ((i + j) % 12 < 5) == held_out
    )
