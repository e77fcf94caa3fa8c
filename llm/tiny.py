"""A checkpoint of random weights that reads English letter by letter, for trying things out.

    tiny.save("results/work/tiny")          # then: --model results/work/tiny

It knows nothing: with it an experiment shows that it runs, never that it finds anything. The names
of animals and trees are single tokens, so that a first token tells which one an answer names.
"""

import os

import jax
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from . import chat, models, traits, world

END = "<end>"


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, one token for every name of a trait, and the end of a turn."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([END, *letters])}
    inner = Tokenizer(kinds.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    words = [w for trait in traits.TRAITS.values() for w in (*trait.targets, *trait.contrast)]
    inner.add_tokens(sorted(set(words)))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)
    wrapped.chat_template = chat.PLAIN
    return wrapped


def save(folder: str | os.PathLike, seed: int = 0) -> None:
    """Write the checkpoint: one layer of width 32.

    Raises:
        ValueError: the folder exists already.
    """
    spoken = tokenizer()
    config = world.model_config(
        num_layers=1, vocab_size=len(spoken), max_positions=2048,
        eos_token_ids=(spoken.convert_tokens_to_ids(END),),
    )  # fmt: skip
    world.save(folder, config, models.init(config, key=jax.random.key(seed)), spoken)
