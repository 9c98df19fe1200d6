"""The frozen trained network, or its logits from a cache.

Paper: none.

Formula: none of its own; the path has the outputs of the trained network.
"""

from collections.abc import Mapping

from torch import Tensor

from ..data import Batch
from ..models import StagedModel
from ..models.output import Output
from .base import ORIGINAL, TEACHERS, Paths, Teacher


@TEACHERS.register("frozen")
class Frozen(Teacher):
    """One path, `teacher`: the frozen network."""

    takes_soft_labels = True
    reads_only_images = True

    def cacheable(self) -> Mapping[str, StagedModel]:
        return {ORIGINAL: self.network}

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        return Paths({ORIGINAL: lambda: self.original(batch)})

    def original(self, batch: Batch) -> Output:
        """The frozen network's output; only its logits if they are cached."""
        return self.frozen_output(ORIGINAL, batch)

    def logits(self, image: Tensor) -> Tensor:
        """The frozen network's logits (B, classes), computed."""
        return self.frozen_logits(ORIGINAL, image)
