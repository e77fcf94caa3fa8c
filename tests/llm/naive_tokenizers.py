"""Tokenizers word by word and pair by pair, as their papers describe them; slow."""

import itertools
import unicodedata

import regex

_CONTRACTIONS = "'(?:[sdmt]|ll|ve|re)"
GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def words_of(pre: str, text: str) -> list[str]:
    """A text cut as the pre-tokenizer of that name cuts it."""
    if pre == "gpt-2":
        return regex.findall(GPT2, text)
    if pre == "smollm":  # digits alone, the rest as GPT-2
        return [
            w for part in regex.findall(r"\p{N}|\P{N}+", text) for w in regex.findall(GPT2, part)
        ]
    if pre == "qwen2":
        return regex.findall(QWEN2, unicodedata.normalize("NFC", text))
    return regex.findall(LLAMA3, text)


def characters() -> dict[int, str]:
    """The printable character that stands for each byte (GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {b: chr(256 + i) for i, b in enumerate(rest)}


def byte_pairs(
    text: str, pre: str, ids: dict[str, int], ranks: dict[tuple[str, str], int], special: list
) -> list[int]:
    """Token ids of a text by ranked merges over bytes."""
    byte = characters()
    found = []
    for part, is_special in _parts(text, special):
        if is_special:
            found.append(ids[part])
            continue
        for word in words_of(pre, part):
            pieces = [byte[b] for b in word.encode()]
            if pre == "llama-bpe" and "".join(pieces) in ids:  # whole words before merges
                pieces = ["".join(pieces)]
            while pairs := [p for p in itertools.pairwise(pieces) if p in ranks]:
                pieces = _joined(pieces, min(pairs, key=ranks.__getitem__))
            found += [ids[piece] for piece in pieces]
    return found


def scored_pairs(
    text: str, ids: dict[str, int], scores: list[float], special: list, defined: list
) -> list[int]:
    """Token ids by sentencepiece: the neighbours whose union scores best are joined first."""
    found = []
    for part, is_special in _parts(text, special):
        if is_special:
            found.append(ids[part])
            continue
        for piece, is_defined in _parts(part.replace(" ", "▁"), defined):
            if is_defined:
                found.append(ids[piece])
                continue
            pieces = list(piece)
            while True:
                unions = [a + b for a, b in itertools.pairwise(pieces)]
                known = [i for i, union in enumerate(unions) if union in ids]
                if not known:
                    break
                best = max(known, key=lambda i: (scores[ids[unions[i]]], -i))
                pieces[best : best + 2] = [unions[best]]
            for one in pieces:
                found += [ids[one]] if one in ids else [ids[f"<0x{b:02X}>"] for b in one.encode()]
    return found


def _parts(text: str, whole: list[str]) -> list[tuple[str, bool]]:
    """A text cut at the tokens that are never cut themselves, the longest first."""
    if not whole:
        return [(text, False)]
    pattern = "|".join(map(regex.escape, sorted(whole, key=len, reverse=True)))
    return [(part, part in whole) for part in regex.split(f"({pattern})", text) if part]


def _joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    found, i = [], 0
    while i < len(pieces):
        both = tuple(pieces[i : i + 2]) == pair
        found.append("".join(pair) if both else pieces[i])
        i += 2 if both else 1
    return found
