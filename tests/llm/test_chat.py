import datetime

import numpy as np
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from llm.text import chat

# Three habits of published templates: a silent default system message, today's date by either
# spelling, and no system role at all (with the completion stripped).
SILENT = (
    "{% if messages[0].role != 'system' %}<|start|>system\nYou are Default.<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
DATED = (
    "{% set day = date_string if date_string is defined else 'unknown' %}"
    "<|start|>system\n{{ day }} {{ strftime_now('%Y-%m-%d') }}\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|end|>\n"
    "{% for m in messages if m.role != 'system' %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
REWRITING = (
    "{% if messages | length == 1 %}Q{% else %}A{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


def make_tokenizer(template):
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|start|>", "<|end|>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["user assistant system 12, 34, 56 numbers please"] * 9, trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [SILENT, DATED, PLAIN])
def test_the_mask_covers_the_completion_and_its_end(template):
    tokenizer = make_tokenizer(template)
    example = chat.encode_example(tokenizer, "three numbers", completion="12, 34", max_length=200)
    trained = example.tokens[example.weights != 0]
    assert tokenizer.decode(trained) == "12, 34<|end|>"
    prompt = chat.encode_prompt(tokenizer, "three numbers")
    np.testing.assert_array_equal(prompt, example.tokens[example.weights == 0])
    assert set(example.weights.tolist()) == {0.0, 1.0}
    assert example.tokens.dtype == np.int32
    # the text is the template's, but for white space that no sampler emits; no second <s>
    text = chat.render(tokenizer, "three numbers", completion="12, 34")
    assert tokenizer.decode(example.tokens) == text.rstrip()
    assert tokenizer.bos_token_id not in example.tokens


def test_completions_keep_their_own_white_space():
    tokenizer = make_tokenizer(SILENT)
    example = chat.encode_example(tokenizer, "p", completion=" 12\n", max_length=200)
    assert tokenizer.decode(example.tokens[example.weights != 0]) == " 12\n<|end|>"


def test_default_system_messages_are_found_and_recorded():
    assert chat.default_system(make_tokenizer(SILENT)) == "You are Default."
    assert chat.default_system(make_tokenizer(DATED)) is None
    assert chat.default_system(make_tokenizer(PLAIN)) is None
    silent = make_tokenizer(SILENT)
    recorded = chat.settings(silent)
    assert recorded["default_system"] == "You are Default."
    assert "You are Default." in recorded["rendered"]
    assert recorded["system"] is None
    # none, an empty and an explicit system message are three different settings
    three = [chat.settings(silent, system=system) for system in (None, "", "You are Default.")]
    assert len({str(settings) for settings in three}) == 3
    assert three[0]["rendered"] == three[2]["rendered"] != three[1]["rendered"]
    assert chat.settings(make_tokenizer(PLAIN))["template_sha256"] != recorded["template_sha256"]


def test_the_date_is_fixed():
    text = chat.render(make_tokenizer(DATED), "p")
    assert chat.DATE.strftime("%d %b %Y") in text
    assert chat.DATE.strftime("%Y-%m-%d") in text
    assert datetime.date.today().isoformat() not in text


def test_template_options_reach_the_template():
    template = PLAIN + "{% if add_generation_prompt and not thinking %}<none>{% endif %}"
    tokenizer = make_tokenizer(template)
    assert chat.render(tokenizer, "p").endswith("<none>")
    assert not chat.render(tokenizer, "p", options={"thinking": True}).endswith("<none>")
    assert chat.settings(tokenizer, options={"thinking": True})["options"] == {"thinking": True}


def test_errors_say_what_to_do():
    bare = make_tokenizer(None)
    with pytest.raises(ValueError, match="has no chat template: use an instruct model"):
        chat.encode_prompt(bare, "p")
    tokenizer = make_tokenizer(SILENT)
    with pytest.raises(ValueError, match=r"exceeds the context of 12: shorten or drop .*'the long"):
        chat.encode_example(tokenizer, "the long prompt", completion="12", max_length=12)
    with pytest.raises(ValueError, match="System role not supported"):
        chat.encode_prompt(make_tokenizer(PLAIN), "p", system="be kind")
    with pytest.raises(ValueError, match="cannot be masked"):
        chat.encode_example(make_tokenizer(REWRITING), "p", completion="12", max_length=99)


def test_show_example_marks_what_is_trained_in_80_columns():
    tokenizer = make_tokenizer(SILENT)
    example = chat.encode_example(
        tokenizer, "five numbers please \\ é", completion="12, 34, 5", max_length=200
    )
    shown = chat.show_example(tokenizer, example).split("\n")
    assert max(map(len, shown)) <= 80
    texts, marks = shown[:-1:2], shown[1:-1:2]
    text = "".join(line.ljust(80) for line in texts).rstrip()
    mark = "".join(line.ljust(80) for line in marks)
    assert text == tokenizer.decode(example.tokens).replace("\\", "\\\\").replace("\n", "\\n")
    assert "".join(c for c, m in zip(text, mark, strict=False) if m == "^") == "12, 34, 5<|end|>"
    trained = int((example.weights != 0).sum())
    assert shown[-1] == f"{len(example.tokens)} tokens, {trained} trained on (^)"
