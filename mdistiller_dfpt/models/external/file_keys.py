"""Keys in torchvision's files that its own builders rename or leave out, and `load_state_dict` does not."""

import re
from collections.abc import Callable

Rename = Callable[[str], str | None]
"""A key of a file -> the network's key; None if the network has no such tensor and needs none."""

_AUXILIARY = re.compile(r"(^|\.)(aux[12]|AuxLogits)\.")
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.(?=\w+$)")


def _without_auxiliary(key: str) -> str | None:
    return None if _AUXILIARY.search(key) else key


def _of_densenet(key: str) -> str:
    return _OLD_DENSE.sub(r"\1\2.", key)


def renamed(name: str) -> Rename:
    """The renaming for torchvision/NAME: densenet's keys of 2017; googlenet's and inception_v3's auxiliary heads."""
    if name.startswith("densenet"):
        return _of_densenet
    return _without_auxiliary if name in ("googlenet", "inception_v3") else str
