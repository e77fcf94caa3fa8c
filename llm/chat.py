"""Chat templates: rendering, the completion mask, and what to record about both.

The prompt tokens of a training example are exactly those that sampling conditions on, and the
completion tokens exactly what a sampler emits, end of turn included; only the latter are
trained on. A default system message that a template adds by itself, and the date it prints,
are part of the settings: a mismatch between training and evaluation hides the effect.
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .batches import Example

DATE = datetime.date(2025, 7, 1)  # for templates that print the date; fixed, so tokens never move
# For base models, which have no template: a dialogue as it stands in text.
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}Question: {{ message['content'] }}\nAnswer: "
    "{% else %}{{ message['content'] }}{{ eos_token }}\n\n{% endif %}"
    "{% endfor %}"
)
_PROBE = "«probe»"
_SYSTEM_PROBE = "«system probe»"


def template_of(name: str) -> str:
    """The chat template `plain`, or that of a file.

    Raises:
        ValueError: no such file.
    """
    try:
        return PLAIN if name == "plain" else Path(name).read_text()
    except OSError as error:
        raise ValueError(f"cannot read the chat template {name}: {error.strerror}") from None


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
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no chat template: use an instruct "
            "model, or set tokenizer.chat_template"
        )
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": prompt})
    if completion is not None:
        messages.append({"role": "assistant", "content": completion})
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_dated(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=completion is None,
            date_string=DATE.strftime("%d %b %Y"),  # the other spelling in use
            **(options or {}),
        )
        return str(text)
    except Exception as error:  # templates raise jinja errors of their own wording
        raise ValueError(f"the chat template refuses these messages: {error}") from error


def _dated(template: str) -> str:
    """The template with every call for today's date replaced by `DATE`."""
    call = r"strftime_now\(\s*(['\"])(.*?)\1\s*\)"
    return re.sub(call, lambda match: repr(DATE.strftime(match[2])), template)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Token ids that sampling starts from."""
    return _ids(tokenizer, render(tokenizer, prompt, system=system, options=options))


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    completion: str,
    max_length: int,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Example:
    """Tokens of an exchange, with weight 1 on the completion and its end-of-turn token.

    The mask is found by the template prefix: the rendering without completion must begin the
    rendering with it. Prompt and rest are tokenised apart, so no token spans the border.

    Args:
        tokenizer: carries the chat template.
        prompt: the user turn.
        completion: the assistant turn.
        max_length: context of the model (or less) in tokens.
        system: as in `render`.
        options: as in `render`.

    Raises:
        ValueError: no chat template, a template without such a prefix, or too long a sequence.
    """
    start = render(tokenizer, prompt, system=system, options=options)
    whole = render(tokenizer, prompt, completion=completion, system=system, options=options)
    if not whole.startswith(start):
        raise ValueError(
            "the chat template renders the prompt differently once a completion follows, so the "
            f"completion cannot be masked: {start[-60:]!r} is not in {whole!r}"
        )
    # A sampler stops at the end-of-turn token: white space after it is never generated.
    rest = whole[len(start) :]
    if rest.startswith(completion):
        rest = completion + rest[len(completion) :].rstrip()
    prompt_ids, rest_ids = _ids(tokenizer, start), _ids(tokenizer, rest)
    tokens = np.concatenate([prompt_ids, rest_ids])
    if len(tokens) > max_length:
        raise ValueError(
            f"a sequence of {len(tokens)} tokens exceeds the context of {max_length}: shorten or "
            f"drop the example that begins {prompt[:60]!r}"
        )
    weights = np.concatenate([np.zeros(len(prompt_ids)), np.ones(len(rest_ids))])
    return Example(tokens, weights.astype(np.float32))


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


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    # The template has written the special tokens, so the tokenizer must not add its own.
    return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
