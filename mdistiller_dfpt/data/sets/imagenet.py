"""ImageNet-1k (ILSVRC2012): class folders, or the validation images as distributed, with a file of labels."""

import csv
import io
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ...errors import DataError
from ...parent import stop_with_pool
from ...regular_files import read_bytes, read_text
from ..build import DATASETS, FileSource
from ..class_folders import check_same_classes, class_folders, list_files
from ..image_files import FileSet, imagenet_recipe
from ..official import check_class_count, folder_of

CLASSES, SIZE = 1000, 224
TRUTH = Path("ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
META = Path("ILSVRC2012_devkit_t12/data/meta.mat")
SOLUTION = "LOC_val_solution.csv"
MOST_META = 64 << 20  # bytes of a meta.mat once it is unpacked; its own has less than one
COMPRESSED, HEADER = 15, 128  # of a file of MATLAB: a kind of element, and the bytes before the first
LITTLE_ENDIAN = b"IM"  # at the end of its header; what else is there means the other order


@DATASETS.register("imagenet")
def imagenet(cfg: CN) -> FileSource:
    """DATASET.ROOT/imagenet/train/<wnid>/*.JPEG; val in class folders, or flat next to the devkit or Kaggle's solution.

    The flat layout is val/ILSVRC2012_val_*.JPEG; its labels are read from the devkit's ground truth and meta.mat,
    or from LOC_val_solution.csv.
    """
    root = folder_of(cfg, "imagenet")
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise DataError(
            f"no ImageNet in DATASET.ROOT {cfg.DATASET.ROOT!r}: put (or link) its images at"
            f" {root}/train/<wnid>/ and {root}/val/; access is granted by image-net.org"
        )
    classes = class_folders(root / "train")
    check_class_count(cfg, len(classes), CLASSES, root / "train")
    train = list_files(root / "train", classes)
    if any(entry.is_dir() for entry in (root / "val").iterdir()):
        check_same_classes(classes, class_folders(root / "val"), root)
        test = list_files(root / "val", classes)
    else:
        test = _flat(root, classes)
    return FileSource(train, test, imagenet_recipe(cfg.DATASET.SIZE or SIZE))


def _flat(root: Path, classes: list[str]) -> FileSet:
    """The validation images in a single folder; their classes are read from the file of labels."""
    paths = sorted(str(p) for p in (root / "val").iterdir() if p.suffix.upper() == ".JPEG")
    if not paths:
        raise DataError(f"{root / 'val'}: contains neither class folders nor ILSVRC2012_val_*.JPEG")
    wnids = _labels(root)
    number = {name: i for i, name in enumerate(classes)}
    labels = []
    for path in paths:
        wnid = wnids.get(Path(path).stem)
        if wnid not in number:
            raise DataError(f"{path}: " + (f"its class {wnid} has no training images" if wnid else "has no label"))
        labels.append(number[wnid])
    return FileSet(paths, torch.tensor(labels), tuple(classes))


def _labels(root: Path) -> dict[str, str]:
    """{image name: wnid} of the validation set."""
    try:
        if (root / SOLUTION).is_file():
            rows = csv.DictReader(read_text(root / SOLUTION).splitlines())
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        if (root / TRUTH).is_file():
            with ProcessPoolExecutor(1, initializer=stop_with_pool) as pool:  # scipy may crash at a damaged file
                wnid = pool.submit(_synsets, read_bytes(root / META)).result()
            ids = [int(line) for line in read_text(root / TRUTH, encoding="ascii").split()]
            return {f"ILSVRC2012_val_{i:08d}": wnid[one] for i, one in enumerate(ids, start=1)}
    except Exception as e:  # scipy and csv raise many types for damaged files
        raise DataError(f"{root}: the labels of the validation images cannot be read ({e!r})") from None
    raise DataError(
        f"{root}/val: contains images without class folders, and there is no {TRUTH} (with meta.mat) and no {SOLUTION} "
        f"in {root} that gives their classes"
    )


def _refuse_bomb(content: bytes) -> None:
    """ValueError if the compressed elements of a file of MATLAB unpack to more than any meta.mat has."""
    element = struct.Struct("<II" if content[:HEADER].endswith(LITTLE_ENDIAN) else ">II")  # kind, length; its content
    place, left = HEADER, MOST_META
    while place + element.size <= len(content):
        kind, length = element.unpack_from(content, place)
        place += element.size
        if kind == COMPRESSED:
            left -= len(zlib.decompressobj().decompress(content[place : place + length], left + 1))
            if left < 0:
                raise ValueError(f"{META.name} unpacks to over {MOST_META >> 20} MiB")
        place += length


def _synsets(content: bytes) -> dict[int, str]:
    """{ILSVRC2012_ID: wnid} of a meta.mat."""
    from scipy.io import loadmat  # a slow import that few runs need

    _refuse_bomb(content)
    synsets = loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=False)["synsets"]
    return {int(s.ILSVRC2012_ID): str(s.WNID) for s in synsets}
