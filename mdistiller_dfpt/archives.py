"""Looks into zip archives of others before a library unpacks them."""

import os
import struct
from io import BufferedIOBase
from zipfile import BadZipFile, ZipFile, ZipInfo

START = b"PK\x03\x04"
_END, _LOCATOR, _END_64 = (struct.Struct(form) for form in ("<4s4H2LH", "<4sLQL", "<4sQ2H2L4Q"))
_LONGEST_COMMENT = (1 << 16) - 1


def entries_of(file: BufferedIOBase) -> list[ZipInfo]:
    """The entries of an archive; BadZipFile if it is none, or if its directory is not where the archive says.

    Where it is not, Python reads the directory before the archive's end, and other libraries the one at that place.
    """
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    found = file.read()[: size - start - _END.size + 4].rfind(b"PK\x05\x06")
    if found < 0:
        raise BadZipFile("it has no directory")
    end = start + found
    length, offset = _read(file, end, _END)[5:7]
    if end >= _LOCATOR.size and (locator := _read(file, end - _LOCATOR.size, _LOCATOR))[0] == b"PK\x06\x07":
        end = locator[2]
        if end + _END_64.size + _LOCATOR.size != start + found:
            raise BadZipFile("its directory is not where it should be")
        length, offset = _read(file, end, _END_64)[8:10]
    if offset + length != end:
        raise BadZipFile("its directory is not where it should be")
    with ZipFile(file) as archive:
        return archive.infolist()


def unpacked_size(entries: list[ZipInfo]) -> int:
    """The bytes of all entries once they are unpacked."""
    return sum(entry.file_size for entry in entries)


def _read(file: BufferedIOBase, place: int, form: struct.Struct) -> tuple:
    file.seek(place)
    return form.unpack(file.read(form.size))
