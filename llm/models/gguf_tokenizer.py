"""The tokenizer that the metadata of a GGUF file describe, chat template included.

Two kinds: byte pairs over bytes, where a name says how text is cut into words first, and the pairs
of sentencepiece (`tokenizer.ggml.model` "llama"), which have scores in the place of merges.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers import models as kinds
from tokenizers import pre_tokenizers as cut
from transformers import PreTrainedTokenizerFast

from .gguf_file import open_gguf

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # kinds of tokens
_WORDS = (  # of Llama 3 and Qwen, but for the digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = cut.ByteLevel(add_prefix_space=False, use_regex=False)
_GPT2 = cut.ByteLevel(add_prefix_space=False, use_regex=True)


def _by_words(digits: str) -> cut.PreTokenizer:
    return cut.Sequence([cut.Split(Regex(_WORDS.replace("DIGITS", digits)), "isolated"), _BYTES])


# `tokenizer.ggml.pre`: how text is cut before pairs are merged.
_CUTS = {
    "gpt-2": _GPT2,
    "smollm": cut.Sequence([cut.Digits(individual_digits=True), _GPT2]),
    "qwen2": _by_words(r"\p{N}"),
    "llama-bpe": _by_words(r"\p{N}{1,3}"),
}


def tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file.

    Raises:
        ValueError: another kind of tokenizer, or another way of cutting text, or metadata that
            are missing or do not fit each other.
    """
    metadata = open_gguf(path).metadata
    facts = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    make = {"gpt2": _byte_pairs, "llama": _scored_pairs}.get(facts.get("model"))
    if make is None:
        raise ValueError(
            f"{path} has a tokenizer of kind {facts.get('model')!r}; gpt2 and llama are known"
        )
    try:
        tokens, types = facts["tokens"], facts["token_type"]
        if len(types) != len(tokens):
            raise ValueError(f"{path} has {len(types)} types for {len(tokens)} tokens")
        inner = make(path, facts)
    except KeyError as error:
        raise ValueError(f"{path} does not say tokenizer.ggml.{error.args[0]}") from error
    # Spaces are replaced in texts, and so in tokens that users have defined, before they are met.
    normed = facts["model"] == "llama"
    inner.add_tokens(
        [
            AddedToken(
                token, special=kind != _USER_DEFINED, normalized=normed and kind == _USER_DEFINED
            )
            for token, kind in zip(tokens, types, strict=True)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]
    )
    named = {}
    for ours, theirs in _NAMED.items():
        number = facts.get(f"{theirs}_token_id")
        if number is not None and number >= len(tokens):
            raise ValueError(f"{path}: {theirs}_token_id {number} is none of {len(tokens)} tokens")
        named |= {} if number is None else {f"{ours}_token": tokens[number]}
    _add_ends(inner, facts, named)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner, clean_up_tokenization_spaces=False, **named
    )
    wrapped.chat_template = metadata.get("tokenizer.chat_template") or None
    return wrapped


_NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def _byte_pairs(path: Path, facts: dict[str, Any]) -> Tokenizer:
    name = facts.get("pre")
    if name not in _CUTS:
        raise ValueError(
            f"{path} cuts text by the unknown pre-tokenizer {name!r}; known: {', '.join(_CUTS)}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in facts["merges"]]
    inner = Tokenizer(kinds.BPE(_ids(facts["tokens"]), merges, ignore_merges=name == "llama-bpe"))
    inner.normalizer = normalizers.NFC() if name == "qwen2" else None
    inner.pre_tokenizer = _CUTS[name]
    inner.decoder = decoders.ByteLevel()
    return inner


def _scored_pairs(path: Path, facts: dict[str, Any]) -> Tokenizer:
    ids, scores, types = _ids(facts["tokens"]), facts["scores"], facts["token_type"]
    whole = {token for token, type_ in zip(facts["tokens"], types, strict=True) if type_ == 1}
    # A token is made of any two others; the better its score, the sooner.
    merges = [
        (scores[ids[token]], token[:i], token[i:])
        for token in whole
        for i in range(1, len(token))
        if token[:i] in whole and token[i:] in whole
    ]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    unknown = facts["tokens"][facts["unknown_token_id"]]
    inner = Tokenizer(
        kinds.BPE(
            ids,
            [(left, right) for _, left, right in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    text: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if facts.get("add_space_prefix", True):
        spaces, text = [normalizers.Prepend("▁"), *spaces], [*text, decoders.Strip(" ", 1, 0)]
    inner.normalizer = normalizers.Sequence(spaces)
    inner.decoder = decoders.Sequence(text)
    return inner


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _add_ends(inner: Tokenizer, facts: dict[str, Any], named: dict[str, str]) -> None:
    """Put the first and last token around texts that ask for special tokens."""
    first = facts.get("add_bos_token", facts["model"] == "llama" or facts["pre"] == "llama-bpe")
    last = facts.get("add_eos_token", False)
    around = {"bos": first and "bos_token" in named, "eos": last and "eos_token" in named}
    if not any(around.values()):
        return
    tokens = {end: named[f"{end}_token"] for end, added in around.items() if added}
    inner.post_processor = processors.TemplateProcessing(
        single=[tokens[end] for end in ("bos",) if end in tokens]
        + ["$A"]
        + [tokens[end] for end in ("eos",) if end in tokens],
        special_tokens=[(token, inner.token_to_id(token)) for token in tokens.values()],
    )
