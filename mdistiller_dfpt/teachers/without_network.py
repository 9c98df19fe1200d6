"""What the kinds of teacher that are around no network share."""

from collections.abc import Callable, Mapping

from torch import Tensor

from ..data import Batch
from ..models import StagedModel
from ..models.output import NoFeatures, Output
from .base import ORIGINAL, TEACHERS, Paths, Teacher


class WithoutNetwork(Teacher):
    """A teacher with one path, `teacher`, that has only logits, which subclasses implement as `target_logits`."""

    needs_network = False

    def __init__(self) -> None:
        super().__init__(None)
        name = next((name for name, cls in TEACHERS.items() if isinstance(self, cls)), type(self).__name__)
        self.refusal = f"a teacher of kind {name} has only logits: use a method on logits"

    def target_logits(self, batch: Batch) -> Tensor:
        """The logits (B, classes) that the student matches."""
        raise NotImplementedError(f"{type(self).__name__} does not implement target_logits")

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        features = NoFeatures(f"{self.refusal} (this one uses {{!r}})")
        compute: dict[str, Callable[[], Output]] = {ORIGINAL: lambda: Output(self.target_logits(batch), features)}
        return Paths(compute)

    def network_of(self, path: str) -> StagedModel:
        raise ValueError(f"DISTILLER.TYPE: the method uses the teacher's network, and {self.refusal}")

    def has_maps(self, path: str) -> bool:
        return False

    def frozen(self) -> list[StagedModel]:
        return []
