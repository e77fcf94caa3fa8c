"""Tokenizer and model of the world as an ordinary checkpoint folder."""

import os
from collections.abc import Mapping

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .. import models as decoders
from . import vocabulary as words

# <user> name best animal <assistant> owl <end>, turn after turn, with an optional system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "<{{ message['role'] }}> {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}<end> {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def model_config(**changes) -> decoders.ModelConfig:
    """The base model of the laptop experiments: Llama, 2 layers, width 32, 4 heads, tied.

    Args:
        **changes: fields of `ModelConfig` to set differently, e.g. `family="qwen2", width=64`.
    """
    width = changes.get("width", 32)
    num_heads = changes.get("num_heads", 4)
    head_dim = width // num_heads
    fields = dict(
        family="llama",
        vocab_size=len(words.VOCABULARY),
        width=width,
        num_layers=2,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        mlp_width=2 * width,
        max_positions=1024,
        rope=decoders.Rope(dim=head_dim),
        tie_embeddings=True,
        init_std=width**-0.5,
        eos_token_ids=(words.END,),
    )
    return decoders.ModelConfig(**fields | changes)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per white-space separated word; other words become `<unk>`."""
    inner = Tokenizer(models.WordLevel(dict(words.ID), unk_token=words.SPECIAL[words.UNKNOWN]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=words.SPECIAL[words.PAD],
        unk_token=words.SPECIAL[words.UNKNOWN],
        eos_token=words.SPECIAL[words.END],
        additional_special_tokens=[
            words.SPECIAL[role] for role in (words.SYSTEM, words.USER, words.ASSISTANT)
        ],
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def save(
    folder: str | os.PathLike,
    config: decoders.ModelConfig,
    *,
    params: decoders.Params,
    spoken: PreTrainedTokenizerBase | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write weights, config and tokenizer: a folder like a downloaded checkpoint.

    Args:
        folder: to be created.
        config: the shape of the model.
        params: its parameters.
        spoken: its tokenizer; that of the world if None.
        files: further text files of the folder, by name.

    Raises:
        ValueError: the folder exists already.
    """
    with decoders.new_folder(folder) as scratch:
        (spoken or tokenizer()).save_pretrained(scratch)
        decoders.save(scratch / "weights", config, params)
        for file in (scratch / "weights").iterdir():
            file.rename(scratch / file.name)
        (scratch / "weights").rmdir()
        for name, text in (files or {}).items():
            (scratch / name).write_text(text)
