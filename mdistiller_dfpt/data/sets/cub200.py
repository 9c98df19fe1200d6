"""CUB-200-2011 (Wah et al., 2011) in its official layout; its lists are joined by image number."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import torch
from torchvision.transforms import v2
from yacs.config import CfgNode as CN

from ...errors import DataError
from ...invocation import command_line
from ...regular_files import opened
from ..build import DATASETS, FileSource
from ..download import download, md5_of
from ..image_files import IMAGENET_MEAN, IMAGENET_STD, FileRecipe, FileSet
from ..official import check_class_count, folder_of, lines_of

CLASSES, SIZE = 200, 224
MOST_DIGITS = 9  # of the number of an image or a class
FOLDER, ARCHIVE = "CUB_200_2011", "CUB_200_2011.tgz"
URL = f"https://data.caltech.edu/records/65de6-vp158/files/{ARCHIVE}"
MOST_BYTES = 1_300_000_000  # it has 1.15 GB
ARCHIVE_MD5 = "97eceeb196236b17998738112f37df78"


@DATASETS.register("cub200")
def cub200(cfg: CN) -> FileSource:
    """DATASET.ROOT/CUB_200_2011, or the archive next to it, which is unpacked once; DATASET.DOWNLOAD True downloads it.

    The split is the official train_test_split.txt.
    """
    root = folder_of(cfg, FOLDER)
    if not root.is_dir():
        archive = root.with_name(ARCHIVE)
        if not archive.is_file():
            if not cfg.DATASET.DOWNLOAD:
                raise DataError(
                    f"no CUB-200-2011 in DATASET.ROOT {cfg.DATASET.ROOT!r}: add `DATASET.DOWNLOAD True` to your command"
                    f" to download it (1.1 GB), or put {ARCHIVE} there"
                )
            print(f"downloading {URL} (1.1 GB)", flush=True)
            download(URL, archive, md5=ARCHIVE_MD5, most=MOST_BYTES)
        unpack(archive, root)
    train, test = read_lists(root)
    check_class_count(cfg, len(train.classes), CLASSES, root)
    return FileSource(train, test, recipe(cfg.DATASET.SIZE or SIZE))


def recipe(size: int) -> FileRecipe:
    """Resize to 8/7 of the size without cropping, then random crop and flip (SDD, CVPR 2024)."""
    larger = (round(size * 256 / 224),) * 2
    return FileRecipe(
        v2.Compose([v2.Resize(larger), v2.RandomCrop(size), v2.RandomHorizontalFlip()]),
        v2.Compose([v2.Resize(larger), v2.CenterCrop(size)]),
        f"resized to {larger[0]}, random crop {size}, flip", size, IMAGENET_MEAN, IMAGENET_STD,
    )  # fmt: skip


def unpack(archive: Path, target: Path) -> None:
    """Unpack the official archive; `target` appears only when complete. DataError for any other archive."""
    if md5_of(archive) != ARCHIVE_MD5:
        raise DataError(
            f"{archive}: not the official archive (its MD5 differs from {ARCHIVE_MD5}); "
            "delete it and run again with `DATASET.DOWNLOAD True`"
        )
    print(f"unpacking {archive}", flush=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{FOLDER}-"))
    try:
        with opened(archive) as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
            tar.extractall(part, filter="data")  # rejects members outside the folder
        os.rename(part / FOLDER, target)
    except (OSError, tarfile.TarError) as e:
        raise DataError(f"{archive}: cannot be unpacked ({e})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_lists(root: Path) -> tuple[FileSet, FileSet]:
    """Training and test set; DataError listing all errors with their list and line."""
    names, split = _table(root / "images.txt"), _table(root / "train_test_split.txt")
    labels, classes = _table(root / "image_class_labels.txt"), _table(root / "classes.txt")
    faults = []
    for file, table in (("image_class_labels.txt", labels), ("train_test_split.txt", split)):
        if odd := sorted(set(names) ^ set(table), key=int):
            where = file if odd[0] in names else "images.txt"
            faults.append(f"{root / where}: has no image {odd[0]}" + (f" nor {len(odd) - 1} more" * (len(odd) > 1)))
    order = sorted(classes, key=int)
    number = {one: i for i, one in enumerate(order)}
    sets: dict[str, tuple[list[str], list[int]]] = {"1": ([], []), "0": ([], [])}
    for image in sorted(names, key=int) if not faults else ():
        name, label, part = PurePosixPath(names[image]), labels[image], split[image]
        path = root / "images" / name
        if name.is_absolute() or ".." in name.parts:
            faults.append(f"{root / 'images.txt'}: image {image} is outside the folder, at {name}")
        elif not path.is_file():
            faults.append(f"{path}: no such file")
        elif label not in number:
            faults.append(f"{root / 'image_class_labels.txt'}: image {image} has class {label}, which does not exist")
        elif part not in sets:
            faults.append(f"{root / 'train_test_split.txt'}: image {image} has {part}; it must be 0 or 1")
        else:
            sets[part][0].append(str(path))
            sets[part][1].append(number[label])
    for part, (_, found) in sets.items() if not faults else ():
        for missing in sorted(set(range(len(order))) - set(found)):
            split_name = "training" if part == "1" else "test"
            faults.append(f"{root}: the class {classes[order[missing]]} has no {split_name} images")
    if faults:
        more = f"; {len(faults) - 10} more errors: `{command_line('check-data')}` lists them"
        raise DataError("\n".join(faults[:10]) + (more if len(faults) > 10 else ""))
    titles = tuple(classes[one] for one in order)
    train, test = (FileSet(paths, torch.tensor(found), titles) for paths, found in sets.values())
    return train, test


def _table(path: Path) -> dict[str, str]:
    """{number: the rest of its line}."""
    table: dict[str, str] = {}
    for line, text in enumerate(lines_of(path), start=1):
        number, _, rest = text.strip().partition(" ")
        if not number:
            continue
        if not number.isdecimal() or len(number) > MOST_DIGITS or not rest or number in table:
            raise DataError(f"{path}:{line}: is {text[:80]!r}; expected a new number and a value")
        table[number] = rest
    return table
