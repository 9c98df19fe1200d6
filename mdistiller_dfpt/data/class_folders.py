"""Class folders of images; labels follow the alphabetical order of the folders."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..distributed import rank
from ..errors import DataError
from ..escape import one_name
from .image_files import FileSet
from .read_image import Fault, read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as in torchvision
AS_JPEG = (".jfif", ".jpe")  # JPEG files under another ending
OTHER_IMAGES = (
    ".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".tga", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw",
)  # fmt: skip
MOST_VISITS = 10  # of a folder, by way of links


def class_folders(root: Path) -> list[str]:
    """Names of the class folders in `root`, sorted; DataError if there are none."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it must contain one folder of images per class")
    try:
        with os.scandir(root) as there:
            entries = [e for e in there if not e.name.startswith(".")]
        for entry in entries:  # without it, the classes behind it would have other labels
            if entry.is_symlink() and not os.path.exists(entry.path):
                raise DataError(f"{entry.path}: is a link to {os.readlink(entry.path)}, where nothing is: bring back"
                                " what was there, or remove the link")  # fmt: skip
        names = sorted(e.name for e in entries if e.is_dir())
    except OSError as e:
        raise DataError(f"{e.filename or root}: cannot be read ({e.strerror})") from None
    if not names:
        raise DataError(f"{root}: contains no class folders")
    return names


def folders_below(folder: Path, *, links: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which passes over a folder that cannot be read without a word: DataError here.

    There is nothing in a folder that does not exist. `links`: to folders are followed.
    """

    def fail(error: OSError) -> None:
        if not (isinstance(error, FileNotFoundError | NotADirectoryError) and str(error.filename) == str(folder)):
            raise DataError(f"{error.filename}: cannot be read ({error.strerror})")

    return os.walk(folder, onerror=fail, followlinks=links)


def is_image(name: str) -> bool:
    """Whether a file is read as an image, by its name."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def walk(folder: Path, *, but: str = "") -> Iterator[tuple[str, list[str]]]:
    """(A folder, the names of its files) of all folders below one, less hidden ones and `but`; links are followed.

    Not for ever: no folder is entered from within itself, and none more than MOST_VISITS times, as each of forty that
    links twice to the next would be.
    """
    around = {str(folder): {os.path.realpath(folder), *map(str, Path(os.path.realpath(folder)).parents), but}}
    visits: Counter[str] = Counter()
    for place, inside, names in folders_below(folder):
        entered = []
        for name in sorted(name for name in inside if not name.startswith(".")):
            below = os.path.join(place, name)
            real = os.path.realpath(below)
            visits[real] += 1
            if real not in around[place] and visits[real] <= MOST_VISITS:
                around[below] = around[place] | {real}
                entered.append(name)
        inside[:] = entered
        yield place, names


def images_in(folder: Path) -> tuple[list[str], list[str]]:
    """(paths of the images, of other files) below a folder, in torchvision's order; hidden folders are not entered.

    DataError as of `folders_below`.
    """
    images: list[str] = []
    others: list[str] = []
    for place, names in walk(folder):
        for name in names:
            (images if is_image(name) else others).append(os.path.join(place, name))
    return sorted(images, key=os.path.split), others


def _in_words(paths: Sequence[str]) -> tuple[str, str]:
    """How many unread files have which ending, and what makes images of them: empty if they look like none."""
    # Sorted: of equal counts, the order is not that in which the file system lists them
    endings = Counter(sorted("hidden" if Path(p).name.startswith(".") else Path(p).suffix.lower() for p in paths))
    counts = ", ".join(f"{count} {one_name(ending) or 'without ending'}" for ending, count in endings.most_common(5))
    jpeg, other = ([e for e in some if e in endings] for some in (AS_JPEG, OTHER_IMAGES))
    ways = [f"rename {' '.join(jpeg)} to .jpg"] * bool(jpeg) + [f"convert {' '.join(other)} to .jpg"] * bool(other)
    return f"({counts}); read: {' '.join(SUFFIXES)}", "; to use them, " + " and ".join(ways) if ways else ""


def unread(root: Path, paths: Sequence[str]) -> str:
    """A line on files beside images that are not read, by their endings, and what to do with images among them."""
    files = "1 file is" if len(paths) == 1 else f"{len(paths)} files are"
    of_them, remedy = _in_words(paths)
    return f"{root}: {files} not read as images {of_them}{remedy}"


def say_unread(root: Path, paths: Sequence[str]) -> None:
    """Print the line of `unread`, if there are such files."""
    if paths and rank() == 0:
        print(f"note: {unread(root, paths)}", flush=True)


def no_images(folder: Path, others: Sequence[str], remedy: str) -> str:
    """A line on a folder without images: what it holds instead, or else what to do."""
    if not others:
        return f"{folder}: contains no images (files that end in {' '.join(SUFFIXES)}): {remedy}"
    files = "1 file that is" if len(others) == 1 else f"{len(others)} files that are"
    of_them, better = _in_words(others)
    return f"{folder}: contains no images, but {files} not read {of_them}{better or f'; {remedy}'}"


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
                try:
                    stat = os.stat(path)
                except OSError as e:  # as a link to nothing
                    raise DataError(f"{path}: cannot be read as an image ({e.strerror})") from None
                inside = os.path.relpath(path, root)
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
            faults.append(no_images(root / name, others, "add some, or remove the folder"))
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
