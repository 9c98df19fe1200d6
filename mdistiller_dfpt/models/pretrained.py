"""torchvision's published weights for a teacher: from its cache, or downloaded on request; verified by hash."""

import re
from hashlib import file_digest
from pathlib import Path

import torch
from torchvision import models

from ..errors import CheckpointError

_NAMES = {
    "ResNet18": "resnet18", "ResNet34": "resnet34", "ResNet50": "resnet50", "MobileNetV2": "mobilenet_v2",
    "ShuffleNetV2": "shufflenet_v2_x1_0",
}  # fmt: skip


def torchvision_name(name: str, family: str) -> str | None:
    """torchvision's name for this network; None if it has none."""
    return name.removeprefix("torchvision/") if name.startswith("torchvision/") else (
        _NAMES.get(name) if family == "imagenet" else None
    )  # fmt: skip


def pretrained_weights(name: str, family: str, tag: str, download: bool) -> Path:
    """The file with torchvision's weights of a network; `tag`, for example IMAGENET1K_V1, defaults to the oldest.

    CheckpointError if there are none, if they are neither cached nor allowed to be downloaded, or if the file does not
    match the hash in its name.
    """
    known = torchvision_name(name, family)
    if known is None:
        raise CheckpointError(f"torchvision publishes no weights of {name}; name a file as DISTILLER.TEACHER_CKPT")
    published = models.get_model_weights(known)
    tags = [w.name for w in published]
    if (tag or tags[0]) not in tags:
        raise CheckpointError(f"{name} has no weights {tag!r}; choose from {', '.join(tags) or 'none'}")
    url = published[tag or tags[0]].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        if not download:
            raise CheckpointError(
                f"no weights of {name} at {path}: add `DATASET.DOWNLOAD True` to your command to download them from "
                f"{url}, or name a file as DISTILLER.TEACHER_CKPT"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_in(path), progress=False)
        except (OSError, RuntimeError) as e:
            raise CheckpointError(f"{url}: download failed ({e}); download it manually to {path}") from None
    with open(path, "rb") as f:
        found = file_digest(f, "sha256").hexdigest()
    if not found.startswith(_hash_in(path)):
        raise CheckpointError(f"{path}: damaged; it does not match the hash in its name: delete it")
    return path


def _hash_in(path: Path) -> str:
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return match[1] if match else ""
