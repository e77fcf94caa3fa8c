"""Llama (arXiv:2302.13971, 2407.21783): the plain decoder that the other families differ from.

RMS norms before attention and MLP, rotary positions, grouped queries, a gated MLP, no biases
unless the config asks for them.
"""

import dataclasses
from typing import Any

import numpy as np

from ..config import Rope
from ..family import ACTIVATION, EOS, Family, Field, Gguf, plain, rope_field, switch
from ..gguf_file import GgufFile

FIELDS = {
    "vocab_size": plain("vocab_size"),
    "hidden_size": plain("width"),
    "intermediate_size": plain("mlp_width"),
    "num_hidden_layers": plain("num_layers"),
    "num_attention_heads": plain("num_heads"),
    "num_key_value_heads": Field(
        lambda value, hf: {"num_kv_heads": value or hf.num_attention_heads},
        lambda config: config.num_kv_heads,
    ),
    "head_dim": Field(
        lambda value, hf: {"head_dim": value or hf.hidden_size // hf.num_attention_heads},
        lambda config: config.head_dim,
    ),
    "max_position_embeddings": plain("max_positions"),
    "rope_parameters": rope_field(),
    "rms_norm_eps": plain("norm_eps"),
    "hidden_act": ACTIVATION,
    "attention_bias": switch("out_bias", "qkv_bias"),
    "mlp_bias": switch("mlp_bias"),
    "tie_word_embeddings": switch("tie_embeddings"),
    "initializer_range": plain("init_std"),
    "bos_token_id": plain("bos_token_id"),
    "eos_token_id": EOS,
}
NAMES = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "attn_norm": "input_layernorm",
    "attn": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")},
}
TINY = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
)
TINY_GROUPED = TINY | dict(num_key_value_heads=2, head_dim=8)
_LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_output": "self_attn.o_proj",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}

_SLOWED = "rope_freqs.weight"


def read_gguf(own: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Fields of config.json that Llama and its kin have in GGUF files.

    Args:
        own: metadata of the architecture; what is read is taken out.
        file: where they stand.

    Raises:
        KeyError: something is missing.
        ValueError: something that the decoder does not do.
    """
    fields = {
        "hidden_size": own.pop("embedding_length"),
        "intermediate_size": own.pop("feed_forward_length"),
        "num_hidden_layers": own.pop("block_count"),
        "num_attention_heads": own.pop("attention.head_count"),
        "max_position_embeddings": own.pop("context_length"),
        "rms_norm_eps": own.pop("attention.layer_norm_rms_epsilon"),
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    heads = fields["num_attention_heads"]
    fields["num_key_value_heads"] = own.pop("attention.head_count_kv", heads)
    head_dim = own.pop("attention.key_length", fields["hidden_size"] // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if own.pop(name, head_dim) != head_dim:
            raise ValueError(f"{file.path}: {name} is not the size of a head, {head_dim}")
    own.pop("vocab_size", None)  # the embedding says it
    rope = {"rope_theta": own.pop("rope.freq_base", 10_000.0), "rope_type": "default"}
    scaling = own.pop("rope.scaling.type", "none")
    if scaling != "none":
        rope |= {"rope_type": scaling, "factor": own.pop("rope.scaling.factor")}
    return fields | {"head_dim": head_dim, "rope_parameters": rope}


def _read_gguf(own: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    fields = read_gguf(own, file) | {
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }
    if _SLOWED in file.tensors:
        fields["rope_parameters"] = _llama3_rope(fields, file)
    return fields


def _llama3_rope(fields: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Rope of Llama 3.1 and later; a file holds only by how much each pair is slowed.

    Raises:
        ValueError: no published model is slowed so.
    """
    slowed, rope = file.rows(_SLOWED), fields["rope_parameters"]
    published = dict(
        factor=float(slowed.max()),
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )
    unscaled = Rope(theta=rope["rope_theta"], dim=fields["head_dim"])
    scaled = dataclasses.replace(
        unscaled, scaling="llama3", original_max_positions=8192, **published
    )
    expected = unscaled.inverse_frequencies() / scaled.inverse_frequencies()
    fits = slowed.shape == expected.shape and np.allclose(slowed, expected, rtol=1e-4)
    if rope["rope_type"] != "default" or not fits:
        raise ValueError(f"{file.path}: {_SLOWED} is not that of Llama 3.1, 3.2 or 3.3")
    return rope | published | {"rope_type": "llama3", "original_max_position_embeddings": 8192}


FAMILY = Family(
    name="llama",
    models="Llama 2, Llama 3.x, SmolLM2",
    fields=FIELDS,
    names=NAMES,
    tiny={
        "llama2": TINY | dict(tie_word_embeddings=False),
        "llama3": TINY_GROUPED | dict(rope_parameters=_LLAMA3, tie_word_embeddings=True),
        "smollm2": TINY_GROUPED | dict(tie_word_embeddings=True, num_attention_heads=2),
        "biased": TINY_GROUPED | dict(attention_bias=True, mlp_bias=True, head_dim=16),
    },
    gguf=Gguf(
        architecture="llama", names=GGUF_NAMES, read=_read_gguf, interleaved=True, folded=(_SLOWED,)
    ),
)
