"""Settings that travel with data and checkpoints: JSON values, compared field by field."""

import json
from collections.abc import Mapping
from typing import Any


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they read back from a file (tuples become lists).

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    return json.loads(json.dumps(settings))


def describe_difference(found: Any, wanted: Any, prefix: str = "") -> str:
    """The settings that differ, as "name: x there, y here"; empty if none do."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        parts = [
            describe_difference(found.get(n, "absent"), wanted.get(n, "absent"), f"{prefix}{n}.")
            for n in sorted({*found, *wanted})
        ]
        return "; ".join(part for part in parts if part)
    return "" if found == wanted else f"{prefix.rstrip('.')}: {found!r} there, {wanted!r} here"
