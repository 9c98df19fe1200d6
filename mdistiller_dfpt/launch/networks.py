"""The networks that a config names."""

import torch
from yacs.config import CfgNode as CN

from ..config_keys import PUBLISHED_SIZE
from ..data import Data
from ..distillers.build import assistant_names, needs_teacher
from ..models import StagedModel, build_model
from ..models.probe import try_image


def build_network(
    cfg: CN, name: str, num_classes: int = 100, image_shape: tuple[int, int, int] | None = None
) -> StagedModel:
    """The network `name` with fresh weights, with the stages that the config names for it.

    With `image_shape` it is tried on one image; ConfigError where it cannot take that.
    """
    d = cfg.DISTILLER
    stages = {d.STUDENT: d.STUDENT_STAGES, d.TEACHER: d.TEACHER_STAGES}.get(name, [])
    size = image_shape[1] if image_shape else cfg.DATASET.SIZE or PUBLISHED_SIZE
    network = build_model(name, cfg.MODEL.FAMILY, num_classes, stages=stages, image_size=size)
    if image_shape is not None:
        try_image(network, name, image_shape)
    return network


def build_networks(cfg: CN, data: Data) -> tuple[StagedModel, StagedModel | None, list[StagedModel]]:
    """Untrained networks of a config for this data: student, teacher where one is needed, assistants."""
    names = (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER if needs_teacher(cfg) else None, *assistant_names(cfg))
    student, teacher, *assistants = (
        name and build_network(cfg, name, data.num_classes, data.image_shape) for name in names
    )
    return student, teacher, assistants


def build_on_meta(cfg: CN, name: str) -> None:
    """ConfigError where there is no network of this name; costs neither time nor memory."""
    with torch.device("meta"):
        build_network(cfg, name)
