"""Knowledge Concentration: teachers responsible for some classes each (Gao et al., 2017, arXiv:1711.07607).

Paper: Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN.

Formula: $$z_c = z^{T_k}_c$$ for the classes $c$ of the specialist $k$ that is responsible for $y$, and no probability
for all others.

Every specialist has logits for all classes, and those of other classes are masked; the student's loss is the method's.
The paper, of which no code was found, has a sigmoid per class and a head per group of classes instead.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import Limit, names
from ..data import Batch
from ..models import StagedModel
from .base import ORIGINAL, TEACHERS
from .several import Joined

OUTSIDE = 1000.0  # logits of masked classes, below the smallest one that is not: probability 0 at any usual temperature


def parse_classes(words: str) -> list[int]:
    """Class numbers, from 0: `0-9,15` -> [0, ..., 9, 15]; ValueError if it is not of this form."""
    classes: list[int] = []
    for part in words.split(","):
        numbers = part.strip().split("-")
        if not all(n.isdecimal() for n in numbers) or len(numbers) > 2 or int(numbers[-1]) < int(numbers[0]):
            raise ValueError(f"CLASSES has {words!r}; write class numbers and ranges, such as 0-9,15")
        classes += range(int(numbers[0]), int(numbers[-1]) + 1)
    return classes


def owners(classes: Sequence[str], networks: int, num_classes: int) -> Tensor:
    """The specialist (from 0) of each class, (C,) int64; ValueError unless each class has exactly one.

    Empty `classes`: contiguous groups of nearly equal size.
    """
    if not classes:
        return torch.arange(num_classes) * networks // num_classes
    if len(classes) != networks:
        raise ValueError(f"CLASSES has {len(classes)} groups; there are {networks} networks")
    groups = [parse_classes(words) for words in classes]
    listed = sorted(label for group in groups for label in group)
    if listed != list(range(num_classes)):
        wrong = next((label for label in listed if listed.count(label) > 1 or label >= num_classes), None)
        wrong = min(set(range(num_classes)) - set(listed)) if wrong is None else wrong
        raise ValueError(f"CLASSES must name each of {num_classes} classes, from 0, exactly once; see class {wrong}")
    found = torch.empty(num_classes, dtype=torch.int64)
    for number, group in enumerate(groups):
        found[group] = number
    return found


def concentrated(logits: Tensor, owner: Tensor, target: Tensor) -> Tensor:
    """The logits of the specialist of each sample's class, where it is responsible; (K, B, C), (C,), (B,) -> (B, C)."""
    chosen = owner[target]
    own = logits[chosen, torch.arange(len(target), device=target.device)]
    is_masked = owner[None, :] != chosen[:, None]
    lowest = own.masked_fill(is_masked, torch.inf).amin(1, keepdim=True)
    return torch.where(is_masked, lowest - OUTSIDE, own)


@TEACHERS.register("specialists")
class Specialists(Joined):
    """The path `teacher`: for each sample, the specialist of its class, with no probability for the classes of others.

    `specialist1`, `specialist2`, ... are the networks themselves. The first is DISTILLER.TEACHER, the others are
    DISTILLER.OTHER_TEACHERS.
    """

    others_key = "OTHER_TEACHERS"
    refusal = (
        f"the path {ORIGINAL!r} of specialists has only logits, but the method uses {{!r}}; match their own paths, for"
        " example `DISTILLER.PATHS.specialist1 1.0`"
    )
    config = CN({"CLASSES": []})  # of each network, such as [0-49, 50-99]; []: contiguous groups of equal size
    limits: ClassVar[Mapping[str, Limit]] = {"CLASSES": names("classes, such as [0-9, '10-19,25']")}
    owner: Tensor  # (C,) int64

    def __init__(
        self, network: StagedModel, others: Sequence[StagedModel] = (), *, classes: Sequence[str], num_classes: int
    ):
        super().__init__(network, others, [f"specialist{i}" for i in range(1, len(others) + 2)])
        self.register_buffer("owner", owners(classes, len(others) + 1, num_classes))

    def joined_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        return concentrated(logits, self.owner, batch.target)
