"""Lets a method have the teacher's logits without running it at each step, or says why it cannot."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from yacs.config import CfgNode as CN

from ..data.loader import Loader
from ..data.resident import ResidentLoader
from ..distillers import Distiller
from ..distillers.build import method_label
from ..distillers.teacher_table import TeacherTable
from ..distributed import agreed, rank, world_size
from ..errors import ConfigError
from .teacher_ahead import TeacherAhead

SECONDS_BETWEEN_LINES = 30


def refuse_other_methods(cfg: CN, key: str, distiller: Distiller, loader: Loader) -> None:
    """ConfigError where more than the teacher's logits is asked for, or images have no end of views."""
    said, method = f"DISTILLER.{key} is {cfg.DISTILLER[key]}", method_label(cfg)
    if distiller.looks_at_teacher_maps or distiller.needs_strong_view or not distiller.uses_teacher_output:
        raise ConfigError(
            f"{said}; {method} takes more of the teacher than its logits on a view, or less: leave it out"
        )
    if not isinstance(loader, ResidentLoader):
        raise ConfigError(f"{said}; it is for images in memory, and these are files ({loader.augmentation})")


def open_table(cfg: CN, distiller: Distiller, loader: Loader, classes: int, teacher_sha256: str) -> TeacherTable:
    """The table of DISTILLER.TEACHER_TABLE for this teacher, these images, this augmentation and precision."""
    refuse_other_methods(cfg, "TEACHER_TABLE", distiller, loader)
    content = hashlib.sha256(loader.padded.cpu().numpy().tobytes())
    content.update(f"{teacher_sha256} {cfg.SOLVER.AMP} {loader.recipe}".encode())
    content.update(b" folded" if cfg.DISTILLER.TEACHER_FOLD_BN else b"")
    return TeacherTable(
        Path(cfg.DISTILLER.TEACHER_TABLE), content.hexdigest()[:32], loader.num_samples, loader.num_views, classes
    )


def fill(table: TeacherTable, distiller: Distiller, loader: ResidentLoader) -> Iterator[None]:
    """Compute what is missing of a table, with a line now and then; each process fills its share, then finds all."""
    world, total = world_size(), loader.num_samples
    # Equal numbers for all, so that they can agree on something between two passes
    own = [min(i, total - 1) for i in range(rank(), total + -total % world, world)]
    started, said = time.monotonic(), time.monotonic()
    for samples in [own] if world == 1 else [own, range(total)]:
        for done in table.fill(samples, loader.images_in, distiller.teacher_logits, loader.device):
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                left = (said - started) * (len(samples) - done) / done / 60
                print(f"the teacher's table: {done} of {len(samples)} images, {left:.0f} min left", flush=True)
            yield
        agreed(lambda: None)  # all wait for the last
    if table.computed:
        print(f"the teacher's table: {table.computed:,} views in {time.monotonic() - started:.0f} s", flush=True)


def look_ahead(cfg: CN, distiller: Distiller, loader: Loader, classes: int) -> TeacherAhead:
    """What DISTILLER.TEACHER_AHEAD asks for."""
    refuse_other_methods(cfg, "TEACHER_AHEAD", distiller, loader)
    if cfg.DISTILLER.TEACHER_TABLE:
        raise ConfigError("DISTILLER.TEACHER_AHEAD and DISTILLER.TEACHER_TABLE exclude each other: leave one out")
    return TeacherAhead(cfg.DISTILLER.TEACHER_AHEAD, distiller, loader, classes)
