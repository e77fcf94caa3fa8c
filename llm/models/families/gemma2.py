"""Gemma 2 (arXiv:2408.00118): Gemma 1 with norms after attention and MLP too, and soft caps.

Every other layer sees a window; scores are scaled by `query_pre_attn_scalar`^-1/2; attention
scores and logits pass through c tanh(x / c).
"""

from typing import Any

from ..config import ModelConfig
from ..family import WINDOWS, Family, Field, plain
from . import gemma, llama


def _read_scalar(value: int | float, hf: Any) -> dict[str, Any]:
    return {"attention_scale": None if value == hf.head_dim else value**-0.5}


def _write_scalar(config: ModelConfig) -> int | float:
    scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
    scalar = scale**-2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar


FIXED = gemma.FIXED | {"post_norms": True}
FIELDS = (
    {name: field for name, field in gemma.FIELDS.items() if name != "hidden_act"}
    | WINDOWS
    | {
        "hidden_activation": gemma.FIELDS["hidden_act"],
        "query_pre_attn_scalar": Field(_read_scalar, _write_scalar),
        "attn_logit_softcapping": plain("attention_softcap"),
        "final_logit_softcapping": plain("logit_softcap"),
    }
)
NAMES = llama.NAMES | {
    "post_attn_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
TINY = llama.TINY_GROUPED | dict(sliding_window=4, query_pre_attn_scalar=24)

FAMILY = Family(
    name="gemma2",
    models="Gemma 2",
    fields=FIELDS,
    fixed=FIXED,
    names=NAMES,
    tiny={"gemma2": TINY | dict(attn_logit_softcapping=5.0, final_logit_softcapping=2.0)},
)
