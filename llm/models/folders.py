"""Checkpoint folders: where they are, what identifies them, how a new one comes to be."""

import concurrent.futures
import contextlib
import contextvars
import functools
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
# What a checkpoint or adapter is: its configs, weights, tokenizer and chat templates.
_IDENTITY = (
    "*config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "additional_chat_templates/*",
)
DIGITS = 32  # of a fingerprint; earlier ones, of the heads and tails of files, have 16
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
    if folder.exists():
        raise ValueError(
            f"{folder} is a file, and no GGUF file: give that, or the checkpoint folder, with "
            "config.json and *.safetensors"
        )
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
    """The identity of a checkpoint or adapter: every byte of all that decides what it says.

    Configs, all tensors, tokenizer files and chat templates. About a second for each GB; a file
    that has not changed since is not read again by this process.
    """
    folder = folder_of(folder_or_name)
    if is_gguf(folder):
        files = {"gguf": folder}  # users name these files
    else:
        paths = {path for pattern in _IDENTITY for path in folder.glob(pattern) if path.is_file()}
        files = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(_content, files.values()))
    text = "".join(f"{name} {digest}\n" for name, digest in zip(files, digests, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _content(path: Path) -> str:
    stat = path.stat()
    return _content_of(path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=4096)
def _content_of(path: Path, *about: int) -> str:
    """SHA-256 of a file; size, time and inode tell it from another one of that name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
