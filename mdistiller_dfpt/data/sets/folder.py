"""Any dataset of image files: class folders, or tables of paths and labels."""

import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ...errors import DataError
from ..build import DATASETS, FileSource
from ..class_folders import check_same_classes, class_folders, list_files
from ..image_files import FileSet, imagenet_recipe

SIZE = 224


@DATASETS.register("folder")
def folder(cfg: CN) -> FileSource:
    """DATASET.ROOT contains train/<class>/* and val/<class>/* (or test/), or train.csv and val.csv (or test.csv).

    A table has one row `path,label` per image; paths are relative to it; a first row without an image is a header.
    Labels are names, in alphabetical order, or in numerical order if all are numbers. Augmented like ImageNet.
    """
    root = Path(cfg.DATASET.ROOT)
    second = "val" if (root / "val").is_dir() or (root / "val.csv").is_file() else "test"
    if (root / "train.csv").is_file():
        rows = {split: list(_rows(root / f"{split}.csv")) for split in ("train", second)}
        labels, others = ({label for _, label in rows[split]} for split in ("train", second))
        check_same_classes(list(labels), list(others), root)
        classes = sorted(labels, key=(lambda c: (int(c), c)) if all(c.isdecimal() for c in labels) else None)
        train, test = (_from_rows(rows[split], classes) for split in ("train", second))
    elif (root / "train").is_dir():
        classes = class_folders(root / "train")
        check_same_classes(classes, class_folders(root / second), root)
        train, test = (list_files(root / split, classes) for split in ("train", second))
    else:
        raise DataError(
            f"no dataset in DATASET.ROOT {str(root)!r}: it must contain train/<class>/* and val/<class>/*, "
            "or train.csv and val.csv with rows path,label"
        )
    return FileSource(train, test, imagenet_recipe(cfg.DATASET.SIZE or SIZE))


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """(path, label) of each row; DataError naming the line of an invalid row."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{table}: cannot be read ({e})") from None
    seen = False
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"{table}:{number}: is {','.join(row)!r}; expected path,label")
        name, label = row[0].strip(), row[1].strip()
        path = table.parent / name
        if not path.is_file():
            if number == 1:
                continue  # the header
            raise DataError(f"{table}:{number}: no such file: {path}")
        seen = True
        yield str(path), label
    if not seen:
        raise DataError(f"{table}: contains no images")


def _from_rows(rows: list[tuple[str, str]], classes: list[str]) -> FileSet:
    number = {name: i for i, name in enumerate(classes)}
    paths, labels = zip(*rows, strict=True)
    return FileSet(list(paths), torch.tensor([number[label] for label in labels]), tuple(classes))
