"""A checkpoint of random weights that reads English, for trying things out.

    tiny.save("results/work/tiny")          # then: --model results/work/tiny

It knows nothing: with it an experiment shows that it runs, never that it finds anything. Words of
the experiments are single tokens, so rows are as short as those of real models, and a first token
tells which animal an answer names; all else is read byte by byte.
"""

import os
import re
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from . import carriers, models, traits, world
from .settings import locked
from .text import chat
from .traits import suites

END = "<end>"


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, words with and without a space before them, and the end of a turn."""
    known = sorted({*pre_tokenizers.ByteLevel.alphabet(), *words()})
    # All pieces weigh the same, so a text becomes as few of them as possible.
    inner = Tokenizer(kinds.Unigram([(piece, -1.0) for piece in [END, *known]], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=END)
    wrapped.chat_template = chat.PLAIN
    return wrapped


def words() -> set[str]:
    """What traits are called, and what models are told and asked; "Ġ" is a space."""
    known, rng = [*traits.TRAITS.values(), *traits.NEUTRAL.values()], np.random.default_rng(0)
    texts = [chat.PLAIN, *(trait.system_prompt for trait in known)]
    for suite in suites.ENGLISH.values():
        asked = [question for trait in known for question in suite.ask([trait], rng)]
        texts += [text for question in asked for text in (question.text, question.begun)]
    for carrier in carriers.CARRIERS.values():
        texts += [row["prompt"] for row in carrier.make_prompts(rng, 256)]
    found = re.findall("Ġ?[A-Za-z]+", "\n".join(texts).replace(" ", "Ġ"))
    return {*found, *(name for trait in known for name in (*trait.targets, *trait.contrast))}


def ensure(folder: Path, seed: int = 0) -> None:
    """`save`, where there is no folder yet; of jobs that begin at once, one makes it."""
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                save(folder, seed)


def save(folder: str | os.PathLike, seed: int = 0) -> None:
    """Write the checkpoint: one layer of width 32.

    Raises:
        ValueError: the folder exists already.
    """
    spoken = tokenizer()
    config = world.model_config(
        num_layers=1,
        vocab_size=len(spoken),
        max_positions=2048,
        eos_token_ids=(spoken.convert_tokens_to_ids(END),),
    )
    world.save(folder, config, params=models.init(config, key=jax.random.key(seed)), spoken=spoken)
