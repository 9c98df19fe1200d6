"""JSON files that hold numbers and a hash of them: a digit that changed on the disk would be another result."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .atomic import write_json
from .regular_files import read_json

CHECKSUM = "checksum"


class Damaged(ValueError):
    """A file that is not as it was written."""


def hash_of(values: Any) -> str:
    """SHA-256 of plain values, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_checked_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON with its checksum to `path` atomically."""
    as_read = json.loads(json.dumps(data))  # keys that are numbers are sorted otherwise than their texts
    write_json(path, data | {CHECKSUM: hash_of(as_read)})


def read_checked_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file, without its checksum; ValueError if it is no JSON, `Damaged` if it differs from that.

    A file without one is of an earlier version, or was written by another program.
    """
    data = read_json(path)
    if isinstance(data, dict) and CHECKSUM in data and data.pop(CHECKSUM) != hash_of(data):
        raise Damaged(f"damaged: it differs from its {CHECKSUM}; bring it back as it was written")
    return data
