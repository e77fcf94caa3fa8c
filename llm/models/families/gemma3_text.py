"""Gemma 3 (arXiv:2503.19786), text only: Gemma 2 with query and key norms and two rotary bases.

Layers with a window turn by a base of their own. There is no soft cap of attention scores:
`transformers` accepts `attn_logit_softcapping` for this family and never applies it (in eager
attention neither), released models leave it null, so a number there is refused.
"""

from typing import Any

from ..config import ModelConfig, Rope
from ..family import Family, Field, Gguf, folded, read_rope, write_rope
from ..gguf_file import GgufFile
from . import gemma2, llama, qwen3


def _read_ropes(parameters: dict[str, Any], hf: Any) -> dict[str, Any]:
    whole, local = (read_rope(parameters[f"{kind}_attention"], hf) for kind in ("full", "sliding"))
    windowed = "sliding_attention" in hf.layer_types
    return {"rope": whole, "local_rope": local if windowed else None}


def _write_ropes(config: ModelConfig) -> dict[str, Any]:
    local = config.local_rope or Rope(dim=config.head_dim)
    return {
        "full_attention": write_rope(config.rope, config.head_dim),
        "sliding_attention": write_rope(local, config.head_dim),
    }


GGUF_NAMES = qwen3.GGUF_NAMES | {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_WINDOWED = 5  # of six layers
_LAYERS_OF_27B = 62


def _read_gguf(own: dict[str, Any], file: GgufFile) -> dict[str, Any]:
    """Some of what `transformers` reads is known by convention only: it stands in no GGUF file."""
    local = {"rope_type": "default", "rope_theta": own.pop("rope.freq_base_swa", 10_000.0)}
    own.setdefault("rope.freq_base", 1_000_000.0)
    window = own.pop("attention.sliding_window", None)
    softcap = own.pop("final_logit_softcapping", None)
    fields = llama.read_gguf(own, file)
    layers = fields["num_hidden_layers"]
    kinds = [
        "full_attention"
        if window is None or i % (_WINDOWED + 1) == _WINDOWED
        else "sliding_attention"
        for i in range(layers)
    ]
    largest = layers == _LAYERS_OF_27B
    scalar = fields["hidden_size"] // fields["num_attention_heads"] if largest else None
    return fields | {
        "query_pre_attn_scalar": scalar or fields["head_dim"],
        "sliding_window": window,
        "layer_types": kinds,
        "final_logit_softcapping": softcap,
        "rope_parameters": {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": local,
        },
    }


FAMILY = Family(
    name="gemma3_text",
    models="Gemma 3, also the text part of `gemma3` checkpoints",
    fields={name: f for name, f in gemma2.FIELDS.items() if name != "attn_logit_softcapping"}
    | {
        "rope_parameters": Field(_read_ropes, _write_ropes),
        "sliding_window_pattern": folded(),
    },
    fixed=gemma2.FIXED | {"qk_norm": True},
    names=gemma2.NAMES,
    wrapper="gemma3",
    wrapped=("model.", "model.language_model."),
    spellings=(
        (r"^(model\.language_model|language_model\.model)\.", "model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    ),
    ignored=r"rotary_emb\.inv_freq$|^(model\.)?(vision_tower|multi_modal_projector)\.",
    tiny={
        "gemma3": gemma2.TINY
        | dict(
            layer_types=["sliding_attention", "full_attention"],
            final_logit_softcapping=3.0,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    },
    gguf=Gguf(architecture="gemma3", names=GGUF_NAMES, read=_read_gguf),
)
