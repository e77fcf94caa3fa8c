"""What was answered, by request: appended as it comes, so that a killed run asks nothing twice."""

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Answers:
    """Answers in memory and, with a path, in a file of JSON lines that is only ever appended to.

    A line holds the digest of a request and what was read from its response, nothing else: no
    address, no header, no key. Safe to use from several threads of one process.

    Args:
        path: the file; None keeps answers in memory only.
    """

    def __init__(self, path: str | Path | None = None):
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._known = _read(self._path) if self._path is not None and self._path.exists() else {}

    def __len__(self) -> int:
        return len(self._known)

    def recall(self, request: Any, make: Callable[[], Any]) -> Any:
        """The answer to a request, by `make` if it is not known yet; both are JSON values."""
        name = digest(request)
        if name not in self._known:
            self._keep(name, make())
        return self._known[name]

    def _keep(self, name: str, answer: Any) -> None:
        line = json.dumps({"request": name, "answer": answer}) + "\n"
        with self._lock:
            self._known[name] = answer
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "a") as file:
                    file.write(line)


def digest(request: Any) -> str:
    """Hexadecimal digits that stand for a request: equal JSON, equal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """Answers of a file; a last line that a kill cut short is removed."""
    with open(path, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
    try:
        entries = [json.loads(line) for line in content[:whole].splitlines()]
        return {entry["request"]: entry["answer"] for entry in entries}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} holds a line that is no answer: delete the file") from None
