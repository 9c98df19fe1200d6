"""Base of all kinds of teacher: a module around a frozen network that returns the outputs for the student to match."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import Limit
from ..config.nodes import NodeRegistry
from ..data import Batch
from ..losses import Terms
from ..models import StagedModel
from ..models.external.adapt import refuse_plain
from ..models.output import NoFeatures, Output, as_output, autocast
from .hooked import Hooked
from .logits_cache import Logits

ORIGINAL = "teacher"
"""The path that every teacher has: the frozen network, or its substitute."""


class Paths(Mapping[str, Output]):
    """Outputs by path; each is computed lazily, on first access, so that no path runs unnecessarily."""

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
    """Base of all kinds of teacher: `teacher(batch)` returns the output of each path, by name.

    The frozen networks' parameters, buffers and outputs never change. The teacher's parameters that require grad are
    trained jointly with the student, by the terms that `losses` returns. The constructor gets the network, unless
    `needs_network` is False, and what it names of num_data, num_classes, image_shape and epochs.
    """

    config: ClassVar[CN] = CN()  # the config section; its keys are the constructor's keywords
    limits: ClassVar[Mapping[str, Limit]] = {}  # the allowed values of the section's keys
    when: ClassVar[Mapping[str, When]] = {}  # the conditions, on the section, under which its keys have an effect
    others_key: ClassVar[str] = ""  # the key of DISTILLER with the networks passed to the constructor as `others`
    needs_network: ClassVar[bool] = True  # False: DISTILLER.TEACHER is not used
    starts_untrained: ClassVar[bool] = False  # True: the network is trained along with the student, from its start
    couples_samples: bool = False  # whether `losses` is not a mean over samples
    takes_soft_labels: bool = False  # whether labels are not used, or only as `batch.labels`
    reads_only_images: bool = False  # whether outputs depend on `batch.image` alone: it can teach unlabelled images
    min_batch: int = 1  # the smallest number of samples in a step

    network: StagedModel  # absent if `needs_network` is False

    def __init__(self, network: StagedModel | None):
        super().__init__()
        if network is not None:
            refuse_plain(network, "teacher")
            self.network = network.requires_grad_(False).eval()
        self.dtype: torch.dtype | None = None  # autocast dtype of the frozen networks; None: float32
        self.caches: dict[str, Logits] = {}  # of the networks of `cacheable`, by their names there

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        """The output of each path for a batch; there is always a path `teacher`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        """The terms that train the teacher's own modules; none by default.

        The student's output is detached.
        """
        return {}

    def default_paths(self) -> dict[str, float]:
        """The paths that a method matches, and their weights, if DISTILLER.PATHS is empty."""
        return {ORIGINAL: 1.0}

    def path_names(self) -> Sequence[str]:
        """All paths of this teacher."""
        return (ORIGINAL,)

    def network_of(self, path: str) -> StagedModel:
        """The network that determines a path's feature maps and classifier, for methods that need their shapes."""
        return self.network

    def has_maps(self, path: str) -> bool:
        """Whether a path has features; False where it has only logits, so that methods on features do not match it."""
        return bool(self.network_of(path).stage_channels)

    def learns(self, path: str) -> bool:
        """Whether the features of a path change in training: nothing can be measured on them before the first step."""
        return any(p.requires_grad for p in self.network_of(path).parameters())

    def frozen(self) -> list[StagedModel]:
        """The frozen networks, whose weights are stored in their own files."""
        return [self.network]

    def cacheable(self) -> Mapping[str, StagedModel]:
        """By name, the networks whose outputs the paths read through `frozen_output` alone: caches can replace them."""
        return {}

    def read_by(self, path: str) -> Sequence[str]:
        """The names in `cacheable` of the networks that a path reads."""
        return tuple(self.cacheable())

    def frozen_output(self, name: str, batch: Batch) -> Output:
        """The output of a network of `cacheable` for a batch; only its logits if they are cached."""
        if name not in self.caches:
            return self.output_of(self.cacheable()[name], batch.image)
        refusal = "DISTILLER.LOGITS_CACHE stores only the teacher's logits, but the method uses {!r}: remove it"
        return Output(self.caches[name].logits(batch, partial(self.frozen_logits, name)), NoFeatures(refusal))

    def frozen_logits(self, name: str, image: Tensor) -> Tensor:
        """The logits (B, classes) of a network of `cacheable`, computed."""
        return self.output_of(self.cacheable()[name], image).logits

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
        """The output of a frozen network in float32."""
        return as_output(self.run_frozen(network, image))

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) of the paths to evaluate at every epoch, because they change; none by default."""
        return {}

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        """One line on the teacher's overhead beyond its frozen network, printed at the start; None if there is none."""
        trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return f"{trained:,} parameters of the teacher's own are trained" if trained else None


TEACHERS: NodeRegistry[type[Teacher]] = NodeRegistry("kind of teacher", "DISTILLER.TEACHER_KIND", Teacher, str.upper)
"""Maps DISTILLER.TEACHER_KIND to its class; its config section is the name in upper case."""


class TeacherPath(NamedTuple):
    """A teacher, and the one of its paths that a method matches."""

    teacher: Teacher
    path: str
