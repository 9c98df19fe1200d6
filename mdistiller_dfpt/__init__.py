"""Knowledge distillation for image classifiers: DFPT-KD and the methods it is compared with."""

from .data import DATASETS, Batch, build_data, data_from_loaders
from .data.preprocessing import Preprocessing
from .distillers import DISTILLERS, Distiller, Method, Output, build_distiller
from .interop.plugins import load_cfg
from .launch.run import build_teacher, run
from .launch.student import Student, load_student, save_student
from .losses import LOGIT_LOSSES, Term, Terms, distillation, label, own
from .models import MODELS, StagedModel, build_model
from .models.external.adapt import adapt
from .teachers import TEACHERS, Teacher
from .training.optim import OPTIMIZERS, SCHEDULES
from .training.own_parts import parameter_groups, prepare
from .training.trainer import Trainer

__version__ = "0.1.0"
__all__ = [
    "DATASETS", "DISTILLERS", "LOGIT_LOSSES", "MODELS", "OPTIMIZERS", "SCHEDULES", "TEACHERS", "Batch", "Distiller",
    "Method", "Output", "Preprocessing", "StagedModel", "Student", "Teacher", "Term", "Terms", "Trainer", "adapt",
    "build_data", "build_distiller", "build_model", "build_teacher", "data_from_loaders", "distillation", "label",
    "load_cfg", "load_student", "own", "parameter_groups", "prepare", "run", "save_student",
]  # fmt: skip
