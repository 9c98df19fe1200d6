"""What every kind of teacher is: a module around a frozen network that gives the outputs a student is to match."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.keys import Limit
from ..config.nodes import NodeRegistry
from ..data import Batch
from ..losses import Terms
from ..models import StagedModel
from ..models.output import Output, as_output, autocast
from .hooked import Hooked

ORIGINAL = "teacher"
"""The path that every teacher has: the frozen network as it was trained, or what stands in its place."""


class Paths(Mapping[str, Output]):
    """Outputs by path; each is computed when it is asked for, and only then, so that no path runs for nothing."""

    def __init__(self, compute: Mapping[str, Callable[[], Output]]):
        self.compute = compute
        self._outputs: dict[str, Output] = {}

    def __getitem__(self, path: str) -> Output:
        if path not in self._outputs:
            self._outputs[path] = self.compute[path]()
        return self._outputs[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.compute)

    def __len__(self) -> int:
        return len(self.compute)


class Teacher(Hooked):
    """Base of all kinds of teacher: `teacher(batch)` gives the output of each path, by name.

    The frozen networks' parameters, buffers and outputs never change. What of a teacher requires grad is trained beside
    the student, by the terms that `losses` returns.
    """

    config: ClassVar[CN] = CN()  # the kind's node; its keys are the constructor's keyword arguments
    limits: ClassVar[Mapping[str, Limit]] = {}  # what values the node's keys take
    others_key: ClassVar[str] = ""  # the key of DISTILLER that names the networks which the constructor takes as others
    couples_samples: bool = False  # whether `losses` is more than a mean over samples

    def __init__(self, network: StagedModel):
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.dtype: torch.dtype | None = None  # frozen networks run under autocast to it; None: their own float32

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        """Each path's output for a batch; the path `teacher` is always there."""
        raise NotImplementedError(f"{type(self).__name__} writes no forward")

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        """The terms by which the teacher trains what it trains of its own; none by default.

        The student's output comes detached.
        """
        return {}

    def default_paths(self) -> dict[str, float]:
        """The paths that a method matches, and their weights, where DISTILLER.PATHS names none."""
        return {ORIGINAL: 1.0}

    def path_names(self) -> Sequence[str]:
        """All paths that this teacher has."""
        return (ORIGINAL,)

    def network_of(self, path: str) -> StagedModel:
        """The network whose maps and classifier a path has, for methods that must know their shapes."""
        return self.network

    def frozen(self) -> list[StagedModel]:
        """The networks that never change, and that are known by their own files."""
        return [self.network]

    def train(self, mode: bool = True) -> "Teacher":
        super().train(mode)
        for network in self.frozen():
            network.eval()  # its BatchNorm must not see the student's batches
        return self

    def run_frozen(self, network: nn.Module, image: Tensor) -> tuple[Tensor, Mapping[str, Any]]:
        """A frozen network's (logits, features), in its precision and without gradient."""
        with torch.no_grad(), autocast(self.dtype, image):
            return network(image)

    def output_of(self, network: nn.Module, image: Tensor) -> Output:
        """The same in float32."""
        return as_output(self.run_frozen(network, image))

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of paths worth evaluating at every epoch, as they change; none by default."""
        return {}

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        """One line on what the teacher costs beside its frozen network, printed at the start; None for nothing."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return f"{trained:,} parameters of the teacher's own are trained" if trained else None


TEACHERS: NodeRegistry[type[Teacher]] = NodeRegistry("kind of teacher", str.upper)
"""Maps DISTILLER.TEACHER_KIND to its class; its node is the name in upper case."""


class TeacherPath(NamedTuple):
    """A teacher, and the path of it that a method matches."""

    teacher: Teacher
    path: str
