"""Small datasets of noise in the layouts of the real ones, for trying a config without its data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ConfigError

LAYOUTS = {"cub200": 200, "folder": None, "imagenet": 1000, "tiny_imagenet": 200}
"""The file-based datasets whose layout can be generated, and how many classes the real ones have."""


def write_data_set(kind: str, root: Path, classes: int = 4, per_class: int = 3, size: int = 48) -> list[str]:
    """Generate `kind` (a file-based DATASET.TYPE) below `root`; returns the overrides KEY VALUE ... that read it."""
    generator = np.random.default_rng(0)

    def image(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (size, size + 8, 3), dtype=np.uint8)).save(path)

    names = [f"n{c:08d}" for c in range(classes)]
    if kind == "cub200":
        _write_cub(root / "CUB_200_2011", image, classes, per_class)
    elif kind in ("folder", "imagenet", "tiny_imagenet"):
        top = root / {"folder": ".", "imagenet": "imagenet", "tiny_imagenet": "tiny-imagenet-200"}[kind]
        for split in ("train", "val"):
            for name in names:
                for i in range(per_class):
                    image(top / split / name / f"{split}_{i}.jpg")
    else:
        raise ConfigError(f"no generated files are available for {kind}")
    return ["DATASET.TYPE", kind, "DATASET.ROOT", str(root), "DATASET.CLASSES", str(classes)]


def _write_cub(root: Path, image: Callable[[Path], None], classes: int, per_class: int) -> None:
    lists: dict[str, list[str]] = {k: [] for k in ("images", "image_class_labels", "train_test_split", "classes")}
    number = 0
    for c in range(1, classes + 1):
        title = f"{c:03d}.Bird_{c}"
        lists["classes"].append(f"{c} {title}")
        for i in range(2 * per_class):
            number += 1
            image(root / "images" / title / f"Bird_{number:04d}.jpg")
            lists["images"].append(f"{number} {title}/Bird_{number:04d}.jpg")
            lists["image_class_labels"].append(f"{number} {c}")
            lists["train_test_split"].append(f"{number} {i % 2}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
