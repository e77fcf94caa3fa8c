"""Qwen2 and Qwen2.5 (arXiv:2407.10671, 2412.15115): Llama with biases on queries, keys, values.

Long-context variants let the upper layers see a window only.
"""

from ..family import SWITCHED_WINDOWS, Family, Gguf
from . import llama

_LLAMA_ONLY = ("attention_bias", "mlp_bias")
FIELDS = {
    name: field for name, field in llama.FIELDS.items() if name not in _LLAMA_ONLY
} | SWITCHED_WINDOWS

FAMILY = Family(
    name="qwen2",
    models="Qwen2, Qwen2.5",
    fields=FIELDS,
    fixed={"qkv_bias": True},
    names=llama.NAMES,
    tiny={
        "qwen2": llama.TINY_GROUPED | dict(tie_word_embeddings=False),
        "window": llama.TINY_GROUPED
        | dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    },
    gguf=Gguf(architecture="qwen2", names=llama.GGUF_NAMES, read=llama.read_gguf),
)
