"""Parameters from and to Hugging Face checkpoint folders, by safetensors only."""

import contextlib
import functools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  numpy must know bfloat16 before safetensors reads it
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, DTypeLike, Int, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .config import ModelConfig
from .families import family_of
from .folders import new_folder
from .from_gguf import Tensors
from .gguf_file import is_gguf
from .hf_config import to_hf
from .stacking import unstack_layers

Params = PyTree[Array | np.ndarray]
Path_ = tuple[str | int, ...]

_FLOATS = ("F64", "F32", "F16", "BF16")
_INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 4 * 2**30
_SLAB_BYTES = 32 * 2**20


class _Stored(NamedTuple):
    """A tensor of a file: where it is, and what the header says of it."""

    file: Path
    key: str
    shape: list[int]
    dtype: str


def module_name(config: ModelConfig, path: Path_) -> str:
    """Hugging Face name of the module at a path such as `("layers", 0, "attn", "q")`."""
    names = family_of(config.family).names
    return ".".join(str(part) if isinstance(part, int) else names.get(part, part) for part in path)


def published_name(config: ModelConfig, path: Path_, *, wrapped: bool) -> str:
    """The name of a module in the published model: `wrapped` if that is a multimodal one."""
    name, (alone, there) = module_name(config, path), family_of(config.family).wrapped
    return there + name.removeprefix(alone) if wrapped and name.startswith(alone) else name


def tensor_name(config: ModelConfig, path: Path_) -> str:
    """Hugging Face name of a parameter; `kernel` is stored transposed as `weight`."""
    if path == ("embedding",):
        return module_name(config, path) + ".weight"
    return module_name(config, path[:-1]) + (".bias" if path[-1] == "bias" else ".weight")


def keys(path) -> Path_:
    """Plain keys of a `jax.tree_util` path."""
    return tuple(entry.key for entry in path)


def load_params(
    folder: Path,
    config: ModelConfig,
    *,
    abstract: PyTree[jax.ShapeDtypeStruct],
    dtype: DTypeLike,
    shardings: PyTree[jax.sharding.Sharding] | None = None,
) -> Params:
    """Read the tensors that `abstract` asks for, file by file, each straight onto its devices.

    Raises:
        ValueError: an unreadable file, any missing, extra, misshaped or integer tensors (all
            listed), or weights that are not finite in `dtype`.
    """
    leaves, structure = jax.tree.flatten(abstract)
    paths = [keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    places = jax.tree.leaves(shardings) if shardings else [None] * len(leaves)
    wanted = {}  # name of a tensor -> (number of its leaf, layer within a stacked leaf)
    shapes = {}
    for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        for layer, tensor_path in _tensor_paths(path, leaf):
            name = tensor_name(config, tensor_path)
            shape = leaf.shape if layer is None else leaf.shape[1:]
            shapes[name] = list(shape[::-1] if path[-1] == "kernel" else shape)
            wanted[name] = (i, layer)
    stored = _stored_tensors(folder, config)
    _check(folder, config, shapes, stored)
    loaded: dict[int, Array] = {}
    finite: dict[str, Array] = {}
    # One file is mapped at a time: the host never holds more of a large checkpoint than that.
    for file_path in sorted({stored[name].file for name in wanted}):
        with _reading(file_path, config) as file:
            for name in (name for name in wanted if stored[name].file == file_path):
                i, layer = wanted[name]
                read = functools.partial(
                    _to_devices,
                    file.get_slice(stored[name].key),
                    paths[i][-1] == "kernel",
                    dtype=dtype,
                )
                if layer is None:
                    tensor = loaded[i] = read(shape=leaves[i].shape, place=places[i])
                else:
                    tensor = read(shape=leaves[i].shape[1:], place=_within_layer(places[i]))
                    whole = loaded[i] if i in loaded else _zeros(leaves[i].shape, dtype, places[i])
                    loaded[i] = _put_layer(whole, tensor, layer)
                finite[name] = _is_finite(tensor)
                # Reading ahead of the devices would pile up tensors on the host.
                jax.block_until_ready((loaded[i], finite[name]))
    if bad := [name for name, flag in jax.device_get(finite).items() if not flag]:
        raise ValueError(
            f"{folder}: {len(bad)} of {len(wanted)} tensors hold NaN or infinity as "
            f"{jnp.dtype(dtype).name}, first {bad[0]}; the checkpoint is of no use"
        )
    return jax.tree.unflatten(structure, [loaded[i] for i in range(len(leaves))])


def save(folder: str | os.PathLike, config: ModelConfig, params: Params) -> None:
    """Write a folder that `load` and `transformers` read; it appears whole or not at all.

    Raises:
        ValueError: the folder exists already.
    """
    leaves = jax.tree_util.tree_leaves_with_path(unstack_layers(params))
    tensors = {tensor_name(config, keys(path)): (keys(path), leaf) for path, leaf in leaves}
    hf = to_hf(config)
    hf.dtype = leaves[0][1].dtype.name
    with new_folder(folder) as scratch:
        _write_shards(scratch, tensors)
        hf.save_pretrained(scratch)


def to_host(array: Array | np.ndarray) -> np.ndarray:
    """The whole array in this process, wherever its parts are."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


@jax.jit
def _is_finite(array: Array) -> Bool[Array, ""]:
    return jnp.isfinite(array).all()


def _tensor_paths(path: Path_, leaf: jax.ShapeDtypeStruct) -> list[tuple[int | None, Path_]]:
    """Layers and paths of the tensors of a leaf: one, or one per layer if it is stacked."""
    if path[0] != "layers" or isinstance(path[1], int):
        return [(None, path)]
    return [(layer, ("layers", layer, *path[1:])) for layer in range(leaf.shape[0])]


def _zeros(shape: tuple[int, ...], dtype: DTypeLike, place: Any) -> Array:
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=place)()


def _within_layer(place: Any) -> Any:
    return place and NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))


@functools.partial(jax.jit, donate_argnums=0)
def _put_layer(stacked: Array, layer: Array, number: Int[Array, ""]) -> Array:
    return stacked.at[number].set(layer)


def _to_devices(tensor: Any, turned: bool, *, dtype, shape: tuple[int, ...], place: Any) -> Array:
    """A slice of a file as an array laid out by `place`; each block is read for its device only."""

    def block(index: tuple[slice, ...]) -> np.ndarray:
        spans = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
        out = np.empty([stop - start for start, stop in spans], dtype)
        order = -1 if turned else 1
        _read_slabs(tensor, spans[::order], out.T if turned else out)
        return out

    if place is None:
        return jnp.asarray(block((slice(None),) * len(shape)))
    return jax.make_array_from_callback(shape, place, block)


def _read_slabs(tensor: Any, spans: list[tuple[int, int]], out: np.ndarray) -> None:
    """Fill `out` with a part of a tensor, a few rows at a time: each is copied by the reader."""
    (first, last), rest = spans[0], [slice(*span) for span in spans[1:]]
    rows = max(1, _SLAB_BYTES * len(out) // max(out.nbytes, 1))
    with np.errstate(over="ignore"):  # what overflows is found by its infinity
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            out[start - first : stop - first] = tensor[(slice(start, stop), *rest)]


@contextlib.contextmanager
def _reading(path: Path, config: ModelConfig) -> Iterator[Any]:
    """An open safetensors file, or a GGUF file that reads like one.

    Raises:
        ValueError: it cannot be opened or read.
    """
    if is_gguf(path):
        yield Tensors(path, config)
        return
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is damaged or cut short ({reason}); fetch it again") from error


def _stored_tensors(folder: Path, config: ModelConfig) -> dict[str, _Stored]:
    """What the headers of all files say, by the usual names of the tensors."""
    family = family_of(config.family)
    stored: list[tuple[str, _Stored]] = []
    for path in _files(folder):
        with _reading(path, config) as file:
            for key in file.keys():  # noqa: SIM118  not a dict
                usual = key
                for pattern, name_here in family.spellings:
                    usual = re.sub(pattern, name_here, usual)
                tensor = file.get_slice(key)
                stored.append((usual, _Stored(path, key, tensor.get_shape(), tensor.get_dtype())))
    twice = [name for name, count in Counter(name for name, _ in stored).items() if count > 1]
    if twice:
        raise ValueError(f"{folder} holds {', '.join(sorted(twice))} twice")
    return {name: tensor for name, tensor in stored if not re.search(family.ignored, name)}


def _files(folder: Path) -> list[Path]:
    """The weight files: one, or those that the index names."""
    if is_gguf(folder):
        return [folder]
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / _INDEX).is_file():
        files = _indexed(folder / _INDEX)
        if "model.safetensors" in names and "model.safetensors" not in files:
            raise ValueError(f"{folder} holds model.safetensors beside an index of other files")
    elif len(names) > 1:
        raise ValueError(f"{folder} holds {', '.join(names)} without {_INDEX}: which is the model?")
    else:
        files = names
    absent = [name for name in files if name not in names]
    if absent or not files:
        raise ValueError(
            f"{folder}: missing {', '.join(absent) or 'any *.safetensors file'}"
            " (pickled .bin weights are not read)"
        )
    return [folder / name for name in files]


def _indexed(index: Path) -> list[str]:
    try:
        return sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} has no weight_map from tensors to files") from error


def _check(
    folder: Path, config: ModelConfig, wanted: dict[str, list[int]], stored: dict[str, _Stored]
) -> None:
    problems = [f"missing {name}" for name in wanted if name not in stored]
    tied = {"lm_head.weight"} if config.tie_embeddings else set()
    problems += [f"unexpected {name}" for name in sorted(stored.keys() - wanted.keys() - tied)]
    for name, shape in wanted.items():
        if name not in stored:
            continue
        if stored[name].shape != shape:
            problems.append(f"{name} has shape {stored[name].shape}, expected {shape}")
        if stored[name].dtype not in _FLOATS:
            problems.append(f"{name} is of type {stored[name].dtype}, no plain float (quantised?)")
    if problems:
        raise ValueError(
            f"{folder} does not fit its {'metadata' if is_gguf(folder) else 'config.json'}: "
            + "; ".join(problems)
        )


def _write_shards(folder: Path, tensors: dict[str, tuple[Path_, Array | np.ndarray]]) -> None:
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
        (folder / _INDEX).write_text(json.dumps(index, indent=2))


def _turned(path: Path_, array: np.ndarray) -> np.ndarray:
    """From our layout (inputs, outputs) of kernels to theirs, or back."""
    return array.T if path[-1] == "kernel" else array
