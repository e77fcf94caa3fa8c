"""GPT-NeoX (arXiv:2204.06745) and Pythia (arXiv:2304.01373).

LayerNorms with biases, one fused query-key-value matrix, an MLP without gate, attention and MLP
beside each other (unless `use_parallel_residual` is false), and a quarter of each head turned.
"""

from ..family import ACTIVATION, Family, Field, plain, rope_field, switch
from . import llama

_SHARED = (
    "vocab_size",
    "intermediate_size",
    "num_hidden_layers",
    "max_position_embeddings",
    "attention_bias",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
)

FAMILY = Family(
    name="gpt_neox",
    models="GPT-NeoX, Pythia",
    fields={name: llama.FIELDS[name] for name in _SHARED}
    | {
        "hidden_size": Field(
            lambda value, hf: {"width": value, "head_dim": value // hf.num_attention_heads},
            lambda config: config.width,
        ),
        "num_attention_heads": plain("num_heads", "num_kv_heads"),
        "rope_parameters": rope_field(partial=True),
        "layer_norm_eps": plain("norm_eps"),
        "hidden_act": ACTIVATION,
        "use_parallel_residual": switch("parallel"),
    },
    fixed={"layer_norm": True, "fused_qkv": True, "gated_mlp": False, "mlp_bias": True},
    names={
        "embedding": "gpt_neox.embed_in",
        "norm": "gpt_neox.final_layer_norm",
        "head": "lm_head",
        "layers": "gpt_neox.layers",
        "attn_norm": "input_layernorm",
        "attn": "attention",
        "qkv": "query_key_value",
        "o": "dense",
        "mlp_norm": "post_attention_layernorm",
        "up": "dense_h_to_4h",
        "down": "dense_4h_to_h",
    },
    spellings=((r"^embed_out\.", "lm_head."),),
    ignored=r"rotary_emb\.inv_freq$|attention\.(masked_)?bias$",
    tiny={
        "pythia": llama.TINY,
        "serial": llama.TINY | dict(use_parallel_residual=False, tie_word_embeddings=True),
    },
)
