"""Any dataset of image files: class folders, or tables of paths and labels."""

import contextlib
import os
import shlex
from itertools import islice
from pathlib import Path

from yacs.config import CfgNode as CN

from ...distributed import rank
from ...errors import ConfigError, DataError
from ...invocation import command_line
from ..build import DATASETS, FileSource
from ..class_folders import check_same_classes, class_folders, is_image, list_files
from ..image_files import FileSet, imagenet_recipe
from ..tables import classes_of, file_set, read_table
from ..test_share import divide

SIZE = 224
HOLD_OUT = "set DATASET.TEST.SHARE 0.2 to hold a fifth of each class out"
_ENCODED = {
    "*.parquet": "its .parquet files have images as bytes", "*.arrow": "its .arrow files have images as bytes",
    "*.npz": "its .npz files have images as arrays", "*.npy": "its .npy files have images as arrays",
    "cifar-10-batches-py": "CIFAR-10 has images as arrays", "data_batch_1": "CIFAR-10 has images as arrays",
}  # fmt: skip
SECOND = ("val", "valid", "validation", "test")
"""Names of the test set, in this order."""


@DATASETS.register("folder")
def folder(cfg: CN) -> FileSource:
    """DATASET.ROOT contains train/<class>/* and val/<class>/* (or valid/, validation/, test/), or tables of them.

    The tables are train.csv and val.csv, or metadata.csv (or .jsonl) in the folder of each split: one row `path,label`
    per image; or train.txt and val.txt (also in meta/), of rows `path label`. Paths are relative to the table, or to
    the folder train/, train_images/ or images/ beside it. Labels are names, in alphabetical order, or whole numbers, in
    numerical order. Augmented like ImageNet.

    With DATASET.TEST.SHARE, data without a test set are divided: train/<class>/*, train.csv, or class folders alone.
    """
    root, share = Path(cfg.DATASET.ROOT), cfg.DATASET.TEST.SHARE
    train, test = divide(_undivided(root, share), share) if share else _divided(root)
    return FileSource(train, test, imagenet_recipe(cfg.DATASET.SIZE or SIZE), Path(os.path.abspath(root)).name)


def _divided(root: Path) -> tuple[FileSet, FileSet]:
    """(training set, test set) of a folder that has both; DataError saying what is missing."""
    second = _second(root)
    table, second_table = (_table(root, split) for split in ("train", second))
    if table is not None:
        rows = read_table(table)
        if second_table is None:
            raise DataError(f"{table}: there is no such table of test images beside it, {root / second}.csv: write one"
                            f" with rows that are not in {table.name}, or {HOLD_OUT}")  # fmt: skip
        others = read_table(second_table)
        check_same_classes([label for _, label in rows], [label for _, label in others], root)
        shared = {path for path, _ in rows} & {path for path, _ in others}
        if shared and rank() == 0:
            print(f"note: {len(shared)} of {len(others)} images of {second_table} are training images too, such as"
                  f" {min(shared)}", flush=True)  # fmt: skip
        classes = classes_of([label for _, label in rows], table)
        train, test = (file_set(part, classes) for part in (rows, others))
    elif (root / "train").is_dir():
        classes = _classes_in(root, "train")
        if not (root / second).is_dir():
            raise DataError(f"{root}: there is no folder of test images beside train, val/<class>/* or test/<class>/*:"
                            f" add one, or {HOLD_OUT}")  # fmt: skip
        check_same_classes(classes, _classes_in(root, second), root)
        train, test = (list_files(root / split, classes) for split in ("train", second))
    else:
        raise DataError(
            f"no dataset in DATASET.ROOT {str(root)!r}: it must contain train/<class>/* and val/<class>/*, "
            f"or train.csv and val.csv with rows path,label; {_found_instead(root)}"
        )
    return train, test


def test_set_in(root: Path) -> str | None:
    """The name of the test set in a folder, beside a training set; None if it has none."""
    if not (root / "train").is_dir() and _table(root, "train") is None:
        return None
    return next((name for name in SECOND if (root / name).is_dir() or _table(root, name)), None)


def _undivided(root: Path, share: float) -> FileSet:
    """All images of a folder without a test set; ConfigError if it has one."""
    if found := test_set_in(root):
        raise ConfigError(f"DATASET.TEST.SHARE is {share:g}; {root} has a test set, {found}: remove the key")
    table = _table(root, "train")
    if table is not None:
        rows = read_table(table)
        return file_set(rows, classes_of([label for _, label in rows], table))
    if (root / "train").is_dir():
        return list_files(root / "train", _classes_in(root, "train"))
    return list_files(root, class_folders(root))


def _table(root: Path, split: str) -> Path | None:
    """The table of a split, if it has one; a list beside class folders may be of another kind."""
    tables = [root / f"{split}.csv", *(root / split / f"metadata.{ending}" for ending in ("csv", "jsonl"))]
    if not any(root.glob(f"{split}/*/")):
        tables += [root / f"{split}.txt", root / "meta" / f"{split}.txt"]
    return next((table for table in tables if table.is_file()), None)


def _classes_in(root: Path, split: str) -> list[str]:
    """The class folders of a split; DataError saying what else is there."""
    try:
        names = class_folders(root / split)
    except DataError as e:
        raise DataError(f"{e}; {_found_instead(root)}") from None
    if names == ["images"]:
        raise DataError(f"{root / split}: contains no class folders; {_found_instead(root)}")
    return names


def _found_instead(root: Path) -> str:
    """What a folder contains, and what to do with it if it is a dataset of another form."""
    if not root.is_dir():
        return "it is a file" if root.exists() else "there is no such folder"
    names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in root.iterdir() if not p.name.startswith("."))
    if not names:
        return "it is empty"
    shown = f"it contains {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if (root / "val" / "val_annotations.txt").is_file():
        return f"{shown}: if it is Tiny ImageNet, use DATASET.TYPE tiny_imagenet"
    if (root / "train_test_split.txt").is_file():
        return f"{shown}: if it is CUB-200-2011, use DATASET.TYPE cub200"
    for pattern, kind in _ENCODED.items():
        if any(root.glob(pattern)) or any(root.glob(f"data/{pattern}")):
            return f"{shown}: {kind}: write the images to files, or see A dataset in docs/extend.md"
    if table := next(iter(sorted(root.glob("*.csv"))), None):
        return (f"{shown}: if {table.name} has the labels, divide its rows into train.csv and val.csv, or rename it to"
                f" train.csv and {HOLD_OUT}")  # fmt: skip
    if any(is_image(name) for path in root.iterdir() if path.is_dir() for name in _few_names(path)):
        return f"{shown}: if these folders are the classes, {HOLD_OUT}"
    if not (root / "train").is_dir() and (alone := next((n for n in SECOND if any(root.glob(f"{n}/*/"))), None)):
        test = f"{command_line('eval')} RUN_OR_FILE --images {shlex.quote(str(root / alone))}"
        return f"{shown}: {alone} alone does to test a trained student: `{test}`, or -m NETWORK -c FILE for RUN_OR_FILE"
    if inside := next((p.parent for p in sorted(root.glob("*/train")) if p.is_dir()), None):
        return f"{shown}: perhaps DATASET.ROOT is {str(inside)!r}"
    return shown


def _few_names(folder: Path) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry in islice(entries, 100)]
    return []


def _second(root: Path) -> str:
    """The name of the test set; which of several was taken is said."""
    found = [name for name in SECOND if (root / name).is_dir() or _table(root, name)]
    if len(found) > 1 and rank() == 0:
        print(f"note: {root}: {found[0]} is the test set; not used: {', '.join(found[1:])}", flush=True)
    return found[0] if found else SECOND[0]
