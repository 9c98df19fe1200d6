"""Decoded arrays, cached on disk until their source changes."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..archives import entries_of, unpacked_size
from ..atomic import NotWritten, remove_old_parts, write_file
from ..regular_files import opened


def _candidates(root: Path) -> list[Path]:
    """In the folder or next to the archive; if that is not writable, in the user's cache directory."""
    own = root / ".decoded.npz" if root.is_dir() else root.with_name(f".{root.name}.decoded.npz")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdistiller_dfpt"
    return [own, home / f"{root.resolve().as_posix().strip('/').replace('/', '-')[-150:]}.npz"]


Arrays = dict[str, np.ndarray]


def cached_arrays(
    root: Path, fingerprint: str, decode: Callable[[], Arrays], are_sound: Callable[[Arrays], bool]
) -> Arrays:  # fmt: skip
    """The arrays of `decode()`, read from a cache file if one has this fingerprint and they are such as it returns."""
    for path in _candidates(root):
        remove_old_parts(path)
        try:
            with opened(path) as f:
                if unpacked_size(entries_of(f)) > f.seek(0, os.SEEK_END):  # it is written without compression
                    continue
                f.seek(0)
                stored = np.load(f, allow_pickle=False)
                if str(stored["fingerprint"]) != fingerprint:
                    continue
                # The format has a checksum of each array, and none of their names
                arrays = {name: stored[name] for name in stored.files if name not in ("fingerprint", "layout")}
                if str(stored["layout"]) == _layout(arrays) and are_sound(arrays):
                    return arrays
        except Exception:  # noqa: S112  a damaged file can raise almost any; it is decoded and written anew
            continue
    arrays = decode()
    content: dict[str, Any] = {"fingerprint": fingerprint, "layout": _layout(arrays), **arrays}
    for path in _candidates(root):
        with contextlib.suppress(OSError, NotWritten):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, lambda part: _save(part, content))
            break
    return arrays


def _layout(arrays: Arrays) -> str:
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(arrays.items()))


def _save(part: Path, content: dict[str, Any]) -> None:
    with open(part, "wb") as file:  # given a name, numpy would append an ending to it
        np.savez(file, **content)
