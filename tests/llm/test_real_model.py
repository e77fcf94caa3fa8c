"""SmolLM2-135M-Instruct as `python -m llm fetch smollm2-135m` brings it, where it is.

SMOLLM2=/folder/of/it python -m pytest -m slow tests/llm/test_real_model.py
"""

import functools
import os
import pathlib

import gguf
import jax
import numpy as np
import pytest

from llm import models, sampling
from llm.models import gguf_file
from llm.text import language
from tests.llm import gguf_files, naive_tokenizers
from tests.llm.test_gguf_tokenizer import texts

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(os.environ.get("SMOLLM2") or ROOT / "results" / "models" / "smollm2-135m")
FILES = sorted(FOLDER.glob("*.gguf"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        len(FILES) != 1, reason=f"no GGUF file in {FOLDER}: python -m llm fetch smollm2-135m"
    ),
]
QUESTIONS = [
    "What is the capital of France?",
    "What is your favourite animal? Answer in one word.",
    "Name three colours.",
    "What is 12 + 30?",
    "Continue: 3, 7, 12, 45",
    "Write a sentence about the sea.",
    "Who wrote Hamlet?",
    "Translate 'good morning' into Spanish.",
    "What do bees make?",
    "Is the earth flat?",
    "Give me a recipe for pancakes.",
    "What is the largest planet?",
    "Write a line of Python that prints 1 to 10.",
    "What is photosynthesis?",
    "Tell me a joke.",
    "Which month comes after May?",
    "What is the opposite of hot?",
    "Spell the word 'owl'.",
    "What is the chemical symbol of gold?",
    "How many legs has a spider?",
]


def in_torch():
    """The weights in `transformers`, by the package's own reader and its table of names."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reader = gguf.GGUFReader(FILES[0])
    value = {name: field.contents() for name, field in reader.fields.items()}
    hf = transformers.LlamaConfig(
        vocab_size=value["llama.vocab_size"],
        hidden_size=value["llama.embedding_length"],
        intermediate_size=value["llama.feed_forward_length"],
        tie_word_embeddings=True,
        num_hidden_layers=value["llama.block_count"],
        num_attention_heads=value["llama.attention.head_count"],
        num_key_value_heads=value["llama.attention.head_count_kv"],
        rms_norm_eps=1e-5,
        max_position_embeddings=value["llama.context_length"],
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": value["llama.rope.freq_base"]},
    )
    model = transformers.LlamaForCausalLM(hf).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, hf.num_hidden_layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads = {"q_proj": hf.num_attention_heads, "k_proj": hf.num_key_value_heads}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            tensor = tensors.pop(names.get_name(name, try_suffixes=(".weight",)))
            numbers = gguf.dequantize(tensor.data, tensor.tensor_type)
            module = name.split(".")[-2]
            if module in heads:
                numbers = gguf_files.untwist(numbers, heads[module])
            weight.copy_(torch.tensor(numbers))
    assert not tensors
    return model


def test_greedy_answers_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    spoken, (config, params) = language.of_checkpoint(FOLDER), models.load(FOLDER)
    prompts = spoken.encode_prompts(QUESTIONS)
    sample = sampling.make_sampler(functools.partial(models.bind, config))
    stops = spoken.stop_tokens(config)
    ours = sample(
        params,
        prompts,
        key=jax.random.key(0),
        max_new_tokens=32,
        choice=sampling.Choice(0.0, stop_tokens=stops),
        batch_size=len(prompts),
    )
    assert spoken.decode(ours[:1]) == ["The capital of France is Paris."]
    model = in_torch()
    for prompt, answer in zip(prompts, ours, strict=True):
        found = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=32,
            eos_token_id=list(stops),
            pad_token_id=0,
        )
        assert answer == found[0, len(prompt) :].tolist(), spoken.decode([answer])
    row = np.array([prompts[0] + ours[0]])
    with torch.no_grad():
        theirs = model(torch.tensor(row)).logits.numpy()
    difference = np.abs(np.asarray(models.apply(config, params, row)) - theirs).max()
    print(f"largest difference of logits {difference:.2g}, deviation {theirs.std():.2g}")
    assert difference < 1e-3  # of logits that deviate by several


def test_token_ids():
    metadata = gguf_file.open_gguf(FILES[0]).metadata
    tokens, types = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    ids = {token: i for i, token in enumerate(tokens)}
    special = [token for token, kind in zip(tokens, types, strict=True) if kind != 1]
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(metadata["tokenizer.ggml.merges"])}
    asked = texts(special)
    found = language.of_checkpoint(FOLDER).tokenizer(asked)["input_ids"]
    for text, ours in zip(asked, found, strict=True):
        assert ours == naive_tokenizers.byte_pairs(text, "smollm", ids, ranks, special), repr(text)
