"""Base classes of all methods: student, teacher, precision, named loss terms, logged values."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import Limit
from ..config.nodes import NodeRegistry
from ..data import Batch
from ..data.batch import as_batch
from ..errors import ConfigError, PluginError
from ..losses import Terms
from ..losses.sharded import over_processes
from ..losses.term import checked, checking
from ..models import StagedModel
from ..models.dummy import probing
from ..models.external.adapt import refuse_plain
from ..models.output import Output, as_output, autocast
from ..models.statistics import batch_statistics
from ..teachers import ORIGINAL, Frozen, Teacher, TeacherPath
from ..teachers.hooked import Hooked, refuse_unprepared

TeacherLike = Teacher | TeacherPath | StagedModel
"""What a distiller's constructor accepts as its teacher."""


class Method(Hooked):
    """Base of all methods, including those without a teacher: trains a student with the terms of `forward`.

    `method(batch)` returns `(logits, {name: Term})`; the loop sums the weighted terms. All parameters that require grad
    are optimised, and everything in `state_dict` is saved.
    """

    config: ClassVar[CN] = CN()  # the method's config section; its keys are the constructor's keywords
    limits: ClassVar[Mapping[str, Limit]] = {}  # the allowed values of the section's keys
    when: ClassVar[Mapping[str, When]] = {}  # the conditions, on the section, under which its keys have an effect
    reads: ClassVar[frozenset[str]] = frozenset()  # if it takes the whole config: the sections and added keys it uses
    mdistiller_defaults: ClassVar[Mapping[str, Any]] = {}  # of keys that are inferred from the networks here
    revision: ClassVar[int] = 1  # raised when equal keys give another result: runs of before are other runs
    changed_beside_modules: ClassVar[bool] = False  # the same, in a list where another method adds modules
    needs_teacher: ClassVar[bool] = False
    needs_strong_view: bool = False  # whether batches must include a strongly augmented view
    uses_labelled: bool = True  # False: without labels, labelled images are only classified, for the log
    needs_extra: bool = False  # whether batches must include unlabelled images, DATASET.EXTRA
    needs_teacher_maps: bool = True  # False if the method uses only the teacher's logits
    couples_samples: bool = False  # whether `losses` is not a mean over samples; `check_distiller` tests it
    has_parts: bool = False  # whether each of its distillation terms has a `part`
    takes_soft_labels: bool = False  # whether the terms use `batch.labels`, and nothing else of the labels
    min_batch: int = 1  # the smallest number of samples in a step
    inferred: Mapping[str, object] = {}  # shapes of the networks, by the key of mdistiller's that would give them
    uses_classifier: ClassVar[bool] = False  # whether it needs the student's own classifier, not one deployed instead
    leading: "tuple[Method, ...]" = ()  # in a list of methods: the one that adds modules to the network of all

    def __init__(self, student: StagedModel):
        super().__init__()
        refuse_plain(student, "student")
        self.student = student
        self.student_dtype: torch.dtype | None = None  # autocast dtype of the student; None: float32
        self.dtype: torch.dtype | None = None  # the same for the other networks of the method

    def __call__(self, batch: Batch | Tensor, target: Tensor | None = None, **given: Any) -> tuple[Tensor, Terms]:
        """`forward` of a batch, or of images (B, 3, H, W), labels (B,) and what is given of its other fields."""
        if self.training:
            refuse_unprepared(self.hooked())
        return super().__call__(as_batch(batch, target, **given))

    # Implemented by a method

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        """The student's logits (B, classes) and the weighted terms; losses are computed in float32."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forward")

    @property
    def deployed(self) -> nn.Module:
        """The network used for prediction after training: the student, with any modules that the method adds to it."""
        return self.student

    @property
    def trained(self) -> nn.Module:
        """The network that the terms train: the deployed one, in a list of methods that of the list."""
        return (self.leading[0] if self.leading else self).deployed

    # Used by the training loop

    def forward_student(self, image: Tensor) -> Output:
        """The deployed network's output for images (B, 3, H, W)."""
        with autocast(self.student_dtype, image):
            return as_output(self.trained(image))

    def observed(self, image: Tensor) -> Output:
        """The deployed network's output as in an evaluation, which leaves no gradient and no running statistics."""
        with probing(self.trained):
            return self.forward_student(image)

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (B, classes) to evaluate, by path, from the teacher to the student."""
        return {"student": self.forward_student(image).logits}

    @torch.compiler.disable
    def forward_held_out(self, batch: Batch) -> tuple[Output, Tensor]:
        """The deployed network's output for the held-out samples of a step, and their labels; equal in all processes.

        Without gradient and dropout, and with the BatchNorm statistics of these samples, which are not kept.
        """
        if self.held is None:
            raise ConfigError(
                f"{type(self).__name__} measures the student on samples that are not trained on, and this loop holds"
                " none out: train it by `mdistiller-dfpt train`"
            )
        held = self.held.batch(batch)
        with probing(self.trained), batch_statistics(self.trained):
            return self.forward_student(held.image), held.target

    def frozen(self) -> Sequence[StagedModel]:
        """The frozen networks, whose weights are stored in their own files."""
        return ()

    def set_precision(self, networks: torch.dtype | None, student: torch.dtype | None) -> None:
        """Set the autocast dtype of the networks and of the student, None for float32, in all methods of a list."""
        for module in self.modules():
            if isinstance(module, Method):
                module.dtype, module.student_dtype = networks, student
            elif isinstance(module, Teacher):
                module.dtype = networks

    def hooked(self) -> Sequence[Hooked]:
        """The objects whose `prepare`, `before_step`, `after_step` and `take_logged` the loop calls, in this order."""
        return (self,)

    def training_state(self) -> dict[str, Tensor]:
        """`state_dict` without duplicates and without the frozen networks, which are identified by their hashes."""
        seen = {t.data_ptr() for network in self.frozen() for t in network.state_dict().values() if t.numel()}
        state = {}
        for key, value in self.state_dict().items():
            if value.numel() == 0 or value.data_ptr() not in seen:
                state[key] = value
                seen.add(value.data_ptr())
        return state

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `training_state`; RuntimeError if a key is missing, unexpected or has a different shape."""
        mine = self.training_state()
        missing, unexpected = sorted(set(mine) - set(state)), sorted(set(state) - set(mine))
        wrong = sorted(k for k in set(mine) & set(state) if mine[k].shape != state[k].shape)
        if missing or unexpected or wrong:
            raise RuntimeError(f"missing {missing[:5]}, unexpected {unexpected[:5]}, of different shape {wrong[:5]}")
        with torch.no_grad():
            for key, value in mine.items():
                value.copy_(state[key])
        for part in self.hooked():
            part.is_prepared = True

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        """One line on the training overhead beyond the two networks, printed at the start; None if there is none."""
        extra = sum(p.numel() for p in self.parameters() if p.requires_grad)
        known = [self.student, *(part for part in self.hooked() if isinstance(part, Teacher))]
        extra -= sum(p.numel() for module in known for p in module.parameters() if p.requires_grad)
        return f"{extra:,} parameters are trained in addition to the student's" if extra else None


def checked_output(paths: Mapping[str, Output], path: str, where: type[Teacher], student: Output) -> Output:
    """The output of a path; PluginError naming the kind of teacher if it is not an `Output` of the student's shape."""
    if not isinstance(paths, Mapping) or path not in paths:
        found = list(paths) if isinstance(paths, Mapping) else type(paths).__name__
        raise PluginError(where, f"`forward` returned {found}; it must return {{path: Output}} with a {path!r}")
    if not isinstance(paths[path], Output):
        raise PluginError(where, f"`forward` returned {type(paths[path]).__name__} as {path!r}; it must be an Output")
    shape, mine = (getattr(output.logits, "shape", None) for output in (paths[path], student))
    if shape != mine:
        its = type(paths[path].logits).__name__ if shape is None else f"of shape {tuple(shape)}"
        raise PluginError(where, f"the logits of {path!r} are {its}, and the student's of shape {tuple(mine or ())}")
    return paths[path]


class Distiller(Method):
    """Base of the methods that match a student to a teacher. Most implement only `losses`.

    A distiller matches one `path` of its teacher; if DISTILLER.PATHS names several, each gets its own distiller.
    `teacher`: a teacher, with or without the matched path, or a trained network, which is then frozen.
    """

    needs_teacher = True
    teacher_batch_statistics: bool = False  # whether a frozen teacher's BatchNorm uses those of the batch, in training
    matches_one_path: ClassVar[bool] = True  # False if `terms` selects its paths itself
    teacher_kind: ClassVar[str] = ""  # the kind of teacher that the method requires, if any
    builds_teacher: ClassVar[bool] = False  # True if its section has that kind's keys and its constructor builds it
    starts_from_teacher: ClassVar[bool] = False  # True if it fine-tunes the teacher: a student with its weights

    def __init__(self, student: StagedModel, teacher: TeacherLike):
        super().__init__(student)
        path = ""
        if isinstance(teacher, TeacherPath):
            teacher, path = teacher
        self.teacher: Teacher = teacher if isinstance(teacher, Teacher) else Frozen(teacher)
        self.path = path or next(iter(self.teacher.default_paths()))
        self.min_batch = max(self.min_batch, self.teacher.min_batch)
        if self.starts_from_teacher:
            try:
                student.load_state_dict(self.teacher.network.state_dict())
            except (RuntimeError, AttributeError):
                raise ValueError(
                    f"DISTILLER.STUDENT: {type(self).__name__} fine-tunes a trained teacher, so DISTILLER.STUDENT is to"
                    " be the network DISTILLER.TEACHER"
                ) from None

    @property
    def teacher_network(self) -> StagedModel:
        """The network that determines the feature maps and the classifier of the matched path."""
        return self.teacher.network_of(self.path)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        """The method's terms by logged name; `teacher` is the matched path's output, detached."""
        raise NotImplementedError(f"{type(self).__name__} does not implement losses")

    def extra_losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        """If `needs_extra`: the terms of unlabelled images, added to those of `losses`; `batch` has no labels."""
        raise NotImplementedError(f"{type(self).__name__} does not implement extra_losses")

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        student = self.forward_student(batch.image) if self.uses_labelled else self.observed(batch.image)
        if not isinstance(student, Output):
            raise PluginError(
                type(self), f"`forward_student` returned {type(student).__name__}; it must return an Output"
            )
        paths = self.teacher(batch)
        mine, its = checked(self.terms(student, paths, batch), type(self)), self.teacher_terms(student, paths, batch)
        if both := sorted(mine.keys() & its.keys()):
            raise PluginError(
                type(self.teacher), f"its terms {both} have the names of terms of the method: rename them"
            )
        return student.logits, {**mine, **its}

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        """The terms that train the student, with a mean over processes equal to the terms of a single process."""
        teacher = self.matched_output(student, paths, batch)
        # Before the terms are weighted or merged, which would fail with an error that names no class
        losses = checking(self.losses, type(self))
        terms = over_processes(losses, student, teacher, batch, couples_samples=self.couples_samples)
        return {**terms, **self.extra_terms(batch)} if self.needs_extra else terms

    def extra_terms(self, batch: Batch) -> Terms:
        """The terms of the unlabelled images of a batch, both networks' outputs for which are computed here."""
        if batch.extra is None:
            raise ValueError(f"{type(self).__name__} needs batches with unlabelled images: see DATASET.EXTRA")
        student = self.forward_student(batch.extra.image)
        with torch.no_grad():
            teacher = checked_output(self.teacher(batch.extra), self.path, type(self.teacher), student).detach()
        losses = checking(self.extra_losses, type(self))
        return over_processes(losses, student, teacher, batch.extra, couples_samples=self.couples_samples)

    def matched_output(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Output:
        """The output of the matched path, detached."""
        where = type(self.teacher)
        if self.training and self.teacher_batch_statistics and self.teacher_network in self.frozen():
            # Not from `paths`, which other methods of a list match, with the running statistics
            with batch_statistics(self.teacher_network):
                return checked_output(self.teacher(batch), self.path, where, student).detach()
        return checked_output(paths, self.path, where, student).detach()

    def teacher_terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        """The terms that train the teacher's own modules."""
        if type(self.teacher).losses is Teacher.losses:
            return {}
        losses, couples = checking(self.teacher.losses, type(self.teacher)), self.teacher.couples_samples
        return over_processes(losses, student.detach(), paths, batch, couples_samples=couples)

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        its = self.teacher.evaluated_paths(image)
        if not isinstance(its, Mapping):
            raise PluginError(
                type(self.teacher),
                f"`evaluated_paths` returned {type(its).__name__}; it must return {{path: logits}}",
            )
        return {**its, **super().evaluated_paths(image)}

    def frozen(self) -> Sequence[StagedModel]:
        return self.teacher.frozen()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters of the student and of the method, then the trained parameters of the teacher."""
        teachers = {id(p) for p in self.teacher.parameters()}
        mine = [p for p in self.parameters() if p.requires_grad and id(p) not in teachers]
        return [{"params": mine, "lr_factor": 1.0}, *self.teacher.parameter_groups()]

    def hooked(self) -> Sequence[Hooked]:
        return (self, self.teacher)

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        lines = [self.teacher.overhead(image_shape), super().overhead(image_shape)]
        return "\n".join(line for line in lines if line) or None


DISTILLERS: NodeRegistry[type[Method]] = NodeRegistry("method", "DISTILLER.TYPE", Method)
"""Maps DISTILLER.TYPE to its class; its config section has the same name."""

__all__ = ["DISTILLERS", "ORIGINAL", "Batch", "Distiller", "Method", "Output", "StagedModel", "TeacherLike"]
