"""Tiny ImageNet: 200 classes at 64x64 (Stanford CS231n), in its official layout or in class folders."""

from pathlib import Path

import torch
from torchvision.transforms import v2
from yacs.config import CfgNode as CN

from ...errors import DataError
from ..build import DATASETS, FileSource
from ..class_folders import check_same_classes, class_folders, list_files
from ..image_files import FileRecipe, FileSet
from ..official import check_class_count, folder_of, lines_of

CLASSES, SIZE = 200, 64


@DATASETS.register("tiny_imagenet")
def tiny_imagenet(cfg: CN) -> FileSource:
    """DATASET.ROOT/tiny-imagenet-200/train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt.

    If `val` has class folders, they are the test set, also beside a val_annotations.txt.
    """
    root = folder_of(cfg, "tiny-imagenet-200")
    if not (root / "train").is_dir():
        raise DataError(
            f"no Tiny ImageNet in DATASET.ROOT {cfg.DATASET.ROOT!r}: unpack"
            f" http://cs231n.stanford.edu/tiny-imagenet-200.zip there, as {root}"
        )
    classes = class_folders(root / "train")
    check_class_count(cfg, len(classes), CLASSES, root / "train")
    train = list_files(root / "train", classes)
    val = root / "val"
    # Scripts that sort the images into class folders leave the list and the folder of the images behind
    folders = [name for name in class_folders(val) if name != "images" or name in classes] if val.is_dir() else []
    if not folders and (val / "val_annotations.txt").is_file():
        test = _annotated(val, classes)
    else:
        check_same_classes(classes, folders or class_folders(val), root)
        test = list_files(val, classes)
    return FileSource(train, test, recipe(cfg.DATASET.SIZE or SIZE))


def recipe(size: int) -> FileRecipe:
    """A rotation by up to 20 degrees and a flip, as in mdistiller."""
    resize = [] if size == SIZE else [v2.Resize((size, size))]
    return FileRecipe(
        v2.Compose([*resize, v2.RandomRotation(20), v2.RandomHorizontalFlip()]), v2.Compose([*resize, v2.Identity()]),
        f"size {size}, rotation by up to 20 degrees, flip", size, (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262),
    )  # fmt: skip


def _annotated(val: Path, classes: list[str]) -> FileSet:
    table, number = val / "val_annotations.txt", {name: i for i, name in enumerate(classes)}
    paths, labels = [], []
    for line, row in enumerate(lines_of(table), start=1):
        name, wnid, *_ = [*row.split("\t"), "", ""]
        path = val / "images" / name
        if Path(name).name != name:
            raise DataError(f"{table}:{line}: {name} is not the name of a file in {val / 'images'}")
        if wnid not in number or not path.is_file():
            raise DataError(f"{table}:{line}: {name} {wnid}: no such image or class")
        paths.append(str(path))
        labels.append(number[wnid])
    if set(labels) != set(range(len(classes))):
        raise DataError(f"{table}: names {len(set(labels))} of {len(classes)} classes")
    return FileSet(paths, torch.tensor(labels), tuple(classes))
