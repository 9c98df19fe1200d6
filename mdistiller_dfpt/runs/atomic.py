"""Files that appear complete or not at all, and writes that fail as one line."""

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
    """JSON that appears at `path` complete or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Text that appears at `path` complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    with saving(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """A write that fails, as on a full disk, as one line; what was published before stays."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise CheckpointError(
            f"{path}: cannot be written ({getattr(e, 'strerror', None) or e}; {free / 1e6:,.0f} MB free); "
            "what was saved before is untouched: make room and continue with --resume"
        ) from None
