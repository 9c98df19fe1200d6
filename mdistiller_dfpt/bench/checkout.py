"""A checkout of mdistiller, imported as it is: without a GPU, and without the packages that it only logs with."""

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torchvision.datasets import CIFAR100
from yacs.config import CfgNode as CN

from ..config import flatten
from ..config.effect import deciding_values
from ..data.in_memory import InMemoryLoader
from ..distillers.choice import situation
from ..errors import ConfigError, kind_and_message
from ..interop.cuda_calls import ignore_cuda_calls
from .pil_loader import pixels


class Checkout(NamedTuple):
    """The parts of mdistiller that its tools/train.py puts together."""

    networks: dict[str, Any]  # {name: (class, path of weights)}
    methods: dict[str, Any]
    trainers: dict[str, Any]
    cfg: CN
    utils: Any  # the module with its averages and messages


def imported(folder: Path, device: torch.device) -> Checkout:
    """mdistiller's code; ConfigError if it cannot be imported. Its calls of `cuda` do nothing if we run on a CPU."""
    if not (folder / "mdistiller").is_dir():
        raise ConfigError(f"--against {folder}: not a checkout of mdistiller; it has no folder mdistiller")
    sys.path.insert(0, str(folder.resolve()))
    if device.type == "cpu":
        ignore_cuda_calls()
    # Its trainers write events after an epoch, which is not timed
    if "tensorboardX" not in sys.modules and importlib.util.find_spec("tensorboardX") is None:
        module = types.ModuleType("tensorboardX")
        module.SummaryWriter = _NoEvents  # type: ignore[attr-defined]
        sys.modules["tensorboardX"] = module
    try:
        return Checkout(
            importlib.import_module("mdistiller.models").cifar_model_dict,
            importlib.import_module("mdistiller.distillers").distiller_dict,
            importlib.import_module("mdistiller.engine").trainer_dict,
            importlib.import_module("mdistiller.engine.cfg").CFG.clone(),
            importlib.import_module("mdistiller.engine.utils"),
        )
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"--against {folder}: mdistiller cannot be imported ({e}): install what it needs") from None


class _NoEvents:
    """Takes the place of tensorboardX's writer where the package is missing."""

    def __init__(self, folder: str):
        """Nothing is written to the folder."""


@contextlib.contextmanager
def its_fault(what: str) -> Iterator[None]:
    """An error of mdistiller's own code as a ConfigError: it cannot compute this, so there is no ratio."""
    try:
        yield
    except Exception as e:
        raise ConfigError(f"--against: no ratio, because mdistiller fails: {what} ({kind_and_message(e)})") from None


# The loop's learning rate, and settings that change the speed alone
_MAY_DIFFER = (
    "SOLVER.SEED", "SOLVER.SCHEDULE", "SOLVER.WARMUP_EPOCHS", "SOLVER.AMP", "SOLVER.AMP_STUDENT",
    "SOLVER.CHANNELS_LAST", "SOLVER.COMPILE",
)  # fmt: skip


def its_config(its: CN, ours: CN, inferred: dict[str, Any], output: Path) -> CN:
    """mdistiller's config, with our values for the keys that it has, and the shapes that we infer from the networks."""
    values = {**flatten(ours), **inferred, "LOG.PREFIX": str(output)}
    known = flatten(its)
    only_ours = {key: value for key, value in deciding_values(situation(ours, in_files=False)).items()
                 if key.startswith("SOLVER.") and key not in known and key not in _MAY_DIFFER}  # fmt: skip
    if only_ours:
        words = ", ".join(f"{key} {value}" for key, value in only_ours.items())
        raise ConfigError(f"--against: no ratio, because mdistiller has no {words}: leave it out, or use --versus")
    its.defrost()
    for key, default in known.items():
        if key in values:
            *sections, name = key.split(".")
            # Assigned, not merged: yacs refuses 0.9 where mdistiller's default is the integer 1
            functools.reduce(getitem, sections, its)[name] = _as_its(values[key], default)
    return its


def _as_its(value: Any, default: Any) -> Any:
    """One of our values: an integer where mdistiller's default is one and the value is whole."""
    return int(value) if type(default) is int and isinstance(value, float) and value.is_integer() else value


def its_loader(cfg: CN, ours: InMemoryLoader) -> Any:
    """mdistiller's training loader, with its own dataset class and transforms, on the images of our loader."""
    images, labels = pixels(ours), ours.labels.tolist()

    def in_memory(
        self: Any, root: str, train: bool = True, transform: Any = None, target_transform: Any = None,
        download: bool = False,
    ) -> None:  # fmt: skip
        self.data, self.targets = images, labels
        self.transform, self.target_transform = transform, target_transform

    # Its dataset classes derive from torchvision's, which would read the official archive or download it
    module = importlib.import_module("mdistiller.dataset.cifar100")
    with mock.patch.object(CIFAR100, "__init__", in_memory), mock.patch.object(module, "get_data_folder", str):
        return importlib.import_module("mdistiller.dataset").get_dataset(cfg)[0]
