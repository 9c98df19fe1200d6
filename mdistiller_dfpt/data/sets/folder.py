"""Any dataset of image files: class folders, or tables of paths and labels."""

from pathlib import Path

from yacs.config import CfgNode as CN

from ...distributed import rank
from ...errors import DataError
from ..build import DATASETS, FileSource
from ..class_folders import check_same_classes, class_folders, list_files
from ..image_files import imagenet_recipe
from ..tables import classes_of, file_set, read_table

SIZE = 224
SECOND = ("val", "valid", "validation", "test")
"""Names of the test set, in this order."""


@DATASETS.register("folder")
def folder(cfg: CN) -> FileSource:
    """DATASET.ROOT contains train/<class>/* and val/<class>/* (or valid/, validation/, test/), or tables of them.

    The tables are train.csv and val.csv, or metadata.csv in the folder of each split: one row `path,label` per image,
    with paths relative to the table. Labels are names, in alphabetical order, or whole numbers, in numerical order.
    Augmented like ImageNet.
    """
    root = Path(cfg.DATASET.ROOT)
    second = _second(root)
    tables = [_table(root, split) for split in ("train", second)]
    if tables[0] is not None:
        rows, others = (read_table(table or root / f"{second}.csv") for table in tables)
        check_same_classes([label for _, label in rows], [label for _, label in others], root)
        classes = classes_of([label for _, label in rows], tables[0])
        train, test = (file_set(part, classes) for part in (rows, others))
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


def _table(root: Path, split: str) -> Path | None:
    tables = (root / f"{split}.csv", root / split / "metadata.csv")
    return next((table for table in tables if table.is_file()), None)


def _second(root: Path) -> str:
    """The name of the test set; which of several was taken is said."""
    found = [name for name in SECOND if (root / name).is_dir() or (root / f"{name}.csv").is_file()]
    if len(found) > 1 and rank() == 0:
        print(f"note: {root}: {found[0]} is the test set; not used: {', '.join(found[1:])}", flush=True)
    return found[0] if found else SECOND[0]
