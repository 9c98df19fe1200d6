"""Kinds of teacher: importing this package registers all of them; `build_teacher` creates a teacher."""

from importlib import import_module
from pkgutil import iter_modules

from .base import ORIGINAL, TEACHERS, Paths, Teacher, TeacherPath
from .build import build_teacher
from .frozen import Frozen

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["ORIGINAL", "TEACHERS", "Frozen", "Paths", "Teacher", "TeacherPath", "build_teacher"]
