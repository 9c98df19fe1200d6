"""A test kit for extensions: laws of methods, teachers, networks and augmentations; tiny networks and data.

`check_distiller(MyMethod)`, `check_teacher(MyTeacher)`, `check_network(build)` and `check_augmentation(MyAugmentation)`
raise `BrokenLaw` with one line for each law that is broken.
"""

from .augmentation_laws import AUGMENTATION_LAWS, check_augmentation
from .distiller_laws import DISTILLER_LAWS, check_distiller
from .laws import BrokenLaw
from .make import (
    changed,
    prepare,
    snapshot,
    take_steps,
    tiny_cfg,
    tiny_distiller,
    tiny_method,
    tiny_others,
    tiny_teacher,
)
from .network_laws import NETWORK_LAWS, check_network
from .teacher_laws import TEACHER_LAWS, check_teacher
from .tiny_data import IMAGE_SHAPE, tiny_batch, tiny_data
from .tiny_networks import CLASSES, TinyNet, fit_batch, tiny_networks

__all__ = [
    "AUGMENTATION_LAWS", "CLASSES", "DISTILLER_LAWS", "IMAGE_SHAPE", "NETWORK_LAWS", "TEACHER_LAWS", "BrokenLaw",
    "TinyNet", "changed", "check_augmentation", "check_distiller", "check_network", "check_teacher", "fit_batch",
    "prepare", "snapshot", "take_steps", "tiny_batch", "tiny_cfg", "tiny_data", "tiny_distiller", "tiny_method",
    "tiny_networks", "tiny_others", "tiny_teacher",
]  # fmt: skip
