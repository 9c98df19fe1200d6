"""The data of one training step."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from ..distributed import world_size
from ..errors import ConfigError

UNLABELLED = -1
"""The target of an image without a label; a loss that takes it for a class raises an error."""


def hard_labels(labels: Tensor) -> Tensor:
    """Labels (B,), or the most probable class of distributions (B, C)."""
    return labels.argmax(1) if labels.dim() == 2 else labels


@dataclass(frozen=True)
class Shard:
    """This process's part of a batch: the samples at `index` (B,), out of `total` over all processes.

    `epoch` and `step` count from 1, as the methods of the literature do.
    """

    index: Tensor
    epoch: int
    step: int
    total: int


T = TypeVar("T")


class Given(Generic[T]):
    """A field that a program may leave out of a batch; a method that reads it then raises a ConfigError."""

    def __init__(self, meaning: str):
        self.meaning = meaning

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, batch: None, owner: type) -> None: ...
    @overload
    def __get__(self, batch: "Batch", owner: type) -> T: ...
    def __get__(self, batch: "Batch | None", owner: type) -> T | None:
        if batch is None:
            return None  # the default of the field
        value = vars(batch)[self.name]
        if value is None:
            raise ConfigError(
                f"the method or its teacher reads `{self.name}`, {self.meaning}, and this batch was made without it:"
                f" distiller(image, target, {self.name}=...), or the same of a mdistiller_dfpt.Batch"
            )
        return value

    def __set__(self, batch: "Batch", value: T | None) -> None:
        vars(batch)[self.name] = value


@dataclass(frozen=True, repr=False)
class Batch:
    """image (B, 3, H, W) float, target (B,) int64, index (B,) the samples' positions in the training set.

    `epoch` and `step` count from 1, as in the literature. A program may leave out `index`, `epoch` and `step`: a method
    that reads one of them then raises a ConfigError. `strong`: a second, strongly augmented view (B, 3, H, W) of the
    same samples, for methods that need one. `total`: samples in the full batch, if it is sharded across processes;
    None: every process has as many. `view` (B,) int64: the number of the view of each image, if there are finitely many
    views. `soft` (B, classes): the labels as distributions, if they are smoothed or images are mixed. `extra`:
    unlabelled images, for methods that need some: a batch of its own, whose targets are all UNLABELLED.
    """

    image: Tensor
    target: Tensor
    index: Given[Tensor] = Given("the samples' positions in the training set (B,)")
    epoch: Given[int] = Given("the number of the epoch, from 1")
    step: Given[int] = Given("the number of the step in its epoch, from 1")
    strong: Tensor | None = None
    total: int | None = None
    view: Tensor | None = None
    soft: Tensor | None = None
    extra: "Batch | None" = None

    @property
    def labels(self) -> Tensor:
        """What cross-entropy takes: `soft` if there are distributions, else `target`."""
        return self.target if self.soft is None else self.soft

    @property
    def classes(self) -> Tensor:
        """The class of the largest share of each label (B,): `target` unless images are mixed."""
        return hard_labels(self.labels)

    @property
    def size(self) -> int:
        """Samples in the full batch, over all processes, which have equally many if `total` is not given."""
        return world_size() * len(self.target) if self.total is None else self.total

    @property
    def given(self) -> dict[str, Any]:
        """The fields that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def replaced(self, **changes: Any) -> "Batch":
        """The same batch with other values of some fields; what it was made without, it goes without."""
        return Batch(**{**vars(self), **changes})

    def rows(self, rows: slice, total: int | None = None) -> "Batch":
        """Some of this process's samples, and the unlabelled ones in the same places, of `total` in all processes.

        ValueError if there are more or fewer unlabelled ones, of which `total` is not the number.
        """
        if self.extra is not None and len(self.extra.target) != len(self.target):
            counts = f"{len(self.target)} samples and {len(self.extra.target)} unlabelled ones"
            raise ValueError(f"{counts} cannot be divided at the same places")
        of_samples = {name: value[rows] for name, value in self.given.items() if isinstance(value, Tensor)}
        extra = None if self.extra is None else self.extra.rows(rows, total)
        return self.replaced(**of_samples, total=total, extra=extra)

    def __repr__(self) -> str:
        fields = (f"{n} {tuple(v.shape)}" if isinstance(v, Tensor) else f"{n} {v}" for n, v in self.given.items())
        return f"Batch({', '.join(fields)})"


def as_batch(image: Batch | Tensor, target: Tensor | None = None, **given: Any) -> Batch:
    """A batch as it is, or one of images (B, 3, H, W) and labels (B,), with what is `given` of its other fields.

    TypeError if these are no images or no labels.
    """
    if isinstance(image, Batch):
        if target is not None or given:
            raise TypeError("a batch has its labels: call distiller(batch), or distiller(image, target)")
        return image
    if not isinstance(image, Tensor) or image.dim() != 4 or not image.is_floating_point():
        raise TypeError(f"images are {_kind(image)}; they must be a float tensor (B, 3, H, W)")
    if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.shape != image.shape[:1]:
        raise TypeError(
            f"labels are {_kind(target)}; they must be an int64 tensor ({len(image)},) of class numbers (distributions"
            " are the field `soft` of a mdistiller_dfpt.Batch)"
        )
    return Batch(image, target, **given)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return "missing" if value is None else f"of type {type(value).__name__}"
