"""Methods: importing this package registers all of them; `build_distiller` creates a distiller."""

from importlib import import_module
from pkgutil import iter_modules

from ..losses.logit_losses import LOGIT_LOSSES
from .base import DISTILLERS, Distiller, Method, Output
from .build import build_distiller

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["DISTILLERS", "LOGIT_LOSSES", "Distiller", "Method", "Output", "build_distiller"]
