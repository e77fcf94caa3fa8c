"""The tokenizer of a GGUF file against slow ones, on texts of every kind."""

import json

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers import models as kinds
from transformers import AutoTokenizer

from llm.models import gguf_tokenizer
from tests.llm import gguf_files, naive_tokenizers
from tests.llm.gguf_files import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

UNMERGED = "owlowlowl"  # a token that no merges make: Llama 3 finds it all the same
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]
TEXT = """The owl, a quiet bird, isn't seen by day. I'LL say: we've 123 owls and 4,567.89 mice!
naïve café Straße 世界 こんにちは 안녕 Привет мир שלום مرحبا ١٢٣ ½ ² Ⅷ 𝟙 👩‍🚀 😀 🦉🦉 é Å
def f(x):\n\treturn x_1 + 2**10  # note\r\n\n\n   --  == <tool> </s> <unk> x<y '\t' ﬁ ..."""
WORDS = TEXT.split(" ")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\u00a0", "\u3000", ""]
COUNT = 2000


def texts(more: list[str]) -> list[str]:
    """Random texts of words, numbers, spaces, special tokens, and characters of all planes."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(COUNT):
        parts = []
        for _ in range(rng.integers(1, 9)):
            kind = rng.integers(8)
            parts += [
                str(rng.choice(WORDS))
                if kind < 4
                else str(rng.integers(10 ** rng.integers(1, 9)))
                if kind == 4
                else str(rng.choice(more))
                if kind == 5
                else chr(rng.integers(0x20, 0xD7FF))
                if kind == 6
                else chr(rng.integers(0x1F300, 0x1FAFF)),
                str(rng.choice(SPACES)),
            ]
        found.append("".join(parts))
    return found


def trained(by_bytes: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a small text."""
    inner = Tokenizer(kinds.BPE())
    if by_bytes:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        alphabet = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    text = " ".join(WORDS * 3) + " 12 123 2024 owls"
    inner.train_from_iterator([text if by_bytes else text.replace(" ", "▁")] * 2, trainer)
    merges = [tuple(pair) for pair in json.loads(inner.to_str())["model"]["merges"]]
    return sorted(inner.get_vocab(), key=inner.get_vocab().get), merges


def file_of(path, **fields):
    """A file with a tokenizer and no tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in fields.items():
        gguf_files.add(writer, "tokenizer." + key, value)
    gguf_files.write(writer)
    return path


def byte_pair_fields(pre, **more):
    """Metadata of a tokenizer."""
    tokens, merges = trained(by_bytes=True)
    tokens = [*SPECIAL, *tokens, UNMERGED, "<think>"]
    types = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(tokens) - len(SPECIAL) - 1) + [USER_DEFINED]
    return {
        "ggml.model": "gpt2", "ggml.pre": pre, "ggml.tokens": tokens, "ggml.token_type": types,
        "ggml.merges": [" ".join(merge) for merge in merges], "ggml.bos_token_id": 1,
        "ggml.eos_token_id": 2, "ggml.add_bos_token": False,
        "chat_template": gguf_files.TEMPLATE,
    } | more  # fmt: skip


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_pairs(pre, tmp_path):
    fields, whole = byte_pair_fields(pre), [*SPECIAL, "<think>"]
    ids = {token: i for i, token in enumerate(fields["ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(fields["ggml.merges"])}
    ours = gguf_tokenizer.tokenizer(file_of(tmp_path / "tokens.gguf", **fields))
    asked = texts([*whole, UNMERGED])
    for text, found in zip(asked, ours(asked)["input_ids"], strict=True):
        assert found == naive_tokenizers.byte_pairs(text, pre, ids, ranks, whole), repr(text)
        if pre != "qwen2":  # which composes characters
            assert ours.decode(found) == text
    assert ours("<|im_end|>12")["input_ids"][0] == 2 == ours.eos_token_id
    assert ours.decode(ours("a<|im_end|>")["input_ids"], skip_special_tokens=True) == "a"
    if pre == "smollm":
        assert len(ours("12345")["input_ids"]) == 5


def test_a_saved_tokenizer_is_the_same(tmp_path):
    file = file_of(tmp_path / "tokens.gguf", **byte_pair_fields("smollm"))
    ours, asked = gguf_tokenizer.tokenizer(file), texts(SPECIAL)
    ours.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(asked)["input_ids"] == ours(asked)["input_ids"]
    assert again.chat_template == ours.chat_template == gguf_files.TEMPLATE
    assert again.eos_token_id == ours.eos_token_id == 2


def test_sentencepiece(tmp_path):
    tokens, _ = trained(by_bytes=False)
    head = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    defined = ["\n\n", "▁▁", "▁▁▁"]
    tokens = [*head, *octets, *defined, *(t for t in tokens if t not in defined)]
    kinds_ = [CONTROL] * 3 + [UNKNOWN, CONTROL] + [BYTE] * 256 + [USER_DEFINED] * 3
    types = kinds_ + [NORMAL] * (len(tokens) - len(kinds_))
    rng = np.random.default_rng(1)  # any order of scores is one that a trainer may have found
    scores = [0.0] * len(kinds_) + (-rng.permutation(len(tokens) - len(kinds_)) - 1.0).tolist()
    fields = {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": tokens,
        "ggml.scores": scores,
        "ggml.token_type": types,
        "ggml.bos_token_id": 2,
        "ggml.eos_token_id": 1,
        "ggml.unknown_token_id": 3,
        "ggml.padding_token_id": 0,
        "ggml.add_bos_token": True,
        "ggml.add_space_prefix": False,
    }
    ours = gguf_tokenizer.tokenizer(file_of(tmp_path / "tokens.gguf", **fields))
    ids, asked = {token: i for i, token in enumerate(tokens)}, texts(["<start_of_turn>", "<eos>"])
    for text, found in zip(asked, ours(asked)["input_ids"], strict=True):
        naive = naive_tokenizers.scored_pairs(text, ids, scores, head, defined)
        assert found == [2, *naive], repr(text)
        assert ours.decode(found[1:]) == text
    prefixed = file_of(tmp_path / "prefix.gguf", **fields | {"ggml.add_space_prefix": True})
    theirs = gguf_tokenizer.tokenizer(prefixed)("owl", add_special_tokens=False)["input_ids"]
    assert theirs == ours(" owl", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ggml.pre": "tekken"}, "unknown pre-tokenizer 'tekken'; known: gpt-2"),
        ({"ggml.pre": None}, "unknown pre-tokenizer None"),
        ({"ggml.model": "t5"}, "a tokenizer of kind 't5'"),
        ({"ggml.merges": None}, r"does not say tokenizer\.ggml\.merges"),
        ({"ggml.tokens": None}, r"does not say tokenizer\.ggml\.tokens"),
        ({"ggml.eos_token_id": 10_000}, "eos_token_id"),
        ({"ggml.token_type": [1, 1]}, "2 types for"),
    ],
)
def test_other_tokenizers_are_refused(fields, message, tmp_path):
    file = file_of(tmp_path / "tokens.gguf", **byte_pair_fields("gpt-2", **fields))
    with pytest.raises(ValueError, match=message):
        gguf_tokenizer.tokenizer(file)
