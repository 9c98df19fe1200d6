"""Images that would take hours, all memory, or the screen: refused in a few words, or read as others are."""

import io
import itertools
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt.data import read_image as module
from mdistiller_dfpt.data.class_folders import MOST_VISITS, images_in
from mdistiller_dfpt.data.read_image import Fault, read_image
from mdistiller_dfpt.data.smaller_copy import files_of


def _saved(form: str, **how) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **how)
    return buffer.getvalue()


PNG, JPEG, PROGRESSIVE, GIF = (
    _saved("PNG"), _saved("JPEG"), _saved("JPEG", progressive=True), _saved("GIF"),
)  # fmt: skip
TEXT = b"P3\n4 4\n255\n" + b"1 " * 48


def _with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, without anything new in it, is there so many times more."""
    last = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * count + PROGRESSIVE[-2:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def _tiff(fields: int, strips: int = 1) -> bytes:
    """A TIFF file with so many fields of no meaning, each as large as the file, and strips."""
    known = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, strips, 0),
             277: (3, 1, 1), 278: (4, 1, 8), 279: (4, strips, 0)}  # fmt: skip
    after = 8 + 2 + 12 * (len(known) + fields) + 4
    places = {273: after, 279: after + 4 * strips} if strips > 1 else {273: after, 279: 64}
    entries = [
        struct.pack("<HHLL", tag, kind, count, places.get(tag, value)) if kind == 4
        else struct.pack("<HHLHH", tag, kind, count, value, 0)
        for tag, (kind, count, value) in known.items()
    ]  # fmt: skip
    body = struct.pack("<L", 8) * strips + struct.pack("<L", 1) * strips if strips > 1 else bytes(64)
    entries += [struct.pack("<HHLL", 1000 + n, 7, after, 8) for n in range(fields)]
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + b"".join(entries) + bytes(4) + body


FAULTS = {
    "scans.jpg": (_with_scans(module.MOST_SCANS), "scans; at most 100 are decoded"),
    "comments.ppm": (TEXT[:11] + b"#\n" * 200 + TEXT[11:], "it is text of over 64 MiB or 100 comments"),
    "comment.ppm": (b"P6\n#" + b"c" * 1_100_000 + b"\n4 4\n255\n" + bytes(48), "it is made of too many parts"),
    "parts.png": (PNG[:33] + _chunk(b"prVt", b"") * 600_000 + PNG[33:], "it is made of too many parts"),
    "padding.jpg": (JPEG[:2] + b"\xff" * 1_100_000 + JPEG[2:], "it is made of too many parts"),
    "segments.jpg": (JPEG[:2] + (b"\xff\xe5\xea\x62" + bytes(60_000)) * 300 + JPEG[2:],
                     "what precedes its pixels has over 16 MiB"),
    "strips.tif": (_tiff(0, 3_000_000), "what precedes its pixels has over 16 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_takes_long_to_read_is_no_image(name, tmp_path):
    content, why = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    found = read_image(str(tmp_path / name))
    assert isinstance(found, Fault)
    assert why in found.reason


SOUND = {
    "a.jpg": JPEG, "progressive.jpg": PROGRESSIVE, "scans.jpg": _with_scans(50), "a.png": PNG, "gif.jpg": GIF,
    "text.ppm": TEXT, "commented.ppm": TEXT[:11] + b"# made by hand\n" * 9 + TEXT[11:], "a.tif": _tiff(0),
    "segments.jpg": JPEG[:2] + (b"\xff\xe5\xea\x62" + bytes(60_000)) * 100 + JPEG[2:],
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_is_unusual_is_read_as_pillow_reads_it(name, tmp_path):
    (tmp_path / name).write_bytes(SOUND[name])
    found = read_image(str(tmp_path / name))
    with Image.open(io.BytesIO(SOUND[name])) as expected:
        assert np.array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))


READ = """
import sys
from mdistiller_dfpt.data.read_image import read_image
print(*(read_image(path).size for path in sys.argv[1:]))
"""


def test_thousands_of_odd_fields_print_nothing(tmp_path):
    """In a process of its own, as pytest shows warnings in its own way."""
    paths = [tmp_path / "a.tif", tmp_path / "a.png"]
    for path, content in zip(paths, (_tiff(3000), PNG[:33] + _chunk(b"eXIf", _tiff(3000)) + PNG[33:]), strict=True):
        path.write_bytes(content)
    found = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("(8, 8) (40, 40)\n", "")


def test_a_larger_file_than_any_image_is_not_read(tmp_path):
    with open(tmp_path / "a.ppm", "wb") as file:
        file.write(b"P6\n#")
        file.truncate(module.MOST_BYTES + 1)
    assert read_image(str(tmp_path / "a.ppm")).reason == "has 1.1 GB; at most 1.1 GB are read"


def test_a_bomb_of_scans_is_none_in_crops_either(tmp_path):
    pytest.importorskip("simplejpeg")
    from torchvision.transforms import v2

    from mdistiller_dfpt.data.samples import Unreadable
    from mdistiller_dfpt.data.scaled_crop import ScaledCrop

    crop = ScaledCrop(v2.RandomResizedCrop(16), turned=False)
    for count, is_read in ((50, True), (module.MOST_SCANS, False)):
        (tmp_path / "a.jpg").write_bytes(_with_scans(count))
        if is_read:
            assert crop(str(tmp_path / "a.jpg")).dtype == torch.uint8
        else:
            with pytest.raises(Unreadable, match="scans; at most"):
                crop(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("kind", ["to itself", "to each other", "twice to the next"])
def test_links_between_folders_are_followed_and_not_for_ever(kind, tmp_path):
    folders = [tmp_path / "train" / "a", *(tmp_path / f"{n}" for n in range(30))]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "a.png").write_bytes(PNG)
    (folders[-1] / "b.png").write_bytes(PNG)
    for here, next_one in itertools.pairwise(folders):
        for name in ("x", "y"):
            others = {
                "to itself": folders[-1] if name == "y" and here == folders[0] else here,
                "to each other": folders[-1] if name == "y" else folders[0],
                "twice to the next": next_one,
            }
            (here / name).symlink_to(others[kind])
    names = [path.rpartition("/")[2] for path in images_in(folders[0])[0]]
    assert names.count("a.png") == 1
    assert 1 <= names.count("b.png") <= MOST_VISITS
    assert len(files_of(tmp_path / "train", tmp_path / "copy", 10, 90)) <= 1 + MOST_VISITS
