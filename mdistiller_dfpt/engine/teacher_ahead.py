"""The teacher's logits of the next batches in one pass: what is frozen has no batch size."""

from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from ..data import Batch, Share
from ..data.resident import ResidentLoader
from ..distillers import Distiller


class TeacherAhead:
    """Logits (samples, classes) of the samples of the `batches` batches around the one that is taken.

    Passes begin at the same steps in every epoch, so that a run that goes on from between them sees the same numbers.
    """

    def __init__(self, batches: int, distiller: Distiller, loader: ResidentLoader, classes: int):
        self.batches, self.distiller, self.loader = batches, distiller, loader
        self.rows = torch.zeros(loader.num_samples, classes, device=loader.device)
        self.reached: tuple[int, int] | None = None  # epoch, number of the pass

    def reach(self, work: Batch | Share) -> None:
        """See to it that the teacher has spoken of this batch."""
        number = (work.step - 1) // self.batches
        if self.reached == (work.epoch, number):
            return
        first = number * self.batches
        index = torch.cat([s.index for s in islice(self.loader.start(work.epoch, first), self.batches)])
        image = self.loader.batch(Share(index, work.epoch, work.step, len(index))).image
        self.rows[index] = self.distiller.teacher_logits(image)
        self.reached = (work.epoch, number)

    def logits(self, image: Tensor, index: Tensor, view: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The teacher's logits (B, classes) of these samples."""
        return self.rows[index]
