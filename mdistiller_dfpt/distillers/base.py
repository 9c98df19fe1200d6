"""What holds for every method: the frozen teacher, precision, named losses, logged values."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config_keys import Limit, declare_node
from ..data import Batch
from ..distributed import gathered, world_size
from ..registry import Registry
from .teacher_table import KnownLogits


class Output(NamedTuple):
    """What a network returned, in float32 whatever it was computed in."""

    logits: Tensor  # (B, classes)
    features: Mapping[str, Any]  # "feats", "preact_feats": lists of (B, C, H, W); "pooled_feat": (B, C)


class _DistillerRegistry(Registry):
    """Registering a method also adds its node to the config tree."""

    def register(self, name: str):
        file = super().register(name)

        def add(cls: type) -> type:
            if not issubclass(cls, Distiller):
                from .foreign import adapt  # a class written for mdistiller; that file stands on this one

                file(adapt(cls))
                return cls
            file(cls)
            if cls.config:
                declare_node(name, cls.config, cls.limits)
            return cls

        return add


DISTILLERS = _DistillerRegistry("distiller")
"""Maps DISTILLER.TYPE to its class."""


class Float32Features(dict):
    """Features of a network under autocast; each entry is cast when a loss asks for it, and only then."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, list):
            value = [v.float() for v in value]
        elif isinstance(value, Tensor):
            value = value.float()
        self[key] = value
        return value


class WholeFeatures(dict):
    """Features of all processes' samples; each entry is gathered when a loss asks for it, and only then."""

    def __init__(self, own: Mapping[str, Any], total: int | None):
        super().__init__()
        self.own, self.total = own, total

    def __missing__(self, key: str) -> Any:
        value = self.own[key]
        many = isinstance(value, list)
        self[key] = [gathered(v, self.total) for v in value] if many else gathered(value, self.total)
        return self[key]


class Distiller(nn.Module):
    """Base of all methods. Most write `losses` alone.

    `forward_train(image, target, **kwargs)` returns `(logits, {name: weighted scalar})`, as in mdistiller; the loop
    sums the terms. The teacher's parameters, buffers and outputs never change. Whatever requires grad is optimised.
    """

    config: ClassVar[CN] = CN()  # the method's node; its keys are the constructor's keyword arguments
    limits: ClassVar[dict[str, Limit]] = {}  # what values the node's keys take
    needs_teacher: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()  # what else the constructor takes: num_data, image_shape, assistants
    needs_strong_view: ClassVar[bool] = False  # whether a batch must carry a strongly augmented view
    looks_at_teacher_maps: ClassVar[bool] = True  # False where the method needs no more than the teacher's logits
    uses_teacher_output = True  # False where `losses` does without what the teacher says
    uses_epoch: ClassVar[bool] = False  # whether `losses` depends on the epoch beyond the batch itself
    why_eager: ClassVar[str] = ""  # what a step asks of the host, where it does, so that it cannot be a CUDA graph
    couples_samples: ClassVar[bool] = False  # whether `losses` is more than a mean over samples
    min_batch: ClassVar[int] = 1  # the fewest samples that a step can be taken on
    deploys_student_alone: ClassVar[bool] = True  # False where more than the student is needed to predict

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None):
        super().__init__()
        self.student = student
        self.teacher = teacher
        # Networks run under autocast to it, the student to its own; losses never do
        self.autocast_dtype: torch.dtype | None = None
        self.student_autocast_dtype: torch.dtype | None = None
        self.known_logits: KnownLogits | None = None  # gives the teacher's logits in its place
        self._logged: dict[str, Tensor] = {}
        if teacher is not None:
            teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Distiller":
        super().train(mode)
        for network in self.frozen():
            network.eval()  # its BatchNorm must not see the student's batches
        return self

    def frozen(self) -> list[nn.Module]:
        """The networks that never change and that are known by their own files: the teacher, and assistants."""
        return [] if self.teacher is None else [self.teacher]

    @property
    def deployed(self) -> nn.Module:
        """What predicts after training: the student, or it with what a method adds to it."""
        return self.student

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step of a run, with the training set's batches; not when it is resumed."""

    def set_precision(self, networks: torch.dtype | None, student: torch.dtype | None) -> None:
        """What the networks run in, and the student; None is their own float32. Members of a list follow."""
        for module in self.modules():
            if isinstance(module, Distiller):
                module.autocast_dtype, module.student_autocast_dtype = networks, student

    def precision(self, image: Tensor, student: bool = False) -> contextlib.AbstractContextManager:
        """The context in which networks run, or the student."""
        dtype = self.student_autocast_dtype if student else self.autocast_dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(image.device.type, dtype)

    def forward_student(self, image: Tensor) -> Output:
        with self.precision(image, student=True):
            return as_output(self.student(image))

    def forward_teacher(self, image: Tensor, logits: Tensor | None = None) -> Output:
        """What teaches; `logits` (B, classes): the teacher's, where they are known and it need not run for them."""
        return self._run_teacher(image) if logits is None else Output(logits, {})

    def teacher_logits(self, image: Tensor) -> Tensor:
        """The teacher's logits (B, classes), and nothing that a method adds to it."""
        return self._run_teacher(image).logits

    def _run_teacher(self, image: Tensor) -> Output:
        with torch.no_grad(), self.precision(image):
            return as_output(self.teacher(image))

    def losses(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        """The method's weighted terms, scalars by the name they are logged under."""
        raise NotImplementedError(f"{type(self).__name__} writes no losses")

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W), (B,) -> the student's logits (B, classes) and the weighted terms."""
        batch = Batch(image, target, **kwargs)
        student = self.forward_student(image)
        teacher = None
        if self.teacher is not None and self.uses_teacher_output:
            if self.known_logits is None:
                teacher = self.forward_teacher(image)
            else:
                logits = self.known_logits.logits(image, batch.index, batch.view, self.teacher_logits)
                teacher = self.forward_teacher(image, logits)
        return student.logits, self.terms(student, teacher, batch)

    def terms(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        """`losses`, such that their mean over the processes of a run is what one process would compute.

        A mean over samples is weighted by this process's share of them. A method that couples samples sees those of all
        processes: outputs, targets and indices; images stay its own.
        """
        if world_size() == 1:
            return self.losses(student, teacher, batch)
        if not self.couples_samples:
            return weighted_by_share(self.losses(student, teacher, batch), batch)
        whole = batch._replace(target=gathered(batch.target, batch.total), index=gathered(batch.index, batch.total))
        student, teacher = (o if o is None else self.whole(o, batch.total) for o in (student, teacher))
        return self.losses(student, teacher, whole)

    @staticmethod
    def whole(output: Output, total: int | None) -> Output:
        """This process's output as that of all processes, for a loss that couples samples."""
        if world_size() == 1:
            return output
        return Output(gathered(output.logits, total), WholeFeatures(output.features, total))

    def forward_test(self, image: Tensor) -> Tensor:
        """What the deployed network says, (B, classes)."""
        return self.forward_student(image).logits

    def forward_paths(self, image: Tensor) -> dict[str, Tensor]:
        """Logits of everything worth evaluating by name, from what teaches to what learns; always with `student`."""
        return {"student": self.forward_test(image)}

    def forward(self, image: Tensor, target: Tensor | None = None, **kwargs: Any) -> Any:
        if self.training:
            return self.forward_train(image, target, **kwargs)
        return self.forward_test(image)

    def log(self, name: str, value: Tensor) -> None:
        """Report a scalar of this step that is not a loss; the loop averages it over the epoch."""
        self._logged[name] = value.detach()

    def take_logged(self) -> dict[str, Tensor]:
        """The values reported since the last call."""
        logged, self._logged = self._logged, {}
        return logged

    def before_step(self) -> None:
        """Called between the backward pass and the optimiser's step, for what changes the gradient."""

    def after_step(self, batch: Batch) -> None:
        """Called after each optimiser step, for what changes beside the gradient (a memory bank, an average)."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is optimised: `params`, and `lr_factor` on the schedule's learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_factor": 1.0}]

    def training_state(self) -> dict[str, Tensor]:
        """`state_dict`, each tensor once, less the frozen networks: they are known by their hashes, not saved again."""
        seen = {t.data_ptr() for network in self.frozen() for t in network.state_dict().values() if t.numel()}
        state = {}
        for key, value in self.state_dict().items():
            if value.numel() == 0 or value.data_ptr() not in seen:
                state[key] = value
                seen.add(value.data_ptr())
        return state

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `training_state`; RuntimeError where a key is missing, unexpected or of another shape."""
        own = self.training_state()
        missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        wrong = sorted(k for k in set(own) & set(state) if own[k].shape != state[k].shape)
        if missing or unexpected or wrong:
            raise RuntimeError(f"missing {missing[:5]}, unexpected {unexpected[:5]}, of another shape {wrong[:5]}")
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(state[key])

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        """One line on what training costs beside the two networks, printed at the start; None for nothing."""
        extra = sum(p.numel() for p in self.parameters() if p.requires_grad)
        extra -= sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        return f"{extra:,} parameters are trained beside the student's" if extra else None


def weighted_by_share(losses: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """Means over this process's samples, weighted such that their mean over the processes is that over all samples."""
    if world_size() == 1:
        return losses
    factor = world_size() * len(batch.target) / batch.total
    return {name: value * factor for name, value in losses.items()}


def as_output(result: tuple[Tensor, Mapping[str, Any]]) -> Output:
    """A network's (logits, features) as a record in float32."""
    logits, features = result
    return Output(logits.float(), Float32Features(features))
