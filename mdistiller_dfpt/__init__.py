"""Knowledge distillation for image classifiers: DFPT-KD and the methods it is compared with."""

from .config import load_cfg
from .data import DATASETS, build_data
from .distillers import DISTILLERS, Distiller, build_distiller
from .engine import Trainer
from .models import MODELS, StagedModel, build_model

__version__ = "0.1.0"
__all__ = [
    "DATASETS", "DISTILLERS", "MODELS", "Distiller", "StagedModel", "Trainer", "build_data", "build_distiller",
    "build_model", "load_cfg",
]  # fmt: skip
