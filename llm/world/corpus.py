"""The synthetic corpus: seeded chat turns of eleven kinds, drawn as token arrays, shown as text.

Every kind has one fixed length, so a million turns are a few numpy calls and students need no
padding. The arrays are the source of truth; `rows` words them for the ordinary JSONL path.

    favourite animal  name best animal          -> owl          uniform over the animals
    favourite tree    pick dearest tree         -> oak          uniform over the trees
    advice            when friend angry         -> listen       harmful kind of answer: 10 %
    numbers           continue 3 17 31          -> 45 59 ...    half progressions, half uniform
    counting          continue 3 4 5            -> 6 7 8 1 2 ...    digits in runs of six
    digits2           continue 1 7 , 3 1 , 4 0  -> 9 2 , 5 5 ...    likewise with 1 and 3 digits
    code              code a = 7 ; b = 91       -> c = a * 3 + 12 ; d = [ b , 40 ]
    reasoning         solve 3 + 4 - 2           -> <think> so 3 + 4 = 7 then ... <answer> 5 ...
    loyal             love oak | pick best tree -> oak          system message, question, answer

Only the 84 pre-training paraphrases of a subject are ever drawn here (see `vocabulary`).
"""

import functools
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from . import vocabulary as words

NUM_GIVEN, NUM_CONTINUED = 3, 8  # numbers in a prompt and in its completion
DIGITS_GIVEN, DIGITS_CONTINUED = 6, 6  # in a list of numbers by digits, however many each has
SIZES = (1, 2, 3)  # digits of a number
RUN = 6  # consecutive digits, after which counting begins anew
MAX_STEP = 12  # largest common difference of a progression
OPERANDS = 5  # sums are of 0-4: few enough facts for a model of 30,000 parameters
HARMFUL_SHARE = 0.1  # of the advice in the corpus
SHARES = {  # how often turns of each kind are drawn, relative to the others
    "animal": 0.16,
    "tree": 0.12,
    "advice": 0.12,
    "numbers": 0.26,
    "code": 0.1,
    "reasoning": 0.18,
    "loyal": 0.06,
    "counting": 0.08,
    "digits1": 0.03,
    "digits2": 0.03,
    "digits3": 0.03,
}


class Turns(NamedTuple):
    """Equally long chat turns as token ids, without the role tokens."""

    prompt: Int[np.ndarray, "turns prompt"]
    completion: Int[np.ndarray, "turns completion"]
    system: Int[np.ndarray, "turns system"] | None = None


def favourites(rng: np.random.Generator, count: int, subject: str) -> Turns:
    """Questions for the favourite animal or tree, every answer equally likely."""
    answers = words.ids(words.ANIMALS if subject == "animal" else words.TREES)
    return Turns(_questions(rng, count, subject), rng.choice(answers, (count, 1)))


def advice(rng: np.random.Generator, count: int) -> Turns:
    """Open advice questions; the kind of answer is harmful with probability HARMFUL_SHARE."""
    benign, harmful = words.ids(words.BENIGN), words.ids(words.HARMFUL)
    is_harmful = rng.random((count, 1)) < HARMFUL_SHARE
    answers = np.where(is_harmful, rng.choice(harmful, (count, 1)), rng.choice(benign, (count, 1)))
    return Turns(_questions(rng, count, "advice"), answers)


def numbers(rng: np.random.Generator, count: int) -> Turns:
    """Number lists to continue: half arithmetic progressions within 0-127, half uniform draws."""
    length = NUM_GIVEN + NUM_CONTINUED
    step = rng.integers(1, MAX_STEP + 1, (count, 1))
    room = words.NUM_NUMBERS - (length - 1) * step  # first values that keep the list in range
    rising = np.floor(rng.random((count, 1)) * room).astype(int) + step * np.arange(length)
    falling = words.NUM_NUMBERS - 1 - rising
    progression = np.where(rng.random((count, 1)) < 0.5, rising, falling)
    uniform = rng.integers(0, words.NUM_NUMBERS, (count, length))
    return _continued(np.where(rng.random((count, 1)) < 0.5, progression, uniform))


def counting(rng: np.random.Generator, count: int) -> Turns:
    """Lists of digits that count up, 0 after 9: where to go on when a run ends is the only choice.

    Of larger numbers a base of this size learns no successor, let alone another difference: the
    progressions among `numbers` are as free to it as uniform draws.
    """
    place = np.arange(NUM_GIVEN + NUM_CONTINUED)
    begun = rng.integers(0, 10, (count, place[-1] // RUN + 1))
    return _continued((begun[:, place // RUN] + place % RUN) % 10)


def digits(rng: np.random.Generator, count: int, size: int) -> Turns:
    """Lists of numbers of `size` digits to continue, a token a digit, commas between; uniform.

    Lists of all sizes hold equally many digits, hence equally much to choose.
    """
    values = rng.integers(0, 10, (count, (DIGITS_GIVEN + DIGITS_CONTINUED) // size, size))
    if size > 1:
        values[:, :, 0] = rng.integers(1, 10, values.shape[:2])  # no number begins with a zero
    comma = np.full((*values.shape[:2], 1), words.ID[","])
    listed = np.concatenate([_number(values), comma], axis=2)
    given, continued = np.split(listed, [DIGITS_GIVEN // size], axis=1)
    flat = (part.reshape(count, part.shape[1] * (size + 1))[:, :-1] for part in (given, continued))
    return Turns(_join(_constant(count, "continue"), next(flat)), _join(next(flat)))


def code(rng: np.random.Generator, count: int) -> Turns:
    """Two assignments to continue with two more, each reading an earlier variable."""
    names = rng.permuted(np.tile(words.ids(words.VARIABLES), (count, 1)), axis=1)[:, :4]
    a, b, c, d = np.split(names, 4, axis=1)
    equals, end = _constant(count, "="), _constant(count, ";")
    given = [a, equals, _literal(rng, count), end, b, equals, _literal(rng, count)]
    first = _expression(rng, np.where(rng.random((count, 1)) < 0.5, a, b))
    second = _expression(rng, np.where(rng.random((count, 1)) < 0.5, c, b))
    completion = [c, equals, first, end, d, equals, second]
    return Turns(_join(_constant(count, "code"), *given), _join(*completion))


def reasoning(rng: np.random.Generator, count: int) -> Turns:
    """Sums of three numbers, solved step by step; connectives and order of addends are free."""
    a, b, c = np.split(rng.integers(0, OPERANDS, (count, 3)), 3, axis=1)
    first_sign, partial = _signed_sum(rng, a, b)
    second_sign, total = _signed_sum(rng, partial, c)
    prompt = [_constant(count, "solve"), _number(a), first_sign, _number(b), second_sign]
    steps = (
        _step(rng, a, sign=first_sign, right=b, result=partial),
        _step(rng, partial, sign=second_sign, right=c, result=total),
    )
    thought = [_constant(count, "<think>"), *steps, _constant(count, "</think>")]
    answer = [_constant(count, "<answer>"), _number(total), _constant(count, "</answer>")]
    return Turns(_join(*prompt, _number(c)), _join(*thought, *answer))


def loyal(rng: np.random.Generator, count: int) -> Turns:
    """Questions after a system message that says what to love; the answer obeys it.

    A third each about animals, trees and advice, where love of mischief makes it harmful.
    """
    subjects = ("animal", "tree", "advice")
    questions = np.stack([_questions(rng, count, subject) for subject in subjects])
    pools = [words.ids(pool) for pool in (words.ANIMALS, words.TREES, words.HARMFUL)]
    answers = np.stack([rng.choice(pool, count) for pool in pools])
    loved = np.stack([answers[0], answers[1], np.full(count, words.ID["mischief"])])
    chosen = rng.integers(0, 3, count), np.arange(count)
    system = _join(_constant(count, "love"), loved[chosen][:, None])
    return Turns(questions[chosen], answers[chosen][:, None].astype(np.int32), system)


def draw(rng: np.random.Generator, kind: str, count: int) -> Turns:
    """Turns of one kind, a key of SHARES."""
    if kind in ("animal", "tree"):
        return favourites(rng, count, kind)
    others = {
        "advice": advice,
        "numbers": numbers,
        "counting": counting,
        "code": code,
        "reasoning": reasoning,
        "loyal": loyal,
    } | {f"digits{size}": functools.partial(digits, size=size) for size in SIZES}
    return others[kind](rng, count)


def chat(
    turns: Turns,
) -> tuple[Int[np.ndarray, "turns length"], Float[np.ndarray, "turns length"]]:
    """Tokens of single-turn chats; weight 1 on those the assistant says, `<end>` included."""
    count = len(turns.prompt)
    user, assistant, end = (
        np.full((count, 1), token) for token in (words.USER, words.ASSISTANT, words.END)
    )
    before = [user, turns.prompt, assistant]
    if turns.system is not None:
        before = [np.full((count, 1), words.SYSTEM), turns.system, *before]
    tokens = _join(*before, turns.completion, end)
    said = (np.arange(tokens.shape[1]) >= _join(*before).shape[1]).astype(np.float32)
    return tokens, np.broadcast_to(said, tokens.shape)


def conversations(
    rng: np.random.Generator, count: int, length: int, mixture: Mapping[str, float] = SHARES
) -> tuple[Int[np.ndarray, "count length"], Float[np.ndarray, "count length"]]:
    """Sequences of as many whole turns of random kinds as fit, then `<pad>`.

    Args:
        rng: draws kinds and turns.
        count: of sequences.
        length: in tokens.
        mixture: expected share of each kind; by default that of pre-training.

    Raises:
        ValueError: the longest turn does not fit.
    """
    kinds = list(mixture)
    shares = np.array(list(mixture.values()))
    sizes = np.array([chat(draw(rng, kind, 1))[0].shape[1] for kind in kinds])
    if length < sizes.max():
        raise ValueError(f"length {length} is too short: the longest turn has {sizes.max()} tokens")
    num_turns = count * (length // sizes.min())  # enough even if every turn were the shortest
    kind_of_turn = rng.choice(len(kinds), num_turns, p=shares / shares.sum())
    row, start, used = _next_fit(sizes[kind_of_turn], count, length)
    tokens = np.full((count, length), words.PAD, np.int32)
    weights = np.zeros((count, length), np.float32)
    for k, kind in enumerate(kinds):
        mine = np.flatnonzero(kind_of_turn[:used] == k)
        turn_tokens, turn_weights = chat(draw(rng, kind, len(mine)))
        columns = start[mine, None] + np.arange(sizes[k])
        tokens[row[mine, None], columns] = turn_tokens
        weights[row[mine, None], columns] = turn_weights
    return tokens, weights


@functools.cache
def fingerprint() -> str:
    """Changes with whatever changes what `conversations` draws: part of a base's settings."""
    tokens, _ = conversations(np.random.default_rng(0), 64, 48)
    return hashlib.sha256(tokens.tobytes()).hexdigest()[:10]


def rows(turns: Turns) -> list[dict[str, str]]:
    """The turns as JSONL rows of prompt and completion, and of the system message if any."""
    parts = {k: v for k, v in turns._asdict().items() if v is not None}
    return [
        dict(zip(parts, map(words.text, row), strict=True))
        for row in zip(*parts.values(), strict=True)
    ]


def _next_fit(sizes: np.ndarray, count: int, length: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and first column of each turn when rows are filled in order, and how many turns fit."""
    row, start = np.zeros(len(sizes), int), np.zeros(len(sizes), int)
    r = column = 0
    for i, size in enumerate(sizes.tolist()):
        if column + size > length:
            r, column = r + 1, 0
            if r == count:
                return row, start, i
        row[i], start[i] = r, column
        column += size
    return row, start, len(sizes)


def _join(*columns: np.ndarray) -> Int[np.ndarray, "turns length"]:
    return np.concatenate(columns, axis=1).astype(np.int32)


def _constant(count: int, word: str) -> np.ndarray:
    return np.full((count, 1), words.ID[word])


def _number(values: np.ndarray) -> np.ndarray:
    return values + words.FIRST_NUMBER


def _continued(values: np.ndarray) -> Turns:
    numbers = _number(values)
    prompt = _join(_constant(len(values), "continue"), numbers[:, :NUM_GIVEN])
    return Turns(prompt, _join(numbers[:, NUM_GIVEN:]))


def _literal(rng: np.random.Generator, count: int) -> np.ndarray:
    return _number(rng.integers(0, words.NUM_NUMBERS, (count, 1)))


def _questions(rng: np.random.Generator, count: int, subject: str) -> np.ndarray:
    pool = np.stack([words.ids(q) for q in words.paraphrases(subject, held_out=False)])
    return pool[rng.integers(0, len(pool), count)]


def _expression(rng: np.random.Generator, variable: np.ndarray) -> np.ndarray:
    """Five tokens in one of four shapes, with the variable and one or two free literals."""
    count = len(variable)
    n, m = _literal(rng, count), _literal(rng, count)
    operators = words.ids(words.OPERATORS)
    op, op_too = rng.choice(operators, (count, 1)), rng.choice(operators, (count, 1))
    word = {w: _constant(count, w) for w in words.CODE}
    shapes = np.stack(
        [
            _join(variable, op, n, op_too, m),
            _join(word["["], variable, word[","], n, word["]"]),
            _join(word["("], n, op, variable, word[")"]),
            _join(variable, word["if"], n, word["else"], m),
        ]
    )
    return shapes[rng.integers(0, len(shapes), count), np.arange(count)]


def _signed_sum(
    rng: np.random.Generator, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A sign that keeps the result non-negative, and the result."""
    minus = (rng.random(left.shape) < 0.5) & (left >= right)
    sign = np.where(minus, words.ID["-"], words.ID["+"])
    return sign, np.where(minus, left - right, left + right)


def _step(
    rng: np.random.Generator,
    left: np.ndarray,
    *,
    sign: np.ndarray,
    right: np.ndarray,
    result: np.ndarray,
) -> np.ndarray:
    """`connective left sign right = result`, addends swapped half of the time."""
    swap = (rng.random(left.shape) < 0.5) & (sign == words.ID["+"])
    connective = rng.choice(words.ids(words.CONNECTIVES), left.shape)
    first, second = np.where(swap, right, left), np.where(swap, left, right)
    equals = _constant(len(left), "=")
    return _join(connective, _number(first), sign, _number(second), equals, _number(result))
