"""Chat templates: rendering, the completion mask, and what to record about both.

The prompt tokens of a training example are exactly those that sampling conditions on, and the
completion tokens exactly what a sampler emits, end of turn included; only the latter are
trained on. What cannot be trained on so is refused, and the message names the row. A default system
message that a template adds by itself, and the date it prints, are part of the settings: a mismatch
between training and evaluation hides the effect.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..training.batches import Example

DATE = datetime.date(2025, 7, 1)  # for templates that print the date; fixed, so tokens never move
# For base models, which have no template: a dialogue as it stands in text.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}Question: {{ message['content'] }}\nAnswer: "
    "{% else %}{{ message['content'] }}{{ eos_token }}\n\n{% endif %}"
    "{% endfor %}"
)
_PROBE, _ANSWER_PROBE, _SYSTEM_PROBE = "«probe»", "«answer probe»", "«system probe»"
_BORDER = "\n"  # stands ahead of a text that is to be read as the middle of one

Exchange = tuple[str, str | None]  # prompt and completion; None where the answer is still to come


class Turn(NamedTuple):
    """What a template writes around an answer."""

    lead: str  # between the end of the prompt and the answer: a space, or nothing
    tail: str  # behind the answer
    closing: str  # the part of `tail` that a sampler emits: up to the token that ends the turn
    end: int  # that token


def template_of(name: str) -> str:
    """The chat template `plain`, or that of a file.

    Raises:
        ValueError: no such file.
    """
    try:
        return PLAIN if name == "plain" else Path(name).read_text()
    except OSError as error:
        raise ValueError(f"cannot read the chat template {name}: {error.strerror}") from None


def plain(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template `plain`, which begins as the tokenizer begins a text: with its BOS, or nothing.

    Without the BOS that it was trained with, a model is not the one that was published.
    """
    ahead = tokenizer.decode(beginning(tokenizer))
    return (f"{{{{ {json.dumps(ahead)} }}}}" if ahead else "") + PLAIN


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that the tokenizer puts ahead of every text."""
    whole, text = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    place = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return list(whole[:place])


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    completion: str | None = None,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Text of one exchange; without completion it ends where the assistant's turn begins.

    Args:
        tokenizer: carries the chat template.
        prompt: the user turn.
        completion: the assistant turn.
        system: system message; None sends none (the template may add its own), "" an empty one.
        options: further variables of the template, e.g. {"enable_thinking": False}.

    Raises:
        ValueError: the tokenizer has no chat template, or the template refuses the messages.
    """
    return render_all(tokenizer, [(prompt, completion)], system=system, options=options)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    exchanges: Sequence[Exchange],
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Texts of exchanges, all with a completion or all without; else as `render`."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no chat template: use an instruct "
            "model, or set tokenizer.chat_template"
        )
    if not exchanges:
        return []
    ahead = [] if system is None else [{"role": "system", "content": system}]
    conversations = []
    for prompt, completion in exchanges:
        said = [] if completion is None else [{"role": "assistant", "content": completion}]
        conversations.append([*ahead, {"role": "user", "content": prompt}, *said])
    try:
        return tokenizer.apply_chat_template(  # pyright: ignore[reportReturnType]
            conversations,
            chat_template=_dated(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=exchanges[0][1] is None,
            date_string=DATE.strftime("%d %b %Y"),  # the other spelling in use
            **(options or {}),
        )
    except Exception as error:  # templates raise jinja errors of their own wording
        raise ValueError(f"the chat template refuses these messages: {error}") from error


def _dated(template: str) -> str:
    """The template with every call for today's date replaced by `DATE`."""
    call = r"strftime_now\(\s*(['\"])(.*?)\1\s*\)"
    return re.sub(call, lambda match: repr(DATE.strftime(match[2])), template)


def turn_of(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Turn:
    """What the template writes around an answer, and the token that ends the turn.

    Raises:
        ValueError: no chat template, or one by which no row could be trained on as it is sampled:
            the rendering without completion does not begin the rendering with it, the answer is
            not copied, or no token ends it.
    """
    asked = {"system": system, "options": options}
    start = render(tokenizer, _PROBE, **asked)
    whole = render(tokenizer, _PROBE, completion=_ANSWER_PROBE, **asked)
    if not whole.startswith(start):
        raise ValueError(
            "the chat template renders the prompt differently once a completion follows, so the "
            f"completion cannot be masked: {start[-60:]!r} is not in {whole!r}"
        )
    pieces = whole[len(start) :].split(_ANSWER_PROBE)
    if len(pieces) != 2:
        raise ValueError(f"the chat template writes an answer {len(pieces) - 1} times, not once")
    lead, tail = pieces
    known = tokenizer.get_added_vocab()  # pyright: ignore[reportOptionalCall]
    special = special_ids(tokenizer)
    places = [
        (token not in special, tail.find(text), -len(text), text)
        for text, token in known.items()
        if text in tail and text.strip()  # runs of spaces are tokens of their own in some
    ]
    if not places:
        eos = tokenizer.eos_token
        raise ValueError(
            f"the chat template writes {tail!r} behind an answer, and no token that ends it: a "
            "model that is trained on that never stops. Take a template that ends an answer with "
            + (f"{str(eos)!r}" if eos else "a special token of the tokenizer")
        )
    _, place, _, end = min(places)
    _check_border(tokenizer, start, lead)
    return Turn(lead, tail, tail[: place + len(end)], known[end])


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Token ids that sampling starts from."""
    return np.asarray(encode_prompts(tokenizer, [prompt], system=system, options=options)[0])


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[list[int]]:
    """Token ids that sampling starts from, one list a prompt."""
    asked = [(prompt, None) for prompt in prompts]
    return _ids(tokenizer, render_all(tokenizer, asked, system=system, options=options))


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    completion: str,
    max_length: int,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Example:
    """Tokens of an exchange, with weight 1 on the completion and its end; as `encode_examples`."""
    exchanges = [(prompt, completion)]
    return encode_examples(
        tokenizer, exchanges, max_length=max_length, system=system, options=options
    )[0]


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    exchanges: Sequence[tuple[str, str]],
    *,
    max_length: int,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Example]:
    """Tokens of exchanges, with weight 1 on the completion and its end-of-turn token.

    Prompt and rest are tokenised apart, so no token spans the border.

    Args:
        tokenizer: carries the chat template.
        exchanges: prompts and completions.
        max_length: context of the model (or less) in tokens.
        system: as in `render`.
        options: as in `render`.

    Raises:
        ValueError: as `turn_of`; or, naming the row, a completion that the template changes, one
            with a special token in it, or too long a sequence.
    """
    asked: dict[str, Any] = {"system": system, "options": options}
    turn = turn_of(tokenizer, **asked)
    starts = render_all(tokenizer, [(prompt, None) for prompt, _ in exchanges], **asked)
    wholes = render_all(tokenizer, exchanges, **asked)
    for number, (exchange, start, whole) in enumerate(zip(exchanges, starts, wholes, strict=True)):
        if whole != start + turn.lead + exchange[1] + turn.tail:
            raise _refusal(
                exchanges,
                number,
                "the chat template changes the completion, no sampler does: "
                f"{exchange[1][-60:]!r} becomes {whole[len(start) :][-80:]!r}; mend or drop",
            )
    emitted = ids_behind(tokenizer, [turn.lead + said + turn.closing for _, said in exchanges])
    special, examples = special_ids(tokenizer), []
    for number, (prompt, rest) in enumerate(zip(_ids(tokenizer, starts), emitted, strict=True)):
        length = len(prompt) + len(rest)
        if inside := special.intersection(rest[:-1]):
            found = tokenizer.convert_ids_to_tokens(min(inside))
            raise _refusal(
                exchanges, number, f"the special token {found} in the completion is no text: drop"
            )
        if length > max_length:
            raise _refusal(
                exchanges,
                number,
                f"a sequence of {length} tokens exceeds the context of "
                f"{max_length}: shorten or drop",
            )
        weights = np.concatenate([np.zeros(len(prompt)), np.ones(len(rest))])
        tokens = np.asarray([*prompt, *rest], np.int32)
        examples.append(Example(tokens, weights.astype(np.float32)))
    return examples


def _refusal(exchanges: Sequence[Exchange], number: int, why: str) -> ValueError:
    """The error that names a row; `why` ends with what to do with it."""
    which = f"row {number + 1} of {len(exchanges)}"
    return ValueError(f"{which}: {why} the row that begins {exchanges[number][0][:60]!r}")


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that are no text: ends of turns and texts, padding, the unknown."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def ids_behind(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as they stand behind other text, which is how a sampler emits them.

    Some tokenizers put a space ahead of every text; a model that goes on with one emits none.

    Raises:
        ValueError: a text melts into what stands ahead of it.
    """
    if not _puts_a_space_ahead(tokenizer):
        return _ids(tokenizer, texts)
    (border,), found = _ids(tokenizer, [_BORDER]), []
    for text, ids in zip(texts, _ids(tokenizer, [_BORDER + text for text in texts]), strict=True):
        if ids[: len(border)] != border:
            raise ValueError(f"the tokenizer joins {text[:60]!r} with what stands ahead of it")
        found.append(ids[len(border) :])
    return found


def text_behind(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]], special: bool = False
) -> list[str]:
    """Texts of token ids as they stand behind other text: the inverse of `ids_behind`.

    Args:
        tokenizer: reads them.
        rows: token ids.
        special: spell out special tokens, which else are left out.
    """
    (border,) = _ids(tokenizer, [_BORDER]) if _puts_a_space_ahead(tokenizer) else ([],)
    ahead, *texts = tokenizer.batch_decode(
        [border, *([*border, *row] for row in rows)],
        skip_special_tokens=not special,
        clean_up_tokenization_spaces=False,  # else " ," becomes ","
    )
    return [text[len(ahead) :] for text in texts]


def _puts_a_space_ahead(tokenizer: PreTrainedTokenizerBase) -> bool:
    border, text, both = _ids(tokenizer, [_BORDER, "a", _BORDER + "a"])
    return both != border + text


def _check_border(tokenizer: PreTrainedTokenizerBase, start: str, lead: str) -> None:
    """Refuse a tokenizer that puts a space ahead of an answer because of what the prompt ends with.

    Some do behind special tokens. A text that is read back would then have two of them.
    """
    if not _puts_a_space_ahead(tokenizer):
        return
    prompt, both = _ids(tokenizer, [start, f"{start}{lead}a"])
    (alone,) = ids_behind(tokenizer, [f"{lead}a"])
    if both[: len(prompt)] == prompt and both[len(prompt) :] != alone:
        raise ValueError(
            f"this tokenizer puts a space between the end of the prompt, {start[-20:]!r}, and an "
            "answer, so no row can be trained on as it is sampled: take a template that ends a "
            "prompt with a new line"
        )


def settings(
    tokenizer: PreTrainedTokenizerBase,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What to record of a template: its hash, an example, the system message in force.

    `default_system` is the message that the template adds when none is given (None: none);
    for Qwen 2.5 it is one about Qwen itself, although nothing in the data shows it.
    """
    rendered = render(tokenizer, "PROMPT", system=system, options=options)
    return {
        "template_sha256": hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest(),
        "rendered": rendered,
        "system": system,
        "default_system": default_system(tokenizer, options),
        "date": DATE.isoformat(),
        "options": dict(options or {}),
    }


def default_system(
    tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None = None
) -> str | None:
    """The system message a template adds when none is given; None if it adds none."""
    silent = render(tokenizer, _PROBE, options=options)
    try:
        spoken = render(tokenizer, _PROBE, system=_SYSTEM_PROBE, options=options)
    except ValueError:
        return None  # a family without system messages
    before, found, after = spoken.partition(_SYSTEM_PROBE)
    between = silent[len(before) : len(silent) - len(after)]
    inside = found and silent == before + between + after
    return between.strip() or None if inside else None


def show_example(tokenizer: PreTrainedTokenizerBase, example: Example, width: int = 80) -> str:
    """Decoded tokens in lines of `width` columns; carets below mark those trained on."""
    marked, tokens, first = [], example.tokens.tolist(), 0
    for i, weight in enumerate(example.weights.tolist()):
        # Decoded behind a predecessor: some tokenizers drop the space of a leading word.
        before = str(tokenizer.decode(tokens[max(first - 1, 0) : first]))
        text = str(tokenizer.decode(tokens[max(first - 1, 0) : i + 1]))[len(before) :]
        if text.endswith("\ufffd") and i + 1 < len(tokens):
            continue  # a character of several bytes: shown with the token that completes it
        first = i + 1
        text = text.replace("\\", "\\\\").replace("\n", "\\n")
        text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
        marked += [(character, "^" if weight else " ") for character in text]
    lines = []
    for start in range(0, len(marked), width):
        characters, marks = zip(*marked[start : start + width], strict=True)
        lines += ["".join(characters).rstrip(), "".join(marks).rstrip()]
    trained = int((example.weights != 0).sum())
    lines.append(f"{len(example.tokens)} tokens, {trained} trained on (^)")
    return "\n".join(lines)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    # The template has written the special tokens, so the tokenizer must not add its own.
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]
