"""What is no regular file is refused in one line, without waiting or reading."""

import os
import re
import socket

import numpy as np
import pytest
from PIL import Image

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.data.samples import Fault, read_image
from mdistiller_dfpt.data.tables import read_table
from mdistiller_dfpt.errors import UserError
from mdistiller_dfpt.regular_files import opened, read_bytes, regular
from mdistiller_dfpt.runs.checkpoint import read_manifest
from mdistiller_dfpt.runs.record import read_record
from mdistiller_dfpt.runs.weights import load_weights


def make(path, kind):
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 42)
    return path


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "sparse"])
def test_what_is_no_regular_file_is_refused_wherever_a_file_is_read(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    words = {"sparse": "has 4,398.0 GB"}.get(
        kind, f"is a {kind}, not a file|No such device or address|must be a .yaml file"
    )
    for read, name in ((load_cfg, "a.yaml"), (load_weights, "a.pth"), (load_weights, "a.safetensors"),
                       (read_table, "a.csv"), (read_record, "record.safetensors"),
                       (lambda path: read_manifest(path.parent), "manifest.json")):  # fmt: skip
        path = make(tmp_path / name, kind)
        with pytest.raises(UserError, match=words) as info:
            read(path)
        assert "\n" not in str(info.value)
    (tmp_path / "on_base.yaml").write_text(f"_BASE_: {make(tmp_path / 'base.yaml', kind).name}\n")
    with pytest.raises(UserError, match="base.yaml: has 4,398.0 GB|_BASE_ is base.yaml; no such|must be a .yaml"):
        load_cfg("on_base.yaml")
    image = read_image(str(make(tmp_path / "a.png", kind)))
    assert isinstance(image, Fault)
    assert re.match(words, image.reason)
    for read in (opened, regular, read_bytes):
        with pytest.raises(OSError, match=words):
            read(path)


def test_a_folder_in_the_place_of_a_file_is_named_and_not_left_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    for read in (opened, regular, read_bytes):
        with pytest.raises(IsADirectoryError) as info:
            read(tmp_path)
        assert info.value.filename == str(tmp_path)
    assert os.listdir("/proc/self/fd") == before
    assert read_image(str(tmp_path)).reason == "Is a directory"


def test_an_image_of_another_format_or_of_extreme_shape_is_no_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert read_image(str(tmp_path / "a.png")).reason == "it is none of PNG, JPEG, BMP, DIB, PPM, TIFF, WEBP, GIF"
    for width, is_read in ((300, True), (303, False)):
        Image.fromarray(np.zeros((3, width, 3), np.uint8)).save(tmp_path / "long.png")
        assert isinstance(read_image(str(tmp_path / "long.png")), Fault) != is_read
