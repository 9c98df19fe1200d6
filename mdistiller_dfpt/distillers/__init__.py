"""Methods: importing this package registers all of them; `build_distiller` makes one."""

from . import dfptkd, kd, vanilla
from .base import DISTILLERS, Distiller, Output
from .build import build_distiller
from .logit_loss import LOGIT_LOSSES

__all__ = ["DISTILLERS", "LOGIT_LOSSES", "Distiller", "Output", "build_distiller", "dfptkd", "kd", "vanilla"]
