"""The number of classes of published datasets."""

from pathlib import Path

from yacs.config import CfgNode as CN

from ..errors import DataError


def check_class_count(cfg: CN, found: int, official: int, where: Path) -> None:
    """DataError if the number of classes is neither the official one nor DATASET.CLASSES."""
    expected = cfg.DATASET.CLASSES or official
    if found != expected:
        raise DataError(
            f"{where}: contains {found} classes, expected {expected}; complete it, "
            f"or set `DATASET.CLASSES {found}` to use this subset"
        )
