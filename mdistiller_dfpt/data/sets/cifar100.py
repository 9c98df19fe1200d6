"""CIFAR-100 (Krizhevsky, 2009) from its official archive or from class folders; decoded once, then cached."""

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode as CN

from ...errors import DataError
from ...regular_files import opened, read_bytes
from ..build import DATASETS, ImageSource
from ..cache import cached_arrays
from ..class_folders import check_same_classes, class_folders, file_fingerprint, folder_fingerprint, read_folders
from ..download import download, md5_of
from ..in_memory import ImageSet, Recipe
from ..safe_pickle import load_arrays

RECIPE = Recipe(pad=4, flip=True, mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
ARCHIVE = "cifar-100-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
ARCHIVE_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
MOST_BYTES = 200_000_000  # it has 169 MB
# MD5 of the three members, from torchvision: in a dataset that is already unpacked, each file is checked
MEMBER_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


@DATASETS.register("cifar100")
def cifar100(cfg: CN) -> ImageSource:
    """Searches DATASET.ROOT for cifar100/{train,test}/<class>/*.png, cifar-100-python/ and the archive, in this order.

    Downloads the archive if none exists and DATASET.DOWNLOAD is True. DataError if no data can be read.
    """
    root = Path(cfg.DATASET.ROOT)
    folders, unpacked, archive = root / "cifar100", root / "cifar-100-python", root / ARCHIVE
    if (folders / "train").is_dir():
        return _source(_from_folders(folders))
    if not unpacked.is_dir() and not archive.exists() and cfg.DATASET.DOWNLOAD:
        download(URL, archive, md5=ARCHIVE_MD5, most=MOST_BYTES)
    if unpacked.is_dir():
        members = [unpacked / name for name in MEMBER_MD5]
        return _source(cached_arrays(unpacked, file_fingerprint(members), lambda: _from_unpacked(members), _are_sound))
    if archive.exists():
        return _source(cached_arrays(archive, file_fingerprint([archive]), lambda: _from_archive(archive), _are_sound))
    raise DataError(
        f"no CIFAR-100 in DATASET.ROOT {str(root)!r}: add `DATASET.DOWNLOAD True` to your command to download it, or "
        f"put class folders at {folders}/train/<class>/*.png and {folders}/test/<class>/*.png"
    )


def _source(arrays: dict[str, np.ndarray]) -> ImageSource:
    classes = tuple(str(c) for c in arrays["classes"])
    train, test = (
        ImageSet(torch.from_numpy(arrays[f"{split}_images"]), torch.from_numpy(arrays[f"{split}_labels"]), classes)
        for split in ("train", "test")
    )
    return ImageSource(train, test, RECIPE)


def _are_sound(arrays: dict[str, np.ndarray]) -> bool:
    """Whether these can be the decoded images: a cache comes with its folder, from anywhere. KeyError if one lacks."""
    classes = arrays["classes"]
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if (images.dtype, images.shape[1:]) != (np.uint8, (32, 32, 3)) or labels.dtype != np.int64:
            return False
        if not labels.size or labels.shape != (len(images),) or labels.min() < 0 or labels.max() >= len(classes):
            return False
    return classes.dtype.kind == "U" and classes.ndim == 1


def _from_folders(root: Path) -> dict[str, np.ndarray]:
    def decode() -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = read_folders(root / split, classes, (32, 32))
        return {**arrays, "classes": np.array(classes)}

    classes = class_folders(root / "train")
    check_same_classes(classes, class_folders(root / "test"), root)
    return cached_arrays(root, folder_fingerprint(root, ("train", "test")), decode, _are_sound)


def _from_unpacked(members: Sequence[Path]) -> dict[str, np.ndarray]:
    return _from_pickles({path.name: _read(path) for path in members}, str(members[0].parent))


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as e:
        raise DataError(f"{path}: {e.strerror}; delete the folder and run again with `DATASET.DOWNLOAD True`") from None


def _from_archive(archive: Path) -> dict[str, np.ndarray]:
    if md5_of(archive) != ARCHIVE_MD5:
        raise DataError(
            f"{archive}: not the official archive (its MD5 differs from {ARCHIVE_MD5}); "
            "delete it and run again with `DATASET.DOWNLOAD True`"
        )
    with (
        opened(archive) as file,
        tarfile.open(fileobj=file, mode="r:gz") as tar,
    ):  # in memory, without unpacking to disk
        members = {name: _member(tar, f"cifar-100-python/{name}") for name in MEMBER_MD5}
    return _from_pickles(members, str(archive))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, "the MD5 matched the official archive, which contains this file"
    return file.read()


def _from_pickles(members: dict[str, bytes], origin: str) -> dict[str, np.ndarray]:
    for name, raw in members.items():
        if md5_of(raw) != MEMBER_MD5[name]:
            raise DataError(
                f"{origin}/{name}: not the official file (its MD5 differs from {MEMBER_MD5[name]}); "
                "delete it and run again with `DATASET.DOWNLOAD True`"
            )
    data = {name: load_arrays(raw, f"{origin}/{name}") for name, raw in members.items()}
    names = [n.decode() if isinstance(n, bytes) else n for n in _field(data["meta"], "fine_label_names")]
    arrays = {"classes": np.array(names)}
    for split in ("train", "test"):
        images = np.asarray(_field(data[split], "data"), dtype=np.uint8).reshape(-1, 3, 32, 32)
        arrays[f"{split}_images"] = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        arrays[f"{split}_labels"] = np.asarray(_field(data[split], "fine_labels"), dtype=np.int64)
    return arrays


def _field(data: dict[Any, Any], name: str) -> Any:
    """The archive was written by Python 2, so its keys may be bytes."""
    return data[name] if name in data else data[name.encode()]
