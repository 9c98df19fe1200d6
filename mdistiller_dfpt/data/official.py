"""Folder and number of classes of published datasets."""

from pathlib import Path

from yacs.config import CfgNode as CN

from ..errors import DataError
from ..regular_files import read_text


def folder_of(cfg: CN, name: str) -> Path:
    """The folder `name` in DATASET.ROOT, or DATASET.ROOT itself if that is its name."""
    root = Path(cfg.DATASET.ROOT)
    return root if root.name == name and root.is_dir() and not (root / name).exists() else root / name


def check_class_count(cfg: CN, found: int, official: int, where: Path) -> None:
    """DataError if the number of classes is neither the official one nor DATASET.CLASSES."""
    expected = cfg.DATASET.CLASSES or official
    if found != expected:
        raise DataError(
            f"{where}: contains {found} classes, expected {expected}; complete it, "
            f"or set `DATASET.CLASSES {found}` to use this subset"
        )


def lines_of(path: Path) -> list[str]:
    """The lines of a list; DataError if it is no text that can be read."""
    try:
        return read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e})") from None
