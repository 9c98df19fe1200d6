"""From a config to a distiller: the last line that sees `cfg`."""

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config import keywords
from ..errors import ConfigError
from .base import DISTILLERS, Distiller

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16}


def build_distiller(cfg: CN, student: nn.Module, teacher: nn.Module | None, num_data: int) -> Distiller:
    """The method DISTILLER.TYPE over two networks; `num_data` is the training set's size, for methods with a memory.

    ConfigError where the method is unknown or one of its keys does not fit these networks.
    """
    name = cfg.DISTILLER.TYPE
    method = DISTILLERS[name]
    if method.needs_teacher and teacher is None:
        raise ConfigError(f"DISTILLER.TYPE is {name}; it needs a teacher: set DISTILLER.TEACHER")
    node = cfg[name] if method.config else CN()
    arguments = keywords(node)
    if method.needs_num_data:
        arguments["num_data"] = num_data
    try:
        distiller = method(student, teacher, **arguments)
    except ValueError as e:
        raise ConfigError(str(e)) from None
    distiller.autocast_dtype = AMP_DTYPES[cfg.SOLVER.AMP]
    return distiller
