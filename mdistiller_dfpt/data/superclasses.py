"""Classes joined to few superclasses, as in CIFAR-10 with even and odd labels (Loo et al., 2024, arXiv:2409.20449)."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from ..errors import ConfigError
from .image_files import FileSet
from .in_memory import ImageSet

Split = TypeVar("Split", ImageSet, FileSet)


def of_classes(superclasses: Sequence[int] | None, count: int) -> list[int]:
    """The superclass of each of `count` classes: the list repeated from its start; None: each class is one."""
    return [superclasses[c % len(superclasses)] if superclasses else c for c in range(count)]


def joined(split: Split, superclasses: Sequence[int]) -> Split:
    """A split with the label `superclasses[c]` in place of c, repeated from its start if there are more classes.

    A superclass is named by its classes. ConfigError if the list is longer than the dataset has classes.
    """
    count = len(split.classes)
    if len(superclasses) > count:
        raise ConfigError(
            f"DATASET.SUPERCLASSES has {len(superclasses)} entries; there are {count} classes: give at most as many"
        )
    of_class = of_classes(superclasses, count)
    names = [
        "+".join(name for name, own in zip(split.classes, of_class, strict=True) if own == number)
        for number in range(max(superclasses) + 1)
    ]
    table = torch.tensor(of_class, dtype=torch.int64, device=split.labels.device)
    return split._replace(labels=table[split.labels], classes=tuple(names))
