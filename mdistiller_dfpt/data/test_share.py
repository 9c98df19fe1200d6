"""A test set for data that come without one: a share of each class, chosen by what the files contain."""

import hashlib
from collections import defaultdict

import torch

from ..errors import DataError
from .content import keys_of
from .image_files import FileSet


def divide(files: FileSet, share: float) -> tuple[FileSet, FileSet]:
    """(training set, test set) with a share of each class in the second, and at least one image of it in both.

    A file is chosen by a hash of its content, not by its name or place: renamed files stay where they are, copies of
    one image come to the same set, and images that are added later move few of the others. DataError naming a class
    without two different images.
    """
    chosen = torch.zeros(len(files.labels), dtype=torch.bool)
    for label, name in enumerate(files.classes):
        own = (files.labels == label).nonzero()[:, 0].tolist()
        copies: dict[str, list[int]] = defaultdict(list)
        for index, key in zip(own, keys_of([files.paths[i] for i in own]), strict=True):
            copies[hashlib.sha256(key.encode()).hexdigest()].append(index)
        if len(copies) < 2:
            raise DataError(f"DATASET.TEST.SHARE is {share:g}; the class {name} has {len(own)} image"
                            f"{'s, all alike' if len(own) > 1 else ''}: it needs one to train and one to test on, and"
                            " with DATASET.VALIDATION another one")  # fmt: skip
        wanted, taken = max(1, round(share * len(own))), 0
        for key in sorted(copies)[:-1]:
            if taken >= wanted:
                break
            chosen[copies[key]] = True
            taken += len(copies[key])
    return _rows(files, ~chosen), _rows(files, chosen)


def _rows(files: FileSet, rows: torch.Tensor) -> FileSet:
    return files._replace(paths=[files.paths[i] for i in rows.nonzero()[:, 0].tolist()], labels=files.labels[rows])
