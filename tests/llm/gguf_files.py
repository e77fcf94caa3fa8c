"""GGUF files by the package's own writer, and the same weights in an ordinary folder."""

import pathlib

import gguf
import jax
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file, save_file

from llm import models

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# Bytes of a block that hold its scales, which random bytes would make infinite.
SCALES = {Type.Q4_K: (0, 2), Type.Q6_K: (208,)}


def config_of(family: str, **fields) -> models.ModelConfig:
    """`ModelConfig` of a config.json."""
    from transformers import AutoConfig

    return models.from_hf(AutoConfig.for_model(family, **fields))


def both(
    folder: pathlib.Path,
    config: models.ModelConfig,
    kind: Type = Type.F32,
    *,
    without: tuple[str, ...] = (),
    extra: dict[str, np.ndarray] | None = None,
    **more,
) -> tuple[pathlib.Path, pathlib.Path]:
    """A GGUF file of random weights, matrices of one type, and a folder with what they unpack to.

    Args:
        folder: to put both in.
        config: the model; its `head_dim` and so on go into the metadata.
        kind: type of the matrices.
        without: tensors that the file lacks.
        extra: further tensors of the file.
        more: further metadata, with "__" for "."; None leaves a key out.
    """
    plain, file = folder / "checkpoint", folder / "tiny.gguf"
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + rng.normal(scale=0.3, size=x.shape).astype(np.float32),
        models.init(config, key=jax.random.key(0)),
    )
    models.save(plain, config, params)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.family], config.num_layers)
    writer = gguf.GGUFWriter(file, ARCHITECTURES[config.family].name.lower())
    for key, value in metadata(config, **more).items():
        add(writer, key, value)
    unpacked = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        heads = {"q": config.num_heads, "k": config.num_kv_heads}.get(name.split(".")[-2][:1])
        twisted = config.family == "llama" and name.split(".")[-2] in ("q_proj", "k_proj")
        added = config.family == "gemma3_text" and name.endswith("norm.weight")
        tensor = tensor + 1 if added else twist(tensor, heads) if twisted else tensor
        raw, type_ = pack(tensor, kind if tensor.ndim > 1 else Type.F32, rng)
        if stored not in without:
            writer.add_tensor(stored, raw, raw_dtype=type_)
        tensor = gguf.dequantize(raw, type_).reshape(tensor.shape)
        tensor = tensor - 1 if added else untwist(tensor, heads) if twisted else tensor
        unpacked[name] = np.ascontiguousarray(tensor)
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.astype(np.float32))
    save_file(unpacked, plain / "model.safetensors", metadata={"format": "pt"})
    write(writer)
    return file, plain


def write(writer: gguf.GGUFWriter) -> None:
    """Everything to the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def twist(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp lays them: the two that turn together side by side."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def untwist(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `twist`."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def pack(tensor: np.ndarray, kind: Type, rng: np.random.Generator) -> tuple[np.ndarray, Type]:
    """Numbers in a type; where the package cannot pack it, random blocks of that type."""
    if kind not in SCALES:
        return gguf.quantize(tensor, kind), kind
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (*tensor.shape[:-1], tensor.shape[-1] // block, size), np.uint8)
    for byte in SCALES[kind]:
        scale = rng.uniform(0.001, 0.01, blocks.shape[:-1]).astype(np.float16)
        blocks[..., byte : byte + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(*tensor.shape[:-1], -1), kind


def metadata(config: models.ModelConfig, **more) -> dict:
    """What converters write of a model and of a small tokenizer."""
    tokens = [f"<{i}>" for i in range(config.vocab_size)]
    own = {
        "context_length": config.max_positions,
        "embedding_length": config.width,
        "block_count": config.num_layers,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.freq_base": config.rope.theta,
        "rope.dimension_count": config.rope.dim,
    }
    if window := next(filter(None, config.windows), None):
        own["attention.sliding_window"] = window
    if config.logit_softcap:
        own["final_logit_softcapping"] = config.logit_softcap
    architecture = ARCHITECTURES[config.family].name.lower()
    found = {f"{architecture}.{key}": value for key, value in own.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * len(tokens),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    found |= {key.replace("__", "."): value for key, value in more.items()}
    return {key: value for key, value in found.items() if value is not None}


def add(writer: gguf.GGUFWriter, key: str, value) -> None:
    """One entry of the metadata, in the type that converters use."""
    if value is None:
        return
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value:
        writer.add_array(key, value)
