"""Finds errors of a dataset before training: unreadable files, images in both splits or with two labels."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from .build import FileSource, ImageSource
from .image_files import Fault, read_image

Look = tuple[str, str, str, str | None]  # split, name, what is wrong, hash of the pixels


def check_source(
    source: ImageSource | FileSource, workers: int, seen: Callable[[int], None]
) -> tuple[list[str], list[str]]:
    """(unreadable files, images that are in both sets or have two labels), one line each.

    `seen` is called with the number of images checked so far.
    """
    labels = torch.cat([source.train.labels, source.test.labels]).tolist()
    looks = _scan_files(source, workers) if isinstance(source, FileSource) else _scan_images(source)
    faults: list[str] = []
    where: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    labelled: dict[str, dict[int, str]] = defaultdict(dict)
    for count, (split, name, reason, digest) in enumerate(looks, start=1):
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


def _look(path: str) -> tuple[str, str | None]:
    """(reason, None) if a file is not an image, else ("", hash of its pixels)."""
    image = read_image(path)
    if isinstance(image, Fault):
        return image.reason, None
    return "", _hash(np.asarray(image))


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _scan_files(source: FileSource, workers: int) -> Iterator[Look]:
    names = [*(("train", p) for p in source.train.paths), *(("test", p) for p in source.test.paths)]
    with ProcessPoolExecutor(max(1, workers)) as pool:
        found = pool.map(_look, (path for _, path in names), chunksize=32)
        for (split, path), (reason, digest) in zip(names, found, strict=True):
            yield split, path, reason, digest


def _scan_images(source: ImageSource) -> Iterator[Look]:
    for split, image_set in (("train", source.train), ("test", source.test)):
        for i, pixels in enumerate(image_set.images.numpy()):
            yield split, f"{split} image {i}", "", _hash(pixels)
