"""Finds errors of a dataset before training: unreadable files, images in both splits or with two labels."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..regular_files import opened
from .build import FileSource, ImageSource
from .pool import each_of
from .preprocessing import turn_of
from .samples import DECODERS, Fault, read_image


class Look(NamedTuple):
    """What is seen of one image; `digest`, a hash of its pixels, is None if it cannot be read."""

    split: str
    name: str
    reason: str
    digest: str | None
    size: tuple[int, int] = (0, 0)  # width and height
    is_grey: bool = False
    is_rotated: bool = False  # by its EXIF data


def check_source(
    source: ImageSource | FileSource, workers: int, seen: Callable[[int], None]
) -> tuple[list[str], list[str]]:
    """(unreadable files, images that are in both sets or have two labels), one line each.

    `seen` is called with the number of images checked so far.
    """
    with contextlib.closing(look_at(source, workers)) as looks:
        return faults_of(source, looks, seen)


def look_at(source: ImageSource | FileSource, workers: int) -> Generator[Look]:
    """What is seen of each image, those of the training set first; to be closed, which ends its processes."""
    return _scan_files(source, workers) if isinstance(source, FileSource) else _scan_images(source)


def faults_of(
    source: ImageSource | FileSource, looks: Iterable[Look], seen: Callable[[int], None] = lambda count: None
) -> tuple[list[str], list[str]]:
    """What `check_source` returns, of looks at the images."""
    labels = torch.cat([source.train.labels, source.test.labels]).tolist()
    faults: list[str] = []
    where: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    labelled: dict[str, dict[int, str]] = defaultdict(dict)
    for count, (split, name, reason, digest, *_) in enumerate(looks, start=1):
        if digest is None:
            faults.append(f"{name}: cannot be read as an image ({reason})")
        else:
            where[digest][split].append(name)
            labelled[digest].setdefault(labels[count - 1], name)
        seen(count)
    twice = [
        f"{splits['test'][0]}: the same image as {splits['train'][0]} of the training set"
        for splits in where.values() if len(splits) == 2
    ]  # fmt: skip
    twice += [
        "; ".join(f"{name}: class {source.train.classes[label]}" for label, name in names.items()) + ": the same image"
        for names in labelled.values() if len(names) > 1
    ]  # fmt: skip
    return faults, twice


def _look(item: tuple[str, str]) -> Look:
    split, path = item
    image = read_image(path)
    if isinstance(image, Fault):
        return Look(split, path, image.reason, None)
    pixels = np.asarray(image)
    is_grey = bool((pixels == pixels[..., :1]).all())
    with opened(path) as file, Image.open(file, formats=DECODERS) as stored:
        is_rotated = turn_of(stored) is not None
    return Look(split, path, "", _hash(pixels), image.size, is_grey, is_rotated)


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _scan_files(source: FileSource, workers: int) -> Generator[Look]:
    names = [*(("train", p) for p in source.train.paths), *(("test", p) for p in source.test.paths)]
    return each_of(_look, names, workers, lambda item: item[1], "DATASET.NUM_WORKERS")


def _scan_images(source: ImageSource) -> Generator[Look]:
    for split, image_set in (("train", source.train), ("test", source.test)):
        for i, pixels in enumerate(image_set.images.numpy()):
            yield Look(split, f"{split} image {i}", "", _hash(pixels))
