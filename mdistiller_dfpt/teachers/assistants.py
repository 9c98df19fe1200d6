"""A chain of assistants between teacher and student, each distilled from those before it (TAKD, arXiv:1902.03393).

Paper: that of TAKD.

Formula: none of its own; each path has the outputs of one network.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from ..data import Batch
from ..models import StagedModel
from ..models.output import Output
from .base import ORIGINAL, TEACHERS, Paths
from .several import SeveralNetworks


def path_of(number: int) -> str:
    """The path of assistant `number`, counted from 1, the strongest first."""
    return f"assistant{number}"


@TEACHERS.register("assistants")
class Assistants(SeveralNetworks):
    """The paths `teacher`, `assistant1`, `assistant2`, ...; by default a method matches the last.

    The assistants are the networks of DISTILLER.ASSISTANTS, strongest first, trained in turn before the student.
    """

    others_key = "ASSISTANTS"
    takes_soft_labels = True
    reads_only_images = True

    def __init__(self, network: StagedModel, others: Sequence[StagedModel] = ()):
        super().__init__(network, others, [ORIGINAL, *(path_of(i) for i in range(1, len(others) + 1))])

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        return Paths({path: partial(self.frozen_output, path, batch) for path in self.networks})

    def default_paths(self) -> dict[str, float]:
        return {list(self.networks)[-1]: 1.0}
