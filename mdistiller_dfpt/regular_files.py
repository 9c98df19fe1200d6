"""Opens the files that are read: regular ones alone, and none that is larger than it can be.

Opening a FIFO waits for its writer, a device has no end, and a sparse file that takes no room can be larger than all
memory. Errors are OSErrors with the file and a reason, so a caller reports them as it does a missing file.
"""

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from torch import Tensor

MOST_GROWTH = 1 << 20  # bytes, of a file while it is read
MOST_TEXT = 1 << 30  # bytes; a table of all images of ImageNet has about a tenth


def memory() -> int:
    """The bytes of memory of this machine: no file of weights or images is larger."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def opened(path: str | os.PathLike[str], most: int | None = None) -> BufferedReader:
    """A regular file, opened for reading; OSError if it is of another kind, or larger than `most` bytes (memory)."""
    # Without O_NONBLOCK, a FIFO without a writer would block; for a regular file it has no effect
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as e:
        if e.errno == errno.ENXIO:  # a socket
            _check(os.stat(path), path, 0)
        raise
    try:
        _check(os.fstat(number), path, memory() if most is None else most)
    except OSError:
        os.close(number)
        raise
    return os.fdopen(number, "rb")


def opened_to_change(path: str | os.PathLike[str], most: int = MOST_TEXT, *, append: bool = False) -> TextIO:
    """A regular file to read and write, created if there is none; OSError if a link or another kind is in its place.

    `append`: all that is written goes to its end.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_APPEND if append else 0)
    number = os.open(path, flags, 0o666)
    try:
        _check(os.fstat(number), path, most)
    except OSError:
        os.close(number)
        raise
    return os.fdopen(number, "r+", encoding="utf-8")


def regular(path: Path, most: int | None = None) -> Path:
    """The path itself, for a library that opens it by name; OSError as of `opened`."""
    opened(path, most).close()
    return path


def is_folder(path: Path) -> bool:
    """Whether a folder is there, or nothing; OSError if something else is, or on the way to it.

    A link to a disk that is not mounted is not taken for nothing.
    """
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if there.is_symlink() and not there.exists():
        raise OSError(errno.ENOTDIR, f"is a link to {there.readlink()}, where nothing is", str(there))
    if os.path.lexists(there) and not there.is_dir():
        raise OSError(errno.ENOTDIR, "is no folder", str(there))
    return path.is_dir()


def _check(status: os.stat_result, path: str | os.PathLike[str], most: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
        what = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"is {what}, not a file", str(path))
    if status.st_size > most:
        size, limit = (f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n:,} bytes" for n in (status.st_size, most))
        raise OSError(errno.EFBIG, f"has {size}; at most {limit} are read", str(path))


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a regular file; OSError as of `opened`."""
    with opened(path, most) as file:
        size = os.fstat(file.fileno()).st_size + MOST_GROWTH
        content = file.read(size)
    if len(content) == size:  # as of some in /proc, which say that they are empty and have no end
        raise OSError(errno.EFBIG, "has more than its size", str(path))
    return content


def read_tensors(path: str | os.PathLike[str]) -> dict[str, "Tensor"]:
    """The tensors of a regular safetensors file; OSError as of `opened`, SafetensorError.

    Not mapped, as by `load_file`: a file that another program makes shorter would end the process by SIGBUS.
    """
    from safetensors.torch import load

    return load(read_bytes(path))


def read_text(path: str | os.PathLike[str], most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """The text of a regular file, with line ends as they are; OSError as of `opened`, UnicodeDecodeError."""
    return read_bytes(path, most).decode(encoding)


def read_json(path: str | os.PathLike[str], most: int = MOST_TEXT) -> Any:
    """The value in a regular JSON file; OSError as of `opened`, ValueError if it is no JSON."""
    return parse_json(read_text(path, most))


def parse_json(text: str) -> Any:
    """The value of a JSON text; ValueError if it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
