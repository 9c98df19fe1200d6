"""Published weights, from a cache or downloaded on request: torchvision's, verified by hash, and timm's."""

import re
import socket
from hashlib import file_digest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor
from torchvision import models

from ..errors import CheckpointError
from ..regular_files import opened, read_tensors
from .external.names import timm_arguments

_NAMES = {
    "ResNet18": "resnet18", "ResNet34": "resnet34", "ResNet50": "resnet50", "MobileNetV2": "mobilenet_v2",
    "ShuffleNetV2": "shufflenet_v2_x1_0",
}  # fmt: skip
FILE = "model.safetensors"  # of a network of timm, on its hub


def torchvision_name(name: str, family: str) -> str | None:
    """torchvision's name for this network; None if it has none."""
    return name.removeprefix("torchvision/") if name.startswith("torchvision/") else (
        _NAMES.get(name) if family == "imagenet" else None
    )  # fmt: skip


def pretrained_weights(name: str, family: str, tag: str, download: bool, key: str = "DISTILLER.TEACHER_CKPT") -> Path:
    """The file with torchvision's weights of a network; `tag`, for example IMAGENET1K_V1, defaults to the oldest.

    `key`: that which asks for them, for the messages.

    CheckpointError if there are none, if they are neither cached nor allowed to be downloaded, or if the file does not
    match the hash in its name.
    """
    known = torchvision_name(name, family)
    if known is None:
        raise CheckpointError(f"torchvision publishes no weights of {name}; name a file as {key}")
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
                f"{url}, or name a file as {key}"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_in(path), progress=False)
        except (OSError, RuntimeError) as e:
            raise CheckpointError(f"{url}: download failed ({e}); download it manually to {path}") from None
    with opened(path) as f:
        found = file_digest(f, "sha256").hexdigest()
    if not found.startswith(_hash_in(path)):
        raise CheckpointError(f"{path}: damaged; it does not match the hash in its name: delete it")
    return path


def timm_weights(name: str, size: int, download: bool) -> dict[str, Tensor]:
    """The state_dict of timm/NAME with the weights that timm publishes; CheckpointError if there are none."""
    import timm

    known, arguments = timm_arguments(name.removeprefix("timm/"))
    published = timm.get_pretrained_cfg(known)
    if published is None or not published.has_weights or arguments:
        raise CheckpointError(f"timm publishes no weights of {name}; name a file, or a network of timm.list_pretrained")
    hub = published.hf_hub_id or ""
    cached, place = _is_cached(hub), _place_of(hub)
    by_hand = f"put {FILE} of https://huggingface.co/{hub} at {place}"
    extra: dict[str, Any] = {} if size == published.input_size[-1] else {"img_size": size}
    if place.exists() and not cached:
        print(f"note: the weights of {name} are those of {place}", flush=True)
        extra["pretrained_cfg_overlay"] = {"state_dict": _of_file(place)}
    elif not (cached or download):
        raise CheckpointError(
            f"no weights of {name} in the cache of Hugging Face: add `DATASET.DOWNLOAD True` to your command to "
            f"download {hub}, or {by_hand}"
        )
    elif not cached and (fault := _no_connection()):
        raise CheckpointError(f"{name}: its weights cannot be downloaded ({fault}): {by_hand}")
    try:
        try:
            return timm.create_model(known, pretrained=True, **extra).state_dict()
        except TypeError as e:
            if "img_size" not in str(e):
                raise
            del extra["img_size"]  # networks without tokens take images of any size
            return timm.create_model(known, pretrained=True, **extra).state_dict()
    except Exception as e:  # of huggingface_hub and its connections: many types
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(f"{name}: its weights cannot be loaded ({reason}): {by_hand}") from None


def put_by_hand(name: str) -> Path | None:
    """The file that a user put in the place of the weights of timm/NAME, if these are not in the hub's cache."""
    import timm

    published = timm.get_pretrained_cfg(timm_arguments(name.removeprefix("timm/"))[0])
    hub = "" if published is None else published.hf_hub_id or ""
    place = _place_of(hub)
    return place if hub and place.exists() and not _is_cached(hub) else None


def _place_of(hub: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{hub.replace('/', '--')}.safetensors"


def _is_cached(hub: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub, FILE), str)


def _of_file(place: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(place)
    except Exception as e:  # safetensors raises several types
        raise CheckpointError(f"{place}: not a safetensors file ({e}): delete it") from None


def _no_connection() -> str:
    """Why the host of the weights cannot be reached, else empty; its client would try again for over a minute."""
    from huggingface_hub.constants import ENDPOINT

    address = urlsplit(ENDPOINT)
    if getproxies():
        return ""
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=10).close()
        return ""
    except OSError as e:
        return f"{address.hostname}: {e.strerror or e}"


def _hash_in(path: Path) -> str:
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return match[1] if match else ""
