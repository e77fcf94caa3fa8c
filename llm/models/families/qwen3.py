"""Qwen3 (arXiv:2505.09388): Qwen2 with an RMS norm of each query and key head, and no biases."""

from ..family import Family, Gguf
from . import llama, qwen2

GGUF_NAMES = llama.GGUF_NAMES | {f"attn_{name}_norm": f"self_attn.{name}_norm" for name in "qk"}

FAMILY = Family(
    name="qwen3",
    models="Qwen3",
    fields=qwen2.FIELDS | {"attention_bias": llama.FIELDS["attention_bias"]},
    fixed={"qk_norm": True},
    names=llama.NAMES,
    tiny={"qwen3": llama.TINY_GROUPED | dict(tie_word_embeddings=True, head_dim=16)},
    gguf=Gguf(architecture="qwen3", names=GGUF_NAMES, read=llama.read_gguf),
)
