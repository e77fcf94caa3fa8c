"""GGUF files: what their header says, and their tensors as float32.

The package `gguf` knows the types and unpacks them. The header is read here: at once instead of in
seconds, and so that a damaged file is told in one line.
"""

import functools
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Codes of metadata types; 8 is text, 9 a list.
_NUMBERS = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
_FLOAT32, _TEXT, _LIST = 6, 8, 9


class Tensor(NamedTuple):
    """A tensor of a file: its type, and the bytes that it takes."""

    type: Any  # gguf.GGMLQuantizationType
    shape: tuple[int, ...]  # of the numbers, slowest axis first
    start: int  # in the file, bytes
    row: int  # bytes of the fastest axis

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self.row * int(np.prod(self.shape[:-1], dtype=np.int64))


class GgufFile(NamedTuple):
    """An open file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    bytes: np.ndarray  # the file, mapped

    def rows(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Some rows of a tensor (numbers of a vector) in float32."""
        import gguf

        tensor = self.tensors[name]
        raw = self.bytes[tensor.start : tensor.start + tensor.size]
        if len(tensor.shape) == 1:
            return gguf.dequantize(raw, tensor.type)[rows]
        return gguf.dequantize(raw.reshape(-1, tensor.row)[rows], tensor.type)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that is called so."""
    return path.suffix == ".gguf" and path.is_file()


def open_gguf(path: Path) -> GgufFile:
    """The file with its header read; it is kept for the next who asks.

    Raises:
        ValueError: no GGUF file, one of another version or byte order, cut short, or with a type
            of numbers that nobody can unpack.
    """
    stat = path.stat()
    return _opened(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _opened(path: Path, size: int, changed: int) -> GgufFile:
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] != b"GGUF" or len(start) < 8:
            raise ValueError(f"{path} is no GGUF file")
        version, turned = (int.from_bytes(start[4:], order) for order in ("little", "big"))
        if version > turned:
            raise ValueError(f"{path} is a big-endian GGUF file; only little-endian ones are read")
        if version not in (2, 3):
            raise ValueError(f"{path} is a GGUF file of version {version}; 2 and 3 are read")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        metadata, tensors = _header(content)
    except (struct.error, EOFError, UnicodeDecodeError, ArithmeticError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    end = max((tensor.start + tensor.size for tensor in tensors.values()), default=0)
    if end > size:
        raise ValueError(
            f"{path} is cut short: it has {size:,} of at least {end:,} bytes; fetch it again"
        )
    return GgufFile(path, metadata, tensors, np.frombuffer(content, np.uint8))


class _Cursor:
    """Reads a header from its start on."""

    def __init__(self, content: mmap.mmap, at: int):
        self.content, self.at = content, at

    def number(self, code: str) -> Any:
        form = struct.Struct(f"<{code}")
        (value,) = form.unpack_from(self.content, self.at)
        self.at += form.size
        return value

    def text(self) -> str:
        length = self.number("Q")
        found = self.content[self.at : self.at + length]
        if len(found) < length:
            raise EOFError(f"a text of {length} bytes at byte {self.at}")
        self.at += length
        return found.decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            kind, length = self.number("I"), self.number("Q")
            if kind not in _NUMBERS:
                return [self.value(kind) for _ in range(length)]
            form = struct.Struct(f"<{_NUMBERS[kind]}")
            if self.at + length * form.size > len(self.content):
                raise EOFError(f"a list of {length} numbers at byte {self.at}")
            end = self.at + length * form.size
            found = [value for (value,) in form.iter_unpack(self.content[self.at : end])]
            self.at = end
            return found
        if kind not in _NUMBERS:
            raise ValueError(f"metadata of the unknown type {kind}")
        value = self.number(_NUMBERS[kind])
        # The number that was written: 1e-5, where 32 bits make 9.99999975e-06 of it.
        return float(str(np.float32(value))) if kind == _FLOAT32 else value


def _header(content: mmap.mmap) -> tuple[dict[str, Any], dict[str, Tensor]]:
    cursor = _Cursor(content, 8)
    num_tensors, num_keys = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.text()
        _put(metadata, key, cursor.value(cursor.number("I")))
    tensors: dict[str, Tensor] = {}
    for _ in range(num_tensors):
        name = cursor.text()
        shape = tuple(cursor.number("Q") for _ in range(cursor.number("I")))[::-1]
        _put(tensors, name, _tensor(name, shape, cursor.number("I"), cursor.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    first = -(-cursor.at // alignment) * alignment
    return metadata, {name: t._replace(start=first + t.start) for name, t in tensors.items()}


def _tensor(name: str, shape: tuple[int, ...], code: int, offset: int) -> Tensor:
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(code)
        gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], np.uint8), kind)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{name} is of a type that the package gguf cannot unpack ({error}); "
            "use a file of another quantisation"
        ) from error
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise ValueError(f"{name} has shape {list(shape)}, no whole blocks of {block} numbers")
    return Tensor(kind, shape, offset, shape[-1] // block * size)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    if key in table:
        raise ValueError(f"it holds {key} twice")
    table[key] = value
