"""Builds a distiller from a config; code below this level never sees `cfg`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config.conditions import is_measured
from ..config.keywords import asked_for, keywords_for
from ..errors import ConfigError, is_accident, made
from ..models import StagedModel
from ..models.dummy import ImageShape, num_logits
from ..models.external.adapt import adapt
from ..teachers import ORIGINAL, TEACHERS, Teacher, TeacherPath, build_teacher
from .base import Distiller, Method
from .choice import Choice, choice
from .combined import Combined, Member
from .hook_values import check_hooks

AMP_DTYPES: dict[str, torch.dtype | None] = {"none": None, "bf16": torch.bfloat16}


NOT_GIVEN = {
    "num_data": "num_data, the number of samples in the training set",
    "image_shape": "image_shape, the (3, H, W) of the images",
}
"""What a method may ask for and a program may leave out."""


def build_distiller(
    cfg: CN, student: nn.Module, teacher: nn.Module | None = None, num_data: int | None = None, *,
    image_shape: ImageShape | None = None, others: Sequence[nn.Module] = (),
) -> Method:  # fmt: skip
    """The distiller of DISTILLER.TYPE for a student and a teacher; networks of other libraries are adapted (`adapt`).

    `teacher` is the trained network, which the kind of teacher wraps; `others` are further trained networks, for kinds
    that use several. `num_data` is the size of the training set, for methods with a memory bank; `image_shape`
    (3, H, W) is for methods that need the sizes of feature maps, and for networks of other libraries. A method that
    asks for `epochs` gets SOLVER.EPOCHS. ConfigError if a method is unknown, if one of its keys does not fit these
    networks, or if it asks for what is not given.
    """
    beside: dict[str, Any] = {"epochs": cfg.SOLVER.EPOCHS, "batch_size": cfg.SOLVER.BATCH_SIZE}
    if num_data is not None:
        beside["num_data"] = num_data
    if image_shape is not None:
        beside["image_shape"] = tuple(image_shape)
    chosen, d = choice(cfg), cfg.DISTILLER
    if is_measured(cfg):
        raise ConfigError("SOLVER.SPEED auto and SOLVER.AMP fastest are measured by `train` and `md.run`; a program of"
                          " its own sets SOLVER.AMP to none or bf16, and SOLVER.COMPILE")  # fmt: skip
    _refuse_not_given(chosen, beside)
    given = [student, *([] if teacher is None else [teacher])]
    student = _adapted(student, d.STUDENT_STAGES, image_shape)
    teacher = None if teacher is None else _adapted(teacher, d.TEACHER_STAGES, image_shape)
    adapted = [_adapted(network, (), image_shape) for network in others]
    if image_shape is not None and not all(isinstance(network, StagedModel) for network in given):
        _refuse_other_classes(student, teacher, image_shape)
    try:
        if not chosen.is_taught:
            method = _alone(cfg, chosen, student)
        elif teacher is None and chosen.teacher:
            raise ConfigError(f"DISTILLER.TYPE is {chosen.label}; it needs a teacher: set DISTILLER.TEACHER")
        else:
            method = _taught(cfg, chosen, student, teacher, adapted, beside)
    except ValueError as e:
        if is_accident(e):
            raise
        raise ConfigError(str(e)) from None
    for distiller in (*(member.distiller for member in getattr(method, "members", ())), method):
        check_hooks(distiller)
    method.set_precision(AMP_DTYPES[cfg.SOLVER.AMP], AMP_DTYPES[cfg.SOLVER.AMP_STUDENT or cfg.SOLVER.AMP])
    return method


def _refuse_not_given(chosen: Choice, beside: Mapping[str, Any]) -> None:
    """ConfigError if a method or the kind of teacher asks for what is not given, even if it has a default for it."""
    kind = {chosen.kind: TEACHERS[chosen.kind]} if chosen.is_taught else {}
    for name, cls in {**chosen.methods, **kind}.items():
        if missing := [what for key, what in NOT_GIVEN.items() if key not in beside and asked_for(cls, {key: None})]:
            raise ConfigError(f"{name} needs {' and '.join(missing)}: give it to build_distiller")


def _adapted(network: nn.Module, stages: Sequence[str], image_shape: ImageShape | None) -> StagedModel:
    if not isinstance(network, StagedModel) and image_shape is None:
        raise ConfigError(
            f"{type(network).__name__} is a network of another library: give build_distiller image_shape, the (3, H, W)"
            " of the images, by one of which its feature maps are found"
        )
    return adapt(network, image_shape[1] if image_shape else 0, stages)


def _refuse_other_classes(student: StagedModel, teacher: StagedModel | None, image_shape: ImageShape) -> None:
    networks = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    counts = {role: num_logits(network, image_shape) for role, network in networks.items()}
    if len(set(counts.values())) > 1:
        words = [f"the {role} {_title(network)} returns {counts[role]} logits" for role, network in networks.items()]
        raise ConfigError(f"{', '.join(words)}: both need one for each class")


def _alone(cfg: CN, chosen: Choice, student: StagedModel) -> Method:
    if len(chosen.methods) > 1:
        raise ConfigError(f"{chosen.label}: none of these methods uses a teacher; name a single one")
    (name, cls), *_ = chosen.methods.items()
    return made(cls, student, **_arguments(cfg, name, cls, {}))


def _taught(
    cfg: CN, chosen: Choice, student: StagedModel, network: StagedModel | None, others: Sequence[StagedModel],
    beside: Mapping[str, Any],
) -> Distiller:  # fmt: skip
    methods = chosen.methods
    for name, cls in methods.items():
        if len(methods) > 1 and not _can_be_summed(cls):
            raise ConfigError(f"DISTILLER.TYPE: {name} runs the networks itself and cannot be in a list")
    if cfg.DISTILLER.PATHS and not any(_matches_one_path(cls) for cls in methods.values()):
        raise ConfigError(f"DISTILLER.PATHS is set; {chosen.label} has its own keys for path weights: remove it")
    # A method whose section has the keys of its kind of teacher builds the teacher, which all methods of a list share
    builds = next((n for n, m in methods.items() if getattr(m, "builds_teacher", False)), None)
    teacher: Teacher | None = None
    if not builds:
        of_run = dict(beside)
        if asked_for(TEACHERS[chosen.kind], {"num_classes": None}):
            size = getattr(student, "image_size", 32)  # that of an adapted network
            of_run["num_classes"] = num_logits(student, beside.get("image_shape", (3, size, size)))
        teacher = build_teacher(cfg, network, others, chosen.kind, of_run)
    if teacher is not None:
        check_hooks(teacher)
    members: dict[str, list[Member]] = {}
    for name in sorted(methods, key=lambda n: n != builds):
        cls = cast(type[Distiller], methods[name])
        make = partial(made, cls, student, **_arguments(cfg, name, cls, beside))
        prefix = name if len(methods) > 1 else ""
        if teacher is None:
            distiller = make(network)
            teacher = distiller.teacher
            check_hooks(teacher)
            members[name] = [Member(distiller, prefix)]
        elif not cls.matches_one_path:
            members[name] = [Member(make(teacher), prefix)]
        else:
            # If a method of the list built the teacher and matches all its paths, the others match the original path
            paths = dict(cfg.DISTILLER.PATHS) or ({ORIGINAL: 1.0} if builds else teacher.default_paths())
            _refuse_unknown(paths, teacher, chosen.kind)
            _refuse_several(name, cls, paths)
            members[name] = [
                Member(make(TeacherPath(teacher, path)), prefix, path if len(paths) > 1 else "", weight)
                for path, weight in paths.items()
            ]
            _refuse_without_maps(name, [member.distiller for member in members[name]], chosen.kind)
    summed = [member for name in methods for member in members[name]]
    if len(summed) == 1 and summed[0].weight == 1:
        return summed[0].distiller
    return Combined(summed)


def _refuse_unknown(paths: Mapping[str, float], teacher: Teacher, kind: str) -> None:
    for path in paths:
        if path not in teacher.path_names():
            raise ConfigError(
                f"DISTILLER.PATHS.{path}: a teacher of kind {kind} has the paths {', '.join(teacher.path_names())}"
            )


def _refuse_without_maps(name: str, distillers: Sequence[Distiller], kind: str) -> None:
    for distiller in distillers:
        teacher = distiller.teacher
        if not distiller.needs_teacher_maps:
            continue
        for role, network in {"STUDENT": distiller.student, "TEACHER": distiller.teacher_network}.items():
            if not network.stage_channels:
                raise ConfigError(
                    f"DISTILLER.TYPE: {name} uses features, and no feature maps were found in {_title(network)}: name"
                    f" the modules that end its stages (DISTILLER.{role}_STAGES), or use a method on logits"
                )
        if not teacher.has_maps(distiller.path):
            others = ", ".join(path for path in teacher.path_names() if teacher.has_maps(path))
            remedy = f"set DISTILLER.PATHS to paths that have them ({others})" if others else "use another kind"
            raise ConfigError(
                f"DISTILLER.TYPE: {name} uses the teacher's features (`needs_teacher_maps`), and the path "
                f"{distiller.path!r} of a teacher of kind {kind} has only logits: {remedy}"
            )


def _title(network: StagedModel) -> str:
    return type(getattr(network, "network", network)).__name__


def _refuse_several(name: str, cls: type[Method], paths: Mapping[str, float]) -> None:
    if not _can_be_summed(cls) and list(paths.values()) != [1.0]:
        raise ConfigError(f"DISTILLER.PATHS: {name} runs the networks itself and matches one path at "
                          f"weight 1, not {', '.join(f'{p} {w}' for p, w in paths.items())}")  # fmt: skip


def _arguments(cfg: CN, name: str, cls: type[Method], beside: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's keywords: those of the method's section, and further ones in its signature."""
    wanted = asked_for(cls, {**beside, "cfg": cfg})
    if "cfg" in wanted:  # a class written for mdistiller reads its section itself
        return wanted
    return {**(keywords_for(cls, cfg[name]) if cls.config else {}), **wanted}


def _can_be_summed(cls: type[Method]) -> bool:
    return issubclass(cls, Distiller) and cls.forward is Distiller.forward


def _matches_one_path(cls: type[Method]) -> bool:
    return issubclass(cls, Distiller) and cls.matches_one_path and not cls.builds_teacher
