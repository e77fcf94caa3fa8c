"""Gemma 1 (arXiv:2403.08295): Llama with scaled embeddings and norm scales stored minus one.

Its files name the activation `hidden_act` (where "gelu" means the tanh form, which `transformers`
corrects) and sometimes `hidden_activation` too: both must then agree.
"""

from ..family import Family
from . import llama

FIXED = {"scale_embeddings": True, "norm_offset": 1.0}
FIELDS = {name: field for name, field in llama.FIELDS.items() if name != "mlp_bias"}

FAMILY = Family(
    name="gemma",
    models="Gemma 1",
    fields=FIELDS,
    fixed=FIXED,
    names=llama.NAMES,
    tiny={"gemma": llama.TINY_GROUPED | dict(num_key_value_heads=1, head_dim=16)},
)
