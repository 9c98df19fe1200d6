"""What a dataset holds: its classes, its sizes, and a hash over all images in memory, or over the list of files."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch

from ..errors import DataError
from ..regular_files import opened
from .image_files import FileSet
from .in_memory import ImageSet
from .loader import hashes_of


class Content(TypedDict):
    """A dataset, as recorded in the identity of a run."""

    classes: int
    train_images: int
    test_images: int
    sha256: str


class Images(TypedDict):
    """Unlabelled images, as recorded in the identity of a run."""

    images: int
    sha256: str


def content_of(train: ImageSet | FileSet, test: ImageSet | FileSet) -> Content:
    """The content of a dataset; the hash includes the labels and the names of the classes.

    Of files, the paths relative to their common folder, their sizes and, of at most FEW files, their first bytes are
    hashed: to read all of ImageNet would take minutes.
    """
    digest = hashlib.sha256("\0".join(train.classes).encode())
    for split in (train, test):
        digest.update(split.labels.cpu().to(torch.int64).numpy().tobytes())
        _add_images(digest, split)
    return Content(
        classes=len(train.classes), train_images=len(train.labels), test_images=len(test.labels),
        sha256=digest.hexdigest(),
    )  # fmt: skip


def images_of(split: ImageSet | FileSet) -> Images:
    """The content of unlabelled images, hashed as those of a dataset."""
    digest = hashlib.sha256()
    _add_images(digest, split)
    return Images(images=len(split.labels), sha256=digest.hexdigest())


def _add_images(digest: "hashlib._Hash", split: ImageSet | FileSet) -> None:
    """Hash the images of a split."""
    if split.images is not None:
        digest.update(f"{tuple(split.images.shape)}".encode())
        digest.update(split.images.cpu().contiguous().numpy().data)
    else:
        assert isinstance(split, FileSet)
        digest.update("\0".join(_listed(split.paths)).encode())


FEW, FIRST = 50_000, 4096


def _listed(paths: list[str]) -> list[str]:
    """Each file's path relative to the folder that they share, its size in bytes and, of few files, their beginning."""
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    begin = beginning if len(paths) <= FEW else lambda path: ""
    return [f"{Path(path).relative_to(root)} {os.path.getsize(path)} {begin(path)}" for path in paths]


def keys_of(paths: Sequence[str]) -> list[str]:
    """A key of each file, equal for copies alone; DataError if one cannot be read.

    It has the size and the hash of the first bytes, and that of all bytes where others begin alike, as images without
    compression may.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        alike[f"{beginning(path)} {os.path.getsize(path)}"].append(index)
    keys = [""] * len(paths)
    for first, own in alike.items():
        whole = [_hash(paths[i], None) for i in own] if len(own) > 1 else []
        for i, other in zip(own, whole if len(set(whole)) > 1 else [""] * len(own), strict=True):
            keys[i] = f"{first} {other}".rstrip()
    return keys


def common_to(one: ImageSet | FileSet, other: ImageSet | FileSet) -> int:
    """How many images of `one` are in `other` too; of files, only if they are at most FEW."""
    if one.images is not None and other.images is not None:
        mine, others = hashes_of(one.images), hashes_of(other.images)
    else:
        assert isinstance(one, FileSet)
        assert isinstance(other, FileSet)
        if len(one.paths) + len(other.paths) > FEW:
            return 0
        keys = keys_of([*one.paths, *other.paths])
        mine, others = keys[: len(one.paths)], keys[len(one.paths) :]
    known = set(others)
    return sum(key in known for key in mine)


def beginning(path: str) -> str:
    """The hash of the first bytes of a file; DataError if it cannot be read."""
    return _hash(path, FIRST)


def _hash(path: str, size: int | None) -> str:
    """The hash of so many bytes of a file, or of all."""
    try:
        with opened(path) as f:
            return hashlib.sha256(f.read(size)).hexdigest()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
