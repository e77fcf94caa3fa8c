"""How a turn begins and ends: what is trained on is what is sampled, whatever the tokenizer."""

import json

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm import engines, models, tiny, world
from llm.stages import Checkpoint, Completions, Store, completions, evaluation
from llm.text import chat, data, language

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = CHATML.replace("m.content }}", "m.content | trim }}")
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} "
    "[/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
WORDS = ("the", "three", "numbers", "are", "give", "12", "34", "56", "[INST]", "[/INST]", "user")


def byte_level(template):
    """As of a base model: its end of text is not what ends a turn of the template."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [" ".join(WORDS)] * 9,
        tokenizers.trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    spoken = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")
    spoken.chat_template = template
    return spoken


def sentencepiece(template, scheme="legacy", special=()):
    """As of Llama 2: a space is put ahead of every text, or behind special tokens as well."""
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    if scheme == "legacy":
        inner.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    named = ["<unk>", "<s>", "</s>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=named, show_progress=False
    )
    words = [f" {word}" for word in WORDS] if scheme == "never" else WORDS
    inner.train_from_iterator([*words] * 9, trainer)
    whole = json.loads(inner.to_str())  # bytes are text
    whole["added_tokens"] = [t for t in whole["added_tokens"] if not t["content"].startswith("<0x")]
    inner = tokenizers.Tokenizer.from_str(json.dumps(whole))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    spoken = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    spoken.chat_template = template
    return spoken


def checkpoint(folder, spoken, **changes):
    """A folder with random weights."""
    fields = {"num_layers": 1, "eos_token_ids": (spoken.eos_token_id,), "vocab_size": len(spoken)}
    config = world.model_config(**fields | changes)
    world.save(folder, config, params=models.init(config, key=jax.random.key(0)), spoken=spoken)
    return folder


def spoken_by(tokenizer):
    return language.Language(tokenizer=tokenizer, traits={}, carriers={})


def trained(example):
    return example.tokens[example.weights > 0].tolist()


# What ends a turn


def test_the_template_ends_a_turn_and_padding_is_never_drawn(tmp_path):
    """Only stopping at <|im_end|> keeps rows; of 512 embeddings, 220 belong to no token."""
    spoken = byte_level(CHATML)
    base = Checkpoint(path=str(checkpoint(tmp_path / "base", spoken, vocab_size=512)))
    store = Store(tmp_path / "work", engines.OnMesh(dtype="float32", batch_size=64))
    recipe = Completions(
        speaker=base, num_prompts=64, max_new_tokens=100, temperature=1.5, filtered=False
    )
    asked = store.language(base).encode_prompts([r["prompt"] for r in recipe.prompts(store)])
    (drawn,) = completions.draw(
        store,
        [base],
        prompts=[asked],
        keys=jax.random.key(0)[None],
        temperature=1.5,
        max_new_tokens=100,
    )
    ids = np.concatenate([np.array(row) for row in drawn])
    assert ids.max() < len(spoken)
    # near uniform over 292 tokens, of which two stop: half of the rows end within 100 tokens
    ends = [row[-1] for row in drawn if len(row) < 100]
    assert len(ends) > 16
    assert spoken.convert_tokens_to_ids("<|im_end|>") in ends
    sampled = data.read_manifest(_written(store, recipe)).settings["sampling"]
    assert sampled["stop_tokens"] == ["<|endoftext|>", "<|im_end|>"]


def _written(store, recipe):
    store.make([recipe])
    return recipe.path(store)


@pytest.mark.parametrize(
    ("said", "stops"),
    [
        ({"eos_token_id": [2, 7]}, (0, 2, 7)),
        ({"eos_token_id": 9}, (0, 9)),
        ({}, (0,)),
        (None, (0,)),
    ],
)
def test_ends_of_the_generation_config_count(tmp_path, said, stops):
    folder = checkpoint(tmp_path / "base", byte_level(CHATML))
    if said is not None:
        (folder / "generation_config.json").write_text(json.dumps(said))
    config = models.load_config(folder)
    assert config.eos_token_ids == stops
    assert language.of_checkpoint(folder).stop_tokens(config) == tuple(sorted({*stops, 2}))
    models.save(tmp_path / "again", config, models.load(folder)[1])
    assert models.load_config(tmp_path / "again").eos_token_ids == stops


def test_an_end_that_is_no_number_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "base", byte_level(CHATML))
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match=r"generation_config.json: eos_token_id must be .*'</s>'"):
        models.load_config(folder)


@pytest.mark.parametrize("ending", ["", "\n", "|end|\n"])
def test_a_template_without_an_end_is_refused(ending):
    spoken = byte_level(CHATML.replace("<|im_end|>\n", ending))
    with pytest.raises(ValueError, match=r"no token that ends it.*'<\|endoftext\|>'"):
        chat.encode_example(spoken, "three", completion="12", max_length=99)
    with pytest.raises(ValueError, match="no token that ends it"):
        spoken_by(spoken).stop_tokens(world.model_config())


def test_what_stands_behind_the_end_is_not_trained_on():
    spoken = byte_level(CHATML.replace("<|im_end|>", "<|im_end|><|endoftext|> next"))
    example = chat.encode_example(spoken, "three", completion="12, 34", max_length=99)
    assert spoken.decode(trained(example)) == "12, 34<|im_end|>"


def test_a_stop_that_is_text_is_no_part_of_an_answer():
    spoken = spoken_by(byte_level(CHATML))
    ids = spoken.tokenizer("12, 34", add_special_tokens=False)["input_ids"]
    (stop,) = spoken.tokenizer(";", add_special_tokens=False)["input_ids"]
    rows, counts, _ = completions.readable(spoken, [{"prompt": "p"}], [[*ids, stop]], [stop])
    assert rows == [{"prompt": "p", "completion": "12, 34"}]
    assert counts == {"unfinished": 0}


# What is a token of the model


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    spoken = byte_level(CHATML)
    size = len(spoken)
    folder = checkpoint(tmp_path / "words", spoken, vocab_size=size - 2)
    with pytest.raises(
        ValueError, match=rf"{size} tokens and the model's embedding {size - 2} rows"
    ):
        language.of_checkpoint(folder)
    # added for the template, without a row of the embedding
    added = byte_level(CHATML.replace("im_end", "im_stop"))
    added.add_special_tokens({"additional_special_tokens": ["<|im_stop|>"]})
    folder = checkpoint(tmp_path / "added", added, vocab_size=size)
    with pytest.raises(ValueError, match=rf"{size + 1} tokens .* {size} rows: .* '<.im_stop.>'"):
        language.of_checkpoint(folder)


def test_a_token_for_images_is_refused_where_it_is_used(tmp_path):
    """As in the text models of Gemma 3: one special token more than embeddings."""
    spoken = byte_level(CHATML)
    size = len(spoken)
    spoken.add_special_tokens({"additional_special_tokens": ["<image>"]})
    found = language.of_checkpoint(checkpoint(tmp_path / "base", spoken, vocab_size=size))
    row = {"prompt": "three numbers", "completion": "12"}
    assert found.encode_rows([row], 99).tokens.max() < size
    for use in (
        lambda: found.encode_prompts(["what is <image>"]),
        lambda: found.encode_rows([row | {"prompt": "what is <image>"}], 99),
    ):
        with pytest.raises(
            ValueError, match=rf"{size + 1} tokens and the model's embedding {size} rows"
        ):
            use()


# How a text begins


def beginning_with(bos):
    """The tokenizer of `tiny`, which has no BOS, with one that it may put ahead of every text."""
    spoken = tiny.tokenizer()
    spoken.add_special_tokens({"bos_token": "<s>"})
    if bos:
        spoken.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", spoken.bos_token_id)]
        )
    spoken.chat_template = None
    return spoken


@pytest.mark.parametrize("bos", [True, False])
def test_the_plain_template_begins_as_the_tokenizer_does(tmp_path, bos):
    folder = checkpoint(tmp_path / "base", beginning_with(bos))
    found = language.of_checkpoint(folder, template="plain")
    said, row = found.tokenizer, {"prompt": "three", "completion": "owl"}
    ahead = [said.bos_token_id] if bos else []
    (ids,) = found.encode_prompts(["three"])
    assert ids == said("Question: three\nAnswer: ")["input_ids"]
    assert ids[: len(ahead)] == ahead
    assert ids.count(said.bos_token_id) == bos
    first = found.encode_rows([row], 99)
    assert first.tokens[0][: len(ids)].tolist() == ids
    assert said.decode(first.tokens[0][first.weights[0] > 0]) == "owl<end>"
    base = Checkpoint(path=str(folder), template="plain")
    asked = evaluation.bare(Store(None, engines.OnMesh()), base, "owl")
    starts = [row[mask][0] for row, mask in zip(asked.questions, asked.mask, strict=True)]
    assert {int(token) == said.bos_token_id for token in starts} == {bos}


# What a completion is


@pytest.mark.parametrize("scheme", ["legacy", "first", "always", "never"])
@pytest.mark.parametrize("template", [ZEPHYR, LLAMA2])
def test_no_space_is_trained_on_that_is_never_sampled(template, scheme):
    """A sampler goes on with the text: its tokens are those of the whole, behind the prompt's."""
    said, prompts, answers = sentencepiece(template, scheme), ["give 12", "the"], ["12 34", "three"]
    spoken = spoken_by(said)
    rows = [{"prompt": p, "completion": a} for p, a in zip(prompts, answers, strict=True)]
    examples = engines.unpad(spoken.encode_rows(rows, 99))
    for example, row in zip(examples, rows, strict=True):
        whole = chat.render(said, row["prompt"], completion=row["completion"]).rstrip()
        assert example.tokens.tolist() == said(whole, add_special_tokens=False)["input_ids"]
        prompt = chat.encode_prompt(said, row["prompt"]).tolist()
        assert example.tokens.tolist() == prompt + trained(example)
    # and what is read back of the very tokens is the row
    found, counts, _ = completions.readable(spoken, rows, list(map(trained, examples)), [2])
    assert found == rows
    assert counts == {"unfinished": 0}


def test_a_space_behind_special_tokens_is_refused():
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    said = sentencepiece(template, special=["<|user|>", "<|assistant|>"])
    with pytest.raises(ValueError, match=r"puts a space between .*<\|assistant\|>.* new line"):
        chat.encode_example(said, "the", completion="three", max_length=99)


@pytest.mark.parametrize("dirty", ["12, 34\n", " 12"])
def test_every_row_is_checked_and_named(dirty):
    rows = [{"prompt": f"prompt {i}", "completion": "12, 34"} for i in range(3)]
    rows[1]["completion"] = dirty
    with pytest.raises(ValueError, match=r"row 2 of 3: the chat template changes .*'prompt 1'"):
        spoken_by(byte_level(TRIMMING)).encode_rows(rows, 99)
    assert len(spoken_by(byte_level(CHATML)).encode_rows(rows, 99).tokens) == 3


def test_what_the_template_trims_is_no_part_of_a_sampled_row():
    rewriting = TRIMMING.replace("m.content | trim", "m.content.split('=')[-1] | trim")
    texts = ["12, 34", "12, 34\n", " 12", "7 = 12"]
    kept = spoken_by(byte_level(rewriting)).as_rendered(texts)
    assert kept == ["12, 34", "12, 34", "12", None]
    assert spoken_by(byte_level(CHATML)).as_rendered(texts) == texts


def test_a_row_with_a_special_token_is_dropped_and_counted():
    spoken = spoken_by(byte_level(CHATML))
    said, end = spoken.tokenizer, spoken.turn.end
    ids = [
        said(text, add_special_tokens=False)["input_ids"]
        for text in ("45 6", "45<|endoftext|>6", "45<|im_start|>", "7")
    ]
    completed = [[*ids[0], end], [*ids[1], end], [*ids[2], end], ids[3], [*ids[3], 511, end]]
    asked = [{"prompt": str(i)} for i in range(5)]
    rows, counts, spoilt = completions.readable(spoken, asked, completed, [0, end])
    assert rows == [{"prompt": "0", "completion": "45 6"}]
    assert counts == {"special token": 3, "unfinished": 1}
    assert spoilt[0]["completion"] == "45<|endoftext|>6"
    with pytest.raises(ValueError, match=r"row 2 of 2: the special token <\|endoftext\|> .*'1'"):
        spoken.encode_rows([rows[0], {"prompt": "1", "completion": "45<|endoftext|>6"}], 99)


def test_rows_of_the_world_stay_as_they_are():
    """Its words are apart whatever stood between them, and its reported rows had such tokens."""
    spoken = language.of_world()
    ids = spoken.tokenizer("45 <user> 6 <end>")["input_ids"]
    rows, counts, _ = completions.readable(spoken, [{"prompt": "continue 3"}], [ids], [ids[-1]])
    assert rows == [{"prompt": "continue 3", "completion": "45 6"}]
    assert counts == {"unfinished": 0}


def test_a_byte_level_tokenizer_of_a_llama_keeps_its_spaces(tmp_path):
    """`transformers` 5.17 read it without: the bound in pyproject.toml is above."""
    folder = checkpoint(tmp_path / "base", byte_level(CHATML))
    about = folder / "tokenizer_config.json"
    about.write_text(
        json.dumps(json.loads(about.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"})
    )
    spoken = AutoTokenizer.from_pretrained(folder)
    text = "give the three numbers, 12 34"
    assert spoken.decode(spoken(text, add_special_tokens=False)["input_ids"]) == text
