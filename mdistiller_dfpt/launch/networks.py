"""The networks that a config names, by role."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.policy import PUBLISHED_SIZE
from ..data import Data
from ..distillers.choice import choice
from ..errors import ConfigError
from ..models import StagedModel, build_model
from ..models.dummy import try_image

Role = Literal["student", "teacher", "other"]


@dataclass(frozen=True)
class Networks:
    """The networks of a run: `teacher` if a method needs one, `others` if the kind of teacher has several."""

    student: StagedModel
    teacher: StagedModel | None
    others: list[StagedModel]


def name_of(cfg: CN, role: Role) -> str:
    """The name of the student or teacher network in the config."""
    return cfg.DISTILLER.STUDENT if role == "student" else cfg.DISTILLER.TEACHER


def build_network(
    cfg: CN, role: Role, name: str = "", num_classes: int = 100, image_shape: tuple[int, int, int] | None = None
) -> StagedModel:
    """The network for a role, newly initialised, with the stages set in the config; `name` overrides the network.

    With `image_shape` it is tried on one image; ConfigError if that fails.
    """
    d = cfg.DISTILLER
    name = name or name_of(cfg, role)
    stages = {"student": d.STUDENT_STAGES, "teacher": d.TEACHER_STAGES}.get(role, [])
    size = image_shape[1] if image_shape else cfg.DATASET.SIZE or PUBLISHED_SIZE
    network = build_model(name, cfg.MODEL.FAMILY, num_classes, stages=stages, image_size=size)
    if image_shape is not None:
        _check_output(try_image(network, name, image_shape), name, num_classes)
    return network


def _check_output(result: Any, name: str, num_classes: int) -> None:
    """ConfigError if a network does not return (logits (1, num_classes), features)."""
    logits = result[0] if isinstance(result, tuple) and len(result) == 2 else None
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, num_classes):
        found = type(result).__name__ if logits is None else f"logits of shape {tuple(getattr(logits, 'shape', ()))}"
        raise ConfigError(f"{name} returns {found} for one image; it must be (logits (1, {num_classes}), features)")


def build_networks(cfg: CN, data: Data) -> Networks:
    """Untrained networks of a config for this dataset."""
    chosen, shape = choice(cfg), (data.num_classes, data.image_shape)
    student = build_network(cfg, "student", "", *shape)
    teacher = build_network(cfg, "teacher", "", *shape) if chosen.is_taught else None
    return Networks(student, teacher, [build_network(cfg, "other", name, *shape) for name in chosen.others])


def check_networks(cfg: CN) -> None:
    """ConfigError if the config names an unknown network; takes neither time nor memory."""
    chosen = choice(cfg)
    with torch.device("meta"):
        build_network(cfg, "student")
        if chosen.is_taught:
            build_network(cfg, "teacher")
        for name in chosen.others:
            build_network(cfg, "other", name)
