"""Checkpoint folders: where they are, what identifies them, how a new one comes to be."""

import contextlib
import contextvars
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from .gguf_file import is_gguf

ABOUT = ["*.json", "*.jinja", "tokenizer*", "*.model", "*.txt"]  # all but the weights
_MODEL = ("*config.json", "*.safetensors")
_WEIGHTS = contextvars.ContextVar("weights", default=("*.safetensors",))


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Within, names are looked up without downloading weights: for plans, which read none.

    A fingerprint is then that of weights that are here already, or of none: nothing can have been
    made from weights that were never here.
    """
    token = _WEIGHTS.set(())
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


def folder_of(folder_or_name: str | os.PathLike) -> Path:
    """The checkpoint folder itself, or the downloaded snapshot of a Hugging Face name.

    A GGUF file stands for a folder, and a folder that holds one instead of a config.json for it.

    Raises:
        ValueError: neither a folder nor a name that can be reached.
    """
    folder = Path(folder_or_name).expanduser()
    if is_gguf(folder):
        return folder
    if folder.is_dir():
        inside = sorted(folder.glob("*.gguf"))
        return inside[0] if len(inside) == 1 and not any(folder.glob("*config.json")) else folder
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(folder_or_name)):
        raise ValueError(f"no such checkpoint folder: {folder}")
    from huggingface_hub import snapshot_download

    try:
        name = str(folder_or_name)
        return Path(snapshot_download(name, allow_patterns=[*ABOUT, *_WEIGHTS.get()]))
    except Exception as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ValueError(
            f"{name!r} is no folder here and could not be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {reason}): give a folder, or, where there is a network, run "
            f"`hf download {name}` first"
        ) from error


def fingerprint(folder_or_name: str | os.PathLike) -> str:
    """Hash of a checkpoint's or adapter's config and the size, head and tail of its weights.

    Reads at most 2 MiB of a file: it tells one checkpoint from another, not a flipped bit.
    """
    folder, digest, piece = folder_of(folder_or_name), hashlib.sha256(), 1 << 20
    files = {path.name: path for kind in _MODEL for path in folder.glob(kind)}
    if is_gguf(folder):
        files = {".gguf": folder}  # users name these files
    for name, path in sorted(files.items()):
        digest.update(f"{name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(piece))
            file.seek(max(path.stat().st_size - piece, 0))
            digest.update(file.read(piece))
    return digest.hexdigest()[:16]


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
