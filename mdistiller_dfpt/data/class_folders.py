"""Class folders of images; labels follow the alphabetical order of the folders."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..distributed import rank
from ..errors import DataError
from .image_files import FileSet
from .samples import Fault, read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as in torchvision


def class_folders(root: Path) -> list[str]:
    """Names of the class folders in `root`, sorted; DataError if there are none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it must contain one folder of images per class")
    names = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise DataError(f"{root}: contains no class folders")
    return names


def is_image(name: str) -> bool:
    """Whether a file is read as an image, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def images_in(folder: Path) -> tuple[list[str], list[str]]:
    """(paths of the images, of other files) below a folder, in torchvision's order; hidden folders are not entered."""
    images: list[str] = []
    others: list[str] = []
    for place, inside, names in os.walk(folder, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for name in names:
            (images if is_image(name) else others).append(os.path.join(place, name))
    return sorted(images, key=os.path.split), others


def say_unread(root: Path, paths: Sequence[str]) -> None:
    """One line on files beside images that are not read, by their endings."""
    if paths and rank() == 0:
        endings = Counter("hidden" if Path(p).name.startswith(".") else Path(p).suffix.lower() for p in paths)
        counts = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in endings.most_common(5))
        print(f"note: {root}: {len(paths)} files are not read as images ({counts}); read: {' '.join(SUFFIXES)}",
              flush=True)  # fmt: skip


def file_fingerprint(paths: Sequence[Path]) -> str:
    """A hash of the name, size and modification time of each file; DataError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            stat = path.stat()
        except OSError as e:
            raise DataError(f"{path}: {e.strerror}; delete it and run again with `DATASET.DOWNLOAD True`") from None
        digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def folder_fingerprint(root: Path, splits: tuple[str, ...]) -> str:
    """A hash of the name, size and modification time of every image; it changes whenever the folder does."""
    digest = hashlib.sha256()
    for split in splits:
        for name in class_folders(root / split):
            for path in images_in(root / split / name)[0]:
                stat, inside = os.stat(path), os.path.relpath(path, root)
                digest.update(f"{inside}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def list_files(root: Path, classes: Sequence[str]) -> FileSet:
    """The images in class folders below `root`, subfolders included; DataError listing all empty classes.

    Other files are counted and said.
    """
    paths, labels, faults, unread = [], [], [], []
    for label, name in enumerate(classes):
        images, others = images_in(root / name)
        if not images:
            faults.append(f"{root / name}: contains no images (files that end in {' '.join(SUFFIXES)})")
        paths += images
        labels += [label] * len(images)
        unread += others
    if faults:
        raise DataError("\n".join(faults))
    say_unread(root, unread)
    return FileSet(paths, torch.tensor(labels, dtype=torch.int64), tuple(classes))


def check_same_classes(train: Sequence[str], test: Sequence[str], where: Path) -> None:
    """DataError naming a class that exists in only one of the two splits."""
    only_train, only_test = sorted(set(train) - set(test)), sorted(set(test) - set(train))
    faults = [
        f"{where}: the class {names[0]} is only in the {split} set"
        + (f", and {len(names) - 1} more" if len(names) > 1 else "") + "; both need the same classes"
        for names, split in ((only_train, "training"), (only_test, "test")) if names
    ]  # fmt: skip
    if faults:
        raise DataError("\n".join(faults))


def read_folders(root: Path, classes: list[str], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All images below `root` as (N, H, W, 3) uint8, and their labels (N,) int64.

    DataError naming the file if an image is damaged or not of size `size`, or naming the folder if it is empty.
    """
    files = list_files(root, classes)
    return read_images(files.paths, size), files.labels.numpy()


def read_images(
    paths: Sequence[str], size: tuple[int, int], change: Callable[[Image.Image], Image.Image] | None = None
) -> np.ndarray:
    """The images as (N, H, W, 3) uint8, each after `change`; DataError if one is damaged or not of size `size`."""

    def read(path: str) -> np.ndarray:
        image = read_image(path)
        if isinstance(image, Fault):
            raise DataError(f"{path}: cannot be read as an image ({image.reason})")
        array = np.asarray(image if change is None else change(image))
        if array.shape != (*size, 3):
            raise DataError(f"{path}: is {array.shape[1]}x{array.shape[0]}; expected {size[1]}x{size[0]}")
        return array

    with ThreadPoolExecutor(4) as pool:
        return np.stack(list(pool.map(read, paths)))
