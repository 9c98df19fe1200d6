"""A copy of a folder of images in which the large ones are smaller, so that training reads them faster."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import IO, NamedTuple

from PIL import ExifTags, Image

from ..atomic import NotWritten, write_file
from ..errors import DataError
from ..regular_files import opened
from .class_folders import is_image
from .pool import each_of
from .preprocessing import as_rgb, orientation_of
from .samples import Fault, read_by

FORMATS = {name: name for name in ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")} | {"MPO": "JPEG"}
"""The format in which an image of a format is written; what has none is copied."""
SHARPER = (
    2  # times the final size, at which libjpeg may decode: Pillow's documentation finds no difference from there on
)


class File(NamedTuple):
    """One file to write, and how."""

    source: str
    target: str
    side: int  # the longest that the shorter side may be
    quality: int


class Written(NamedTuple):
    """What became of a file: `shrunk`, `copied` (an image), `other`, or `there` already; its bytes; what failed."""

    what: str
    before: int = 0
    after: int = 0
    fault: str = ""
    stop: str = ""  # what would fail for other files, too


class Totals(NamedTuple):
    """What became of a folder."""

    files: Counter[str]
    before: int
    after: int
    faults: list[str]


def files_of(source: Path, target: Path, side: int, quality: int) -> list[File]:
    """Every file below a folder but hidden ones, and its place in the copy; links are followed."""
    found, copy = [], os.path.realpath(target)
    for place, inside, names in os.walk(source, followlinks=True):
        here = Path(os.path.realpath(place))
        # Not for ever: a link to a folder around it leads back to it
        around = {copy, *map(str, (here, *here.parents))}
        inside[:] = sorted(name for name in inside if not name.startswith(".")
                           and os.path.realpath(os.path.join(place, name)) not in around)  # fmt: skip
        below = target / os.path.relpath(place, source)
        found += [File(os.path.join(place, name), str(below / name), side, quality) for name in sorted(names)
                  if not name.startswith(".")]  # fmt: skip
    return found


def shrink(files: list[File], workers: int) -> Generator[Written]:
    """Write the files in several processes; DataError if one cannot be written, as on a full disk."""
    for written in each_of(write, files, workers, lambda file: file.source, "--workers"):
        if written.stop:
            raise DataError(written.stop)
        yield written


def write(file: File) -> Written:
    """Write one file, unless it is there; its modification time becomes that of its source, by which it is known."""
    source, target = Path(file.source), Path(file.target)
    try:
        status = source.stat()
        if target.is_file() and target.stat().st_mtime_ns == status.st_mtime_ns:
            return Written("there", status.st_size, target.stat().st_size)
        content = read_by(file.source, lambda image: _smaller(image, file)) if is_image(source.name) else None
        if isinstance(content, Fault):
            return Written("", fault=f"{source}: cannot be read as an image ({content.reason})")
        original: IO[bytes] = opened(source) if content is None else io.BytesIO(content)
    except OSError as e:
        return Written("", fault=f"{source}: {e.strerror}")

    def fill(part: Path) -> None:
        with open(part, "wb") as copy:
            shutil.copyfileobj(original, copy)
        os.utime(part, ns=(status.st_mtime_ns, status.st_mtime_ns))

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with original:
            write_file(target, fill)
    except NotWritten as e:
        return Written("", stop=str(e))
    except OSError as e:
        return Written("", stop=f"{target.parent}: cannot be written ({e.strerror})")
    what = "shrunk" if content is not None else "copied" if is_image(source.name) else "other"
    return Written(what, status.st_size, target.stat().st_size)


def _smaller(image: Image.Image, file: File) -> bytes | None:
    """The content of a smaller image, in the format of this one; None if it stays as it is."""
    orientation = orientation_of(image)  # first, as that of a TIFF file changes its size
    form, least = FORMATS.get(image.format or ""), min(image.size)
    if form is None or least <= file.side:
        return None
    width, height = (max(1, round(length * file.side / least)) for length in image.size)
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    image.draft(None, (SHARPER * width, SHARPER * height))
    whole = image if image.mode in ("L", "RGB") else as_rgb(image)
    content = io.BytesIO()
    whole.resize((width, height), Image.Resampling.BICUBIC).save(
        content, form, quality=file.quality, exif=exif.tobytes() if len(exif) else b""
    )
    return content.getvalue()


def add_up(files: Generator[Written]) -> Totals:
    """The totals of what was written."""
    kinds: Counter[str] = Counter()
    before, after, faults = 0, 0, []
    for file in files:
        if file.fault:
            faults.append(file.fault)
            continue
        kinds[file.what] += 1
        before, after = before + file.before, after + file.after
    return Totals(kinds, before, after, faults)
