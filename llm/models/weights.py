"""Parameters from and to Hugging Face checkpoint folders, by safetensors only."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  numpy must know bfloat16 before safetensors reads it
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, DTypeLike, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .config import ModelConfig, supported_models
from .hf_config import from_hf, to_hf

Params = PyTree[Array]
Path_ = tuple[str | int, ...]

_LLAMA = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "attn_norm": "input_layernorm",
    "attn": "self_attn",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")},
}
_GEMMA2 = _LLAMA | {
    "post_attn_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
_NEOX = {
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
}
# Other spellings of the same names in published files.
_RENAMED = (
    (r"^(model\.language_model|language_model\.model)\.", "model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^embed_out\.", "lm_head."),
)
# Constants that old files carry, and the vision part of multimodal Gemma 3.
_IGNORED = re.compile(
    r"rotary_emb\.inv_freq$|attention\.(masked_)?bias$|^(model\.)?(vision_tower|multi_modal_proj)"
)
_DOWNLOADED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "*.txt"]
_SHARD_BYTES = 4 * 2**30


def module_name(config: ModelConfig, path: Path_) -> str:
    """Hugging Face name of the module at a path such as `("layers", 0, "attn", "q")`."""
    names = _NEOX if config.is_neox else _GEMMA2 if config.post_norms else _LLAMA
    return ".".join(str(part) if isinstance(part, int) else names.get(part, part) for part in path)


def tensor_name(config: ModelConfig, path: Path_) -> str:
    """Hugging Face name of a parameter; `kernel` is stored transposed as `weight`."""
    if path == ("embedding",):
        return module_name(config, path) + ".weight"
    return module_name(config, path[:-1]) + (".bias" if path[-1] == "bias" else ".weight")


def keys(path) -> Path_:
    """Plain keys of a `jax.tree_util` path."""
    return tuple(entry.key for entry in path)


def folder_of(folder_or_name: str | os.PathLike) -> Path:
    """The checkpoint folder itself, or the downloaded snapshot of a Hugging Face name.

    Raises:
        ValueError: neither a folder nor a name that can be reached.
    """
    folder = Path(folder_or_name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(folder_or_name)):
        raise ValueError(f"no such checkpoint folder: {folder}")
    from huggingface_hub import snapshot_download

    try:
        name = str(folder_or_name)
        return Path(snapshot_download(name, allow_patterns=_DOWNLOADED))
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ValueError(
            f"{name!r} is no folder here and could not be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {reason})"
        ) from error


def fingerprint(folder_or_name: str | os.PathLike) -> str:
    """Hash of a checkpoint's or adapter's config and the size, head and tail of its weights.

    Reads at most 2 MiB of a file: it tells one checkpoint from another, not a flipped bit.
    """
    folder, digest, piece = folder_of(folder_or_name), hashlib.sha256(), 1 << 20
    for path in sorted([*folder.glob("*config.json"), *folder.glob("*.safetensors")]):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(piece))
            file.seek(max(path.stat().st_size - piece, 0))
            digest.update(file.read(piece))
    return digest.hexdigest()[:16]


def load_config(folder_or_name: str | os.PathLike) -> ModelConfig:
    """`ModelConfig` of a checkpoint; remote code is never run."""
    from transformers import AutoConfig

    folder = folder_of(folder_or_name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"no config.json in {folder}: not a Hugging Face checkpoint folder")
    try:
        hf = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise ValueError(f"{folder}/config.json: {reason}. {supported_models()}") from error
    if getattr(hf, "quantization_config", None) is not None:
        raise ValueError(f"{folder} holds quantised weights; use a bf16, f16 or f32 checkpoint")
    return from_hf(hf)


def load_params(
    folder: Path,
    config: ModelConfig,
    abstract: Params,
    dtype: DTypeLike,
    shardings: PyTree[jax.sharding.Sharding] | None = None,
) -> Params:
    """Read the tensors that `abstract` asks for, each straight onto its devices.

    Raises:
        ValueError: an unreadable file, or any missing, extra or misshaped tensors, all listed.
    """
    wanted = {
        tensor_name(config, keys(path)): (keys(path), leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)
    }
    with contextlib.ExitStack() as stack:
        stored = dict(_tensors(folder, stack))
        _check(folder, config, wanted, {name: t.get_shape() for name, t in stored.items()})

        def read(name: str, sharding: jax.sharding.Sharding | None) -> Array:
            path, shape = wanted[name]
            tensor, turned = stored[name], path[-1] == "kernel"

            def part(index: tuple[slice, ...]) -> np.ndarray:
                block = tensor[index[::-1] if turned else index]
                return np.ascontiguousarray((block.T if turned else block).astype(dtype))

            if sharding is None:
                return jnp.asarray(part((slice(None),) * len(shape)))
            return jax.make_array_from_callback(shape, sharding, part)

        # `wanted` follows the order of the leaves.
        placements = jax.tree.leaves(shardings) if shardings else [None] * len(wanted)
        leaves = [read(name, place) for name, place in zip(wanted, placements, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def save(folder: str | os.PathLike, config: ModelConfig, params: Params) -> None:
    """Write a folder that `load` and `transformers` read; it appears whole or not at all.

    Raises:
        ValueError: the folder exists already.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    tensors = {tensor_name(config, keys(path)): (keys(path), leaf) for path, leaf in leaves}
    hf = to_hf(config)
    hf.dtype = leaves[0][1].dtype.name
    with new_folder(folder) as scratch:
        _write_shards(scratch, tensors)
        hf.save_pretrained(scratch)


@contextlib.contextmanager
def new_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A scratch folder that takes the given name when the block ends without error.

    Raises:
        ValueError: the folder exists already.
    """
    folder = Path(folder).expanduser().absolute()
    if folder.exists():
        raise ValueError(f"{folder} exists already; choose a new folder or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield scratch
        if jax.process_index() == 0:  # every process writes its own scratch folder, one is kept
            scratch.chmod(0o755)
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def to_host(array: Array | np.ndarray) -> np.ndarray:
    """The whole array in this process, wherever its parts are."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _tensors(folder: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, Any]]:
    """Lazy slices of all tensors of the folder, by their usual names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent or not files:
        raise ValueError(
            f"{folder}: missing {', '.join(absent) or 'any *.safetensors file'}"
            " (pickled .bin weights are not read)"
        )
    for name in files:
        try:
            file = stack.enter_context(safe_open(folder / name, framework="np"))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{folder / name} is damaged or cut short ({error}); fetch it again"
            ) from error
        for key in file.keys():  # noqa: SIM118  not a dict
            usual = key
            for pattern, name_here in _RENAMED:
                usual = re.sub(pattern, name_here, usual)
            yield usual, file.get_slice(key)


def _check(folder: Path, config: ModelConfig, wanted: dict, shapes: dict) -> None:
    problems = [f"missing {name}" for name in wanted if name not in shapes]
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    extra = [name for name in shapes.keys() - wanted.keys() - tied if not _IGNORED.search(name)]
    problems += [f"unexpected {name}" for name in sorted(extra)]
    for name, (path, shape) in wanted.items():
        expected = list(shape[::-1] if path[-1] == "kernel" else shape)
        if name in shapes and shapes[name] != expected:
            problems.append(f"{name} has shape {shapes[name]}, expected {expected}")
    if problems:
        raise ValueError(f"{folder} does not fit its config.json: " + "; ".join(problems))


def _write_shards(folder: Path, tensors: dict[str, tuple[Path_, Array]]) -> None:
    """One file, or numbered files with an index above 4 GiB."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, (_, array) in tensors.items():
        if size + array.nbytes > _SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += array.nbytes
    files = [
        "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        for i in range(1, len(shards) + 1)
    ]
    for file, names in zip(files, shards, strict=True):
        host = {name: to_host(array) for name, (_, array) in ((n, tensors[n]) for n in names)}
        if jax.process_index() == 0:
            save_file(
                {n: np.ascontiguousarray(_turned(tensors[n][0], x)) for n, x in host.items()},
                folder / file,
                metadata={"format": "pt"},
            )
    if len(shards) > 1:
        total = sum(array.nbytes for _, array in tensors.values())
        weight_map = {n: file for file, names in zip(files, shards, strict=True) for n in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _turned(path: Path_, array: np.ndarray) -> np.ndarray:
    """From our layout (inputs, outputs) of kernels to theirs, or back."""
    return array.T if path[-1] == "kernel" else array
