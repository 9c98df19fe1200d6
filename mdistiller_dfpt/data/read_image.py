"""Reads image files of any origin: by named decoders, within limits of shape, memory and time."""

import errno
import warnings
from collections.abc import Callable
from io import BufferedReader
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from ..errors import DataError
from ..regular_files import opened
from .preprocessing import as_rgb

T = TypeVar("T")

# Other decoders of Pillow start programs, as Ghostscript for EPS; a file's first bytes choose one, not its name
DECODERS = ("PNG", "JPEG", "BMP", "DIB", "PPM", "TIFF", "WEBP", "GIF")
MOST_ASPECT = 100  # resized to a short side of 256, a longer image takes gigabytes
MOST_BYTES = 1 << 30  # of a file; those of 16 bits with as many pixels as Pillow decodes have so many
MOST_IN_HEADER = 16 << 20  # bytes; of a list of a TIFF file's strips, Pillow makes objects of fifty times its size
MOST_READS = 1_000_000  # Pillow reads a comment, and what separates segments, byte by byte
MOST_SCANS = 100  # of a progressive JPEG, which has about 10: each passes over all of the image, and can be a few bytes
MOST_TEXT, MOST_COMMENTS = 64 << 20, 100  # bytes of an image as text, and of which Pillow copies all that follows

# Pillow prints one for each odd field of a file, of which there can be thousands
warnings.filterwarnings("ignore", module=r"PIL\.")


class Fault(NamedTuple):
    """A file that is not an image, and the reason."""

    path: str
    reason: str


class _Limited(BufferedReader):
    """A file of which a decoder can read no more than any image needs; DataError then."""

    reads = in_header = 0
    is_header = True

    def read(self, size: int | None = -1) -> bytes:
        """As of the base class."""
        self.reads += 1
        self.in_header += max(size or 0, 0) * self.is_header
        if self.reads > MOST_READS:
            raise DataError("it is made of too many parts")
        if self.in_header > MOST_IN_HEADER:
            raise DataError(f"what precedes its pixels has over {MOST_IN_HEADER >> 20} MiB")
        return super().read(size)


def read_image(path: str) -> Image.Image | Fault:
    """The image as `as_rgb` makes it, or the reason why it cannot be read.

    A rotation in the EXIF data is not applied, as in torchvision, but kept: `upright` applies it.
    """
    return read_by(path, as_rgb)


def read_by(path: str, decode: Callable[[Image.Image], T]) -> T | Fault:
    """What `decode` makes of an image of which only the header is read yet, or the reason why that fails."""
    try:
        with _Limited(opened(path, MOST_BYTES).detach()) as file, Image.open(file, formats=DECODERS) as image:
            file.is_header = False
            if max(image.size) > MOST_ASPECT * min(image.size):
                return Fault(path, f"{image.width} x {image.height}: a side is over {MOST_ASPECT} times the other")
            _check_passes(image, file)
            return decode(image)
    except DataError as e:
        return Fault(path, str(e))
    except UnidentifiedImageError:
        return Fault(path, f"it is none of {', '.join(DECODERS)}")
    except MemoryError:
        raise
    except Exception as e:  # Pillow raises many types for damaged files
        if isinstance(e, OSError) and e.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # no fault of the file
        return Fault(path, getattr(e, "strerror", None) or str(e) or type(e).__name__)


def _check_passes(image: Image.Image, file: BufferedReader) -> None:
    """DataError if the decoder would pass over an image, or over its file, thousands of times."""
    place = file.tell()
    if image.info.get("progressive"):
        file.seek(0)
        scans = file.read().count(b"\xff\xda")  # their marker; a thumbnail has its own
        if scans > MOST_SCANS:
            raise DataError(f"it has {scans:,} scans; at most {MOST_SCANS} are decoded")
    elif image.format == "PPM":
        file.seek(0)
        if file.read(2) in (b"P1", b"P2", b"P3"):
            text = file.read()
            if len(text) > MOST_TEXT or text.count(b"#") > MOST_COMMENTS:
                raise DataError(f"it is text of over {MOST_TEXT >> 20} MiB or {MOST_COMMENTS} comments")
    file.seek(place)
