"""Atomic, durable writes: a file appears complete or not at all, and is on the disk when the function returns."""

import contextlib
import errno
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import CheckpointError

WITHOUT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
PLENTY = 1e9  # bytes free, with which a write fails for another reason than the room


class NotWritten(CheckpointError):
    """A file or folder that cannot be written, and why."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path}: cannot be written {why}")
        self.why = why


def write_json(path: Path, data: Any) -> None:
    """Write JSON to `path` atomically."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text to `path` atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write bytes to `path` atomically."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            file.write(content)

    write_file(path, write)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill an empty file beside `path`, and put it in its place."""
    part = _beside(path)
    with saving(path):
        try:
            # Created here, under a name that nobody can foresee: a link in its place would lead elsewhere
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            mode = part.stat().st_mode
            write(part)
            with contextlib.suppress(OSError):  # some file systems have no modes to change
                part.chmod(mode)  # safetensors writes another file, which the user alone may read
            flush(part)
            os.replace(part, path)
            flush(path.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write into an empty folder beside `path`, by the functions here, and put it in its place.

    Of the folders above, one may be missing: if two are, the run was moved or deleted, and must not begin there anew.
    """
    part = _beside(path)
    with saving(path):
        try:
            path.parent.mkdir(exist_ok=True)
            part.mkdir()
            fill(part)
            if path.exists():
                shutil.rmtree(path)
            os.rename(part, path)
            flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Delete what writes left in a folder when their process was killed; nobody may be writing there."""
    for part in folder.glob(".*.part"):
        _remove(part)


def remove_old_parts(path: Path) -> None:
    """Delete what writes of one file or folder left whose process was killed; another process may be writing it.

    So one that is younger than an hour stays; one of the future is of a clock that was wrong.
    """
    with contextlib.suppress(OSError):
        for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            if abs(time.time() - part.stat().st_mtime) > 3600:
                _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk, if its file system has a way to know."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as e:  # as of folders on some network file systems
        if e.errno not in WITHOUT_FLUSH:
            raise
    finally:
        os.close(number)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turns a failed write, for example on a full disk, into a one-line error; files written before are kept.

    Of several, one in another, the outermost is named: the others are parts of what it writes.
    """
    try:
        yield
    except NotWritten as e:
        raise NotWritten(path, e.why) from None
    except (OSError, SafetensorError) as e:
        why = getattr(e, "strerror", None) or str(e)
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else None
        if (free is not None and free < PLENTY) or os.strerror(errno.EDQUOT) in why:
            why, remedy = f"{why}; {(free or 0) / 1e6:,.0f} MB free", "free some space"
        else:
            remedy = "remove the cause"
        raise NotWritten(
            path,
            f"({why}); what was saved before is untouched: {remedy} and repeat the command, or continue a run with"
            " --resume",
        ) from None
