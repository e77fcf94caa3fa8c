"""Prompts and completions as JSON lines beside a manifest of what made them.

`rows.jsonl` goes with `rows.jsonl.manifest.json`: hash, size and count of the rows, the
settings that made them (model, template, sampling, ...) and the counts of the filter. The
manifest is replaced atomically after the rows are on disk and is what counts: bytes beyond the
ones it lists are an interrupted append. A file made with other settings is never reused.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..settings import as_json, describe_difference, write_atomically

Row = dict[str, Any]  # at least "prompt" and "completion", both text
REQUIRED_SETTINGS = ("model", "template", "sampling")
SHOWN = 8  # rejected rows that a manifest keeps as examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a data file holds and how it was made.

    `settings` names at least the model, the chat template (`chat.settings`) and the sampling
    settings; `filter_counts` gives rows per outcome, such as kept and each reject reason.
    """

    sha256: str
    size: int  # bytes
    count: int  # rows
    settings: dict[str, Any]
    filter_counts: dict[str, int]
    prompts: int = 0  # completed so far, dropped rows included
    rejected: list[Row] = dataclasses.field(default_factory=list)  # the first few, with reasons
    matmul_precision: str = "default"  # see `precision`


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of a data file lies."""
    return Path(f"{path}.manifest.json")


def append_rows(
    path: str | Path,
    rows: Iterable[Row],
    *,
    settings: Mapping[str, Any],
    filter_counts: Mapping[str, int] | None = None,
    prompts: int = 0,
    rejected: Sequence[Row] = (),
) -> Manifest:
    """Add rows to a data file, or create it; counts and prompts are added up.

    The rest of an append that was interrupted is cut off first, so a row is in the file exactly
    when the manifest says so.

    Raises:
        ValueError: as `append`; a row lacks prompt or completion.
    """
    content, count = _encode(rows, Path(path))
    return append(
        path,
        content,
        count=count,
        settings=settings,
        filter_counts=filter_counts,
        prompts=prompts,
        rejected=rejected,
    )


def append(
    path: str | Path,
    content: bytes,
    *,
    count: int,
    settings: Mapping[str, Any],
    filter_counts: Mapping[str, int] | None = None,
    prompts: int = 0,
    rejected: Sequence[Row] = (),
    matmul_precision: str = "default",
) -> Manifest:
    """Add bytes that hold `count` rows to a file with a manifest, or create it.

    Raises:
        ValueError: as `read_content`, or the settings lack one of model, template, sampling. The
            file is then left as it was.
    """
    path = Path(path)
    known = _plain(settings, path)
    manifest = Manifest(
        sha256=hashlib.sha256().hexdigest(), size=0, count=0, settings=known, filter_counts={}
    )
    if manifest_path(path).exists():
        manifest = read_manifest(path)
        _check_settings(path, manifest, settings)
    kept = _listed_bytes(path, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(manifest.size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    counts, added = manifest.filter_counts, filter_counts or {}
    manifest = dataclasses.replace(
        manifest,
        sha256=hashlib.sha256(kept + content).hexdigest(),
        size=len(kept) + len(content),
        count=manifest.count + count,
        filter_counts={n: counts.get(n, 0) + added.get(n, 0) for n in {**counts, **added}},
        prompts=manifest.prompts + prompts,
        rejected=[*manifest.rejected, *rejected][:SHOWN],
        matmul_precision=matmul_precision,
    )
    text = json.dumps(dataclasses.asdict(manifest), indent=2, sort_keys=True) + "\n"
    write_atomically(manifest_path(path), text)
    return manifest


def prompts_done(path: str | Path, settings: Mapping[str, Any], total: int | None = None) -> int:
    """How many prompts an earlier run of this stage has completed; 0 if there was none.

    Args:
        path: the file.
        settings: those that it must have been made with.
        total: how many there can be at most.

    Raises:
        ValueError: as `read_rows`; in particular if other settings made the file, or if it says
            that more prompts were completed than there are.
    """
    if not manifest_path(path).exists():
        return 0
    manifest = read_manifest(path)
    _check_settings(Path(path), manifest, settings)
    _listed_bytes(Path(path), manifest)
    check_total(path, manifest, total)
    return manifest.prompts


def check_total(path: str | Path, manifest: Manifest, total: int | None) -> None:
    """Refuse a file of more prompts than there are: two runs wrote it at once.

    Raises:
        ValueError: the manifest counts more than `total`.
    """
    if total is not None and manifest.prompts > total:
        raise ValueError(
            f"{path} holds {manifest.prompts} prompts, more than the {total} that were asked for, "
            "so some are there twice: delete it and its manifest, and make it again"
        )


def read_rows(path: str | Path, settings: Mapping[str, Any] | None = None) -> list[Row]:
    """The rows of a data file; arguments and errors are those of `read_content`."""
    return [json.loads(line) for line in lines(read_content(path, settings))]


def lines(content: bytes) -> list[str]:
    """The lines of a JSONL file. A line feed alone ends one: JSON may hold U+2028 as it is."""
    texts = content.decode().split("\n")
    return texts if texts[-1] else texts[:-1]


def read_content(path: str | Path, settings: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a file that match its manifest.

    Args:
        path: the file.
        settings: the settings it must have been made with; None accepts any.

    Raises:
        ValueError: no file or manifest, changed or cut content, or other settings (all listed).
    """
    path = Path(path)
    manifest = read_manifest(path)
    if settings is not None:
        _check_settings(path, manifest, settings)
    content = _listed_bytes(path, manifest)
    if path.stat().st_size > manifest.size:
        raise ValueError(
            f"{path} holds {path.stat().st_size - manifest.size} bytes more than its manifest "
            "lists (an interrupted append or an edit): the next append cuts them off"
        )
    return content


def read_manifest(path: str | Path) -> Manifest:
    """The manifest of a data file.

    Raises:
        ValueError: the data file or its manifest is absent, or the manifest unreadable.
    """
    for needed in (Path(path), manifest_path(path)):
        if not needed.is_file():
            raise ValueError(f"no such file: {needed} (a data file needs its manifest beside it)")
    try:
        return Manifest(**json.loads(manifest_path(path).read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{manifest_path(path)} is not a manifest: {error}") from error


def _listed_bytes(path: Path, manifest: Manifest) -> bytes:
    if not manifest.size and not path.exists():
        return b""
    with open(path, "rb") as file:
        content = file.read(manifest.size)
    if len(content) < manifest.size:
        raise ValueError(f"{path} is cut short: {len(content)} of {manifest.size} bytes")
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ValueError(f"{path} was changed after it was written: its hash differs")
    return content


def _check_settings(path: Path, manifest: Manifest, settings: Mapping[str, Any]) -> None:
    if difference := describe_difference(manifest.settings, _plain(settings, path)):
        raise ValueError(
            f"{path} was made with other settings ({difference}): delete it, or choose another path"
        )


def _encode(rows: Iterable[Row], path: Path) -> tuple[bytes, int]:
    lines = []
    for index, row in enumerate(rows):
        if not all(isinstance(row.get(name), str) for name in ("prompt", "completion")):
            raise ValueError(f"row {index} for {path} needs text under 'prompt' and 'completion'")
        lines.append(json.dumps(row, ensure_ascii=True, sort_keys=True) + "\n")
    return "".join(lines).encode(), len(lines)


def _plain(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if missing := [name for name in REQUIRED_SETTINGS if name not in settings]:
        raise ValueError(f"settings of {path} lack {', '.join(missing)}")
    return as_json(settings)
