"""Tables of images and caches of decoded ones: right, or refused by their name; a cache never changes a pixel."""

import contextlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mdistiller_dfpt.data.cache import cached_arrays
from mdistiller_dfpt.data.tables import classes_of, file_set, read_table
from mdistiller_dfpt.errors import DataError

from .strategies import damaged, fuzzed

TABLES = {
    "train.csv": b"path,label\na.png,cat\nb.png,dog\na.png,3\n",
    "train.txt": b"a.png 0\nb.png 1\nc d.png 2\n",
    "train.jsonl": b'{"file_name": "a.png", "label": 0}\n{"file_name": "b.png", "label": "x"}\n',
}
FELL = {
    "train.csv": [b"a.png," + b"9" * 5000 + b"\nb.png,1\n", b'a.png,"x\n', b"a.png,x\0\n", b"\xff\xfe",
                  b"a.png,\xed\xa0\x80\n"],
    "train.txt": [b"a.png\n", b" \n" * 1000],
    "train.jsonl": [b"[" * 100_000, b'{"file_name": ' + b"9" * 5000 + b', "label": 1}', b"null",
                    b'{"file_name": [], "label": {}}'],
}  # fmt: skip


def read_or_refused(path):
    try:
        rows = read_table(path)
        files = file_set(rows, classes_of([label for _, label in rows], path))
    except DataError as e:
        assert path.name in str(e), str(e)  # noqa: PT017
        return
    assert len(files.paths) == len(files.labels) == len(rows) > 0


def images(folder):
    for name in ("a", "b", "c d"):
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")


@pytest.mark.parametrize("name", TABLES)
@fuzzed
@given(st.data())
def test_a_damaged_table_is_read_or_refused(name, tmp_path, data):
    images(tmp_path)
    (tmp_path / name).write_bytes(data.draw(damaged(TABLES[name])))
    read_or_refused(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in FELL for content in FELL[name]])
def test_tables_that_once_fell_are_read_or_refused(name, content, tmp_path):
    images(tmp_path)
    (tmp_path / name).write_bytes(content)
    read_or_refused(tmp_path / name)


ARRAYS = {
    "train": np.arange(600, dtype=np.uint8).reshape(10, 4, 5, 3),
    "test": np.arange(600, 0, -1, dtype=np.uint16).astype(np.uint8).reshape(10, 4, 5, 3),
    "labels": np.arange(10),
}


@fuzzed
@given(st.data())
def test_a_damaged_cache_of_images_never_changes_one(tmp_path, data):
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    cache = root / ".decoded.npz"
    if not (tmp_path / "whole").exists():
        cached_arrays(root, "the same", lambda: ARRAYS, bool)
        (tmp_path / "whole").write_bytes(cache.read_bytes())
    cache.write_bytes(data.draw(damaged((tmp_path / "whole").read_bytes())))
    found = cached_arrays(root, "the same", lambda: ARRAYS, bool)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    with contextlib.suppress(FileNotFoundError):
        assert not re.search("part", " ".join(path.name for path in root.iterdir()))
