"""A GGUF file as a checkpoint: its config, and its tensors under their names in safetensors.

What is particular to a family is its `Gguf` record. Tensors are handed out by the piece, in the
manner of an open safetensors file, so what reads folders reads these files too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .config import ModelConfig
from .families import FAMILIES, family_of
from .gguf_file import GgufFile, open_gguf


def hf_config(path: Path) -> Any:
    """The `transformers` config object of a GGUF file.

    Raises:
        ValueError: another architecture, or metadata that is missing, or that is not known here.
    """
    from transformers import AutoConfig

    file = open_gguf(path)
    architecture = file.metadata.get("general.architecture")
    known = {f.gguf.architecture: (f.name, f.gguf) for f in FAMILIES.values() if f.gguf}
    if architecture not in known:
        raise ValueError(
            f"{path} is of architecture {architecture!r}; GGUF files of {', '.join(known)} are read"
        )
    if file.metadata.get("split.count", 1) > 1:
        raise ValueError(f"{path} is one part of several: merge them into one file")
    (family, gguf), start = known[architecture], f"{architecture}."
    own = {k.removeprefix(start): v for k, v in file.metadata.items() if k.startswith(start)}
    try:
        fields = gguf.read(own, file)
    except KeyError as error:
        raise ValueError(f"{path} does not say {start}{error.args[0]}") from error
    if own:
        said = ", ".join(f"{start}{key} = {str(value)[:40]}" for key, value in sorted(own.items()))
        raise ValueError(f"{path} sets {said}: unknown here, so it may be another model")
    return AutoConfig.for_model(family, pad_token_id=None, **fields, **_ends(file))


def _ends(file: GgufFile) -> dict[str, Any]:
    """Fields of config.json about the first token and those that end a text."""
    bos, *ends = (file.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in _ENDS)
    several = list(dict.fromkeys(end for end in ends if end is not None))
    return {"bos_token_id": bos, "eos_token_id": several or None}


_ENDS = ("bos", "eos", "eot")


class Tensors:
    """The tensors of a GGUF file, read as those of an open safetensors file are."""

    def __init__(self, path: Path, config: ModelConfig):
        self._file, self._config = open_gguf(path), config
        gguf = family_of(config.family).gguf
        assert gguf is not None  # the config has come from the same file
        self._interleaved = gguf.interleaved
        self._names = {
            ".".join(gguf.names.get(part, part) for part in name.split(".")): name
            for name in self._file.tensors
            if name not in gguf.folded
        }

    def keys(self) -> Iterator[str]:
        """Names of tensors as in safetensors; one that means nothing here stays as it is."""
        return iter(self._names)

    def get_slice(self, key: str) -> "_Slice":
        """A tensor that is read by the piece."""
        twisted = self._interleaved and re.search(r"\.[qk]_proj\.", key)
        offset = self._config.norm_offset if key.endswith("norm.weight") else 0.0
        head_dim = self._config.head_dim if twisted else 0
        return _Slice(self._file, self._names[key], head_dim, offset)


class _Slice:
    """One tensor, unpacked by the piece."""

    def __init__(self, file: GgufFile, name: str, head_dim: int, offset: float):
        self._file, self._name, self._offset = file, name, offset
        self._shape = file.tensors[name].shape
        self._order = None
        if head_dim and self._shape[0] % head_dim == 0:
            # The two rows that turn together lie side by side; here they lie half a head apart.
            pairs = np.arange(self._shape[0]).reshape(-1, head_dim // 2, 2)
            self._order = pairs.swapaxes(1, 2).ravel()

    def get_shape(self) -> list[int]:
        """Sizes, slowest axis first."""
        return list(self._shape)

    def get_dtype(self) -> str:
        """What the numbers are once unpacked."""
        return "F32"

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        rows, *rest = index
        found = self._file.rows(self._name, rows if self._order is None else self._order[rows])
        return found[(slice(None), *rest)] - np.float32(self._offset)
