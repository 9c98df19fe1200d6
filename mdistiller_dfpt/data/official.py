"""How many classes a published data set must have."""

from pathlib import Path

from yacs.config import CfgNode as CN

from ..errors import DataError


def check_class_count(cfg: CN, found: int, official: int, where: Path) -> None:
    """DataError where there are neither the official number of classes nor as many as DATASET.CLASSES says."""
    expected = cfg.DATASET.CLASSES or official
    if found != expected:
        raise DataError(
            f"{where}: holds {found} classes, expected {expected}; complete it, "
            f"or set `DATASET.CLASSES {found}` if this part is what you mean"
        )
