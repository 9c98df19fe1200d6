"""The data of one training step."""

from dataclasses import dataclass, replace

from torch import Tensor

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


@dataclass(frozen=True)
class Batch:
    """image (B, 3, H, W) float, target (B,) int64, index (B,) the samples' positions in the training set.

    `epoch` and `step` count from 1, as in the literature. `strong`: a second, strongly augmented view (B, 3, H, W) of
    the same samples, for methods that need one. `total`: samples in the full batch, if it is sharded across processes;
    None: these are all. `view` (B,) int64: the number of the view of each image, if there are finitely many views.
    `soft` (B, classes): the labels as distributions, if they are smoothed or images are mixed. `extra`: unlabelled
    images, for methods that need some: a batch of its own, whose targets are all UNLABELLED.
    """

    image: Tensor
    target: Tensor
    index: Tensor
    epoch: int = 1
    step: int = 1
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
        """Samples in the full batch, over all processes."""
        return len(self.target) if self.total is None else self.total

    def rows(self, rows: slice, total: int | None = None) -> "Batch":
        """Some of this process's samples, and the unlabelled ones in the same places, of `total` in all processes.

        ValueError if there are more or fewer unlabelled ones, of which `total` is not the number.
        """
        if self.extra is not None and len(self.extra.target) != len(self.target):
            counts = f"{len(self.target)} samples and {len(self.extra.target)} unlabelled ones"
            raise ValueError(f"{counts} cannot be divided at the same places")
        strong, view, soft = (None if x is None else x[rows] for x in (self.strong, self.view, self.soft))
        extra = None if self.extra is None else self.extra.rows(rows, total)
        return replace(
            self, image=self.image[rows], target=self.target[rows], index=self.index[rows], strong=strong, view=view,
            soft=soft, total=total, extra=extra,
        )  # fmt: skip
