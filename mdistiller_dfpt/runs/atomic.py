"""Atomic file writes: a file appears complete or not at all; a failed write is a one-line error."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import CheckpointError


def write_json(path: Path, data: Any) -> None:
    """Write JSON to `path` atomically."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to `path` atomically."""
    part = path.with_name(f".{path.name}.part")
    with saving(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turns a failed write, for example on a full disk, into a one-line error; files written before are kept."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise CheckpointError(
            f"{path}: cannot be written ({getattr(e, 'strerror', None) or e}; {free / 1e6:,.0f} MB free); "
            "what was saved before is untouched: free some space and continue with --resume"
        ) from None
