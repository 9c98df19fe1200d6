"""The networks that a config names."""

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config_keys import PUBLISHED_SIZE
from ..errors import ConfigError
from ..models import StagedModel, build_model
from ..models.complexity import dummy_image


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
        _try_on(network, name, image_shape)
    return network


def build_on_meta(cfg: CN, name: str) -> None:
    """ConfigError where there is no network of this name; costs neither time nor memory."""
    with torch.device("meta"):
        build_network(cfg, name)


@torch.no_grad()
def _try_on(network: nn.Module, name: str, image_shape: tuple[int, int, int]) -> None:
    modes = {m: m.training for m in network.modules()}
    try:
        network.eval()(dummy_image(network, image_shape))
    except Exception as e:  # whatever a network of another library raises at a size that it cannot take
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ConfigError(
            f"{name} cannot take images of {image_shape[1]}x{image_shape[2]} ({reason}); set DATASET.SIZE"
        ) from None
    finally:
        for module, mode in modes.items():
            module.training = mode
