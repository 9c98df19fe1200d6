"""Zip archives of others: what Python lists is what other libraries unpack."""

import io
import struct
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
import pytest
import torch

from mdistiller_dfpt.archives import entries_of, unpacked_size
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.runs.safe_load import load_pickled_tensors


def _archive(save) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


SAVED = _archive(lambda file: torch.save({"w": torch.zeros(1000)}, file))
PACKED = _archive(lambda file: np.savez(file, a=np.zeros(1000)))


@pytest.mark.parametrize("content", [SAVED, PACKED])
def test_archives_as_they_are_written(content):
    with ZipFile(io.BytesIO(content)) as archive:
        expected = sum(entry.file_size for entry in archive.infolist())
    assert unpacked_size(entries_of(io.BytesIO(content))) == expected > 4000


def _with_two_directories() -> bytes:
    """Of a bomb of 100 MB: PyTorch reads the directory that the end of the archive names, Python the one before it."""
    with ZipFile(io.BytesIO(SAVED)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}

    def written(contents: dict[str, bytes]) -> tuple[bytes, bytes, bytes]:
        def save(file):
            with ZipFile(file, "w", ZIP_DEFLATED) as archive:
                for name, content in contents.items():
                    archive.writestr(name, content)

        whole = _archive(save)
        length, offset = struct.unpack("<LL", whole[-10:-2])
        return whole[:offset], whole[offset : offset + length], whole[-22:]

    data = next(name for name in entries if name.endswith("data/0"))
    files, directory, end = written({**entries, data: bytes(100_000_000)})
    harmless = written(dict.fromkeys(entries, b"x"))[1]
    assert len(harmless) == len(directory)
    return files + directory + harmless + end


def test_an_archive_with_two_directories_is_refused(tmp_path):
    content = _with_two_directories()
    with ZipFile(io.BytesIO(content)) as archive:
        assert unpacked_size(archive.infolist()) < len(content)
    with pytest.raises(BadZipFile, match="not where it should be"):
        entries_of(io.BytesIO(content))
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of tensors"):
        load_pickled_tensors(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"PK", SAVED[:-22], SAVED[:100]])
def test_what_is_no_archive_is_refused(content):
    with pytest.raises(BadZipFile, match="no directory"):
        entries_of(io.BytesIO(content))
    assert entries_of(io.BytesIO(b"PK\x05\x06" + bytes(18))) == []


def test_a_directory_elsewhere_is_refused():
    end = SAVED.rindex(b"PK\x06\x07")  # it says where a second record of the directory is
    moved = SAVED[:end] + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1) + SAVED[end + 20 :]
    with pytest.raises(BadZipFile, match="not where it should be"):
        entries_of(io.BytesIO(moved))
