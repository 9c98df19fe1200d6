"""Opens the table of a teacher's logits where a config asks for one, or says why there can be none."""

import hashlib
from pathlib import Path

from yacs.config import CfgNode as CN

from ..data.loader import Loader
from ..data.resident import ResidentLoader
from ..distillers import Distiller
from ..distillers.build import method_label
from ..distillers.teacher_table import TeacherTable
from ..errors import ConfigError


def open_table(cfg: CN, distiller: Distiller, loader: Loader, classes: int, teacher_sha256: str) -> TeacherTable:
    """The table of DISTILLER.TEACHER_TABLE for this teacher, these images, this augmentation and precision."""
    key, method = f"DISTILLER.TEACHER_TABLE is {cfg.DISTILLER.TEACHER_TABLE}", method_label(cfg)
    if distiller.looks_at_teacher_maps or distiller.needs_strong_view or not distiller.uses_teacher_output:
        raise ConfigError(f"{key}; {method} takes more of the teacher than its logits on a view, or less: leave it out")
    if not isinstance(loader, ResidentLoader):
        raise ConfigError(f"{key}; {loader.augmentation} has no end of views: a table is for images in memory")
    content = hashlib.sha256(loader.padded.cpu().numpy().tobytes())
    content.update(f"{teacher_sha256} {cfg.SOLVER.AMP} {loader.recipe}".encode())
    return TeacherTable(
        Path(cfg.DISTILLER.TEACHER_TABLE), content.hexdigest()[:32], loader.num_samples, loader.num_views, classes
    )
