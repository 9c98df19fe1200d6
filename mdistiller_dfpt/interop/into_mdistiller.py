"""Run mdistiller's own tools/train.py with this project's methods.

`python -m mdistiller_dfpt.interop.into_mdistiller CHECKOUT --cfg FILE [KEY VALUE ...]`

Nothing in the checkout is edited: its `distiller_dict` and `CFG` are extended in memory before its script runs. Methods
and config sections that mdistiller already has are kept.
"""

import runpy
import sys
import weakref
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from yacs.config import CfgNode as CN

from ..config import keywords
from ..config.keywords import asked_for
from ..data import Batch
from ..distillers import DISTILLERS, Distiller, Method
from ..errors import USER_FILES, ConfigError
from ..launch.cli import guarded
from ..models import MODELS, StagedModel, build_model
from ..teachers import TEACHERS

NUM_DATA = {"cifar100": 50_000, "imagenet": 1_281_167, "tiny_imagenet": 100_000}
IMAGE_SIZE = {"imagenet": 224, "tiny_imagenet": 64}


def staged(network: nn.Module, name: str, family: str) -> StagedModel:
    """This project's network of that name with the same weights, or the given one if none has the same keys."""
    if not isinstance(network, StagedModel) and f"{family}/{name}" in MODELS:
        classes = [m for m in network.modules() if isinstance(m, nn.Linear)][-1].out_features
        ours = build_model(name, family, classes)
        if ours.state_dict().keys() == network.state_dict().keys():
            ours.load_state_dict(network.state_dict())
            return ours
    # mdistiller's networks have the same outputs as ours, and most methods need nothing else
    return cast(StagedModel, network)


class Exported(nn.Module):
    """A method of this project behind mdistiller's interface; `export` creates one subclass per method."""

    name: str
    method: type[Distiller]

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: CN):
        super().__init__()
        data = cfg.DATASET.TYPE
        family = "imagenet" if data == "imagenet" else "cifar"
        self.student = staged(student, cfg.DISTILLER.STUDENT, family)
        self.teacher = staged(teacher, cfg.DISTILLER.TEACHER, family)
        size = IMAGE_SIZE.get(data, 32)
        beside = {"num_data": NUM_DATA.get(data, 0), "image_shape": (3, size, size)}
        arguments = keywords(cfg[self.name]) | asked_for(self.method, beside)
        self.inner = self.method(self.student, self.teacher, **arguments)
        self._batch: Batch | None = None
        self._step = 0
        _exported.add(self)

    def train(self, mode: bool = True) -> "Exported":
        super().train(mode)
        self.inner.train(mode)
        return self

    def get_learnable_parameters(self) -> list[dict[str, Any]]:
        """Parameter groups; the loop's learning rate is multiplied by a group's `lr_factor` at each step."""
        return [group for group in self.inner.parameter_groups() if group["params"]]

    def get_extra_parameters(self) -> int:
        """The number of parameters trained in addition to the student's."""
        mine = {id(p) for p in self.student.parameters()}
        return sum(p.numel() for p in self.inner.parameters() if p.requires_grad and id(p) not in mine)

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits (B, classes) and the weighted losses by name."""
        self._step += 1
        index = kwargs.get("index")
        if index is None:
            if asked_for(self.method, {"num_data": 0}):
                raise ConfigError(f"{self.name} needs the samples' indices: set SOLVER.TRAINER to crd")
            index = torch.arange(len(target), device=target.device)
        # mdistiller's trainer with indices passes no epoch: warm-ups then count as finished
        self._batch = Batch(image, target, index, kwargs.get("epoch", 10**6), self._step)
        logits, terms = self.inner(self._batch)
        return logits, {name: term.weighted for name, term in terms.items()}

    def forward_test(self, image: Tensor) -> Tensor:
        """The logits (B, classes) of the deployed network."""
        return self.inner.forward_student(image).logits

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


_exported: weakref.WeakSet[Exported] = weakref.WeakSet()
_hooks: list[Any] = []  # on every optimiser step, since mdistiller's loop has no hooks


def _owners(optimizer: torch.optim.Optimizer) -> list[Exported]:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [e for e in _exported if any(id(p) in trained for p in e.parameters())]


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for exported in _owners(optimizer):
        for part in exported.inner.hooked():
            part.before_step()
        for group in optimizer.param_groups:
            group["plain_lr"] = group["lr"]
            group["lr"] = group["lr"] * group.get("lr_factor", 1.0)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for exported in _owners(optimizer):
        for group in optimizer.param_groups:
            group["lr"] = group.pop("plain_lr")
        assert exported._batch is not None
        for part in exported.inner.hooked():
            part.after_step(exported._batch)


def export(name: str) -> type[Exported]:
    """The class that mdistiller registers for our method with this name: `__init__(student, teacher, cfg)`."""
    method = DISTILLERS[name]
    return type(name, (Exported,), {"name": name, "method": method, "__doc__": method.__doc__})


def _is_served(method: type[Distiller]) -> bool:
    """Whether mdistiller's loop supports the method."""
    several = TEACHERS[method.teacher_kind or "frozen"].others_key
    return not method.needs_strong_view and method.prepare is Method.prepare and not several


def extend(distiller_dict: dict[str, Any], tree: CN) -> list[str]:
    """Add every method that mdistiller lacks, with its config section; returns the names added.

    Excludes methods that mdistiller's loop does not support: two views of a batch, a pass before training, assistants.
    """
    added = []
    for name, method in sorted(DISTILLERS.items()):
        if name in distiller_dict or not issubclass(method, Distiller) or not _is_served(method):
            continue
        if method.config and name not in tree:
            tree[name] = method.config.clone()
        distiller_dict[name] = export(name)
        added.append(name)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
        _hooks.append(register_optimizer_step_post_hook(_after_step))
    return added


def _main(argv: list[str]) -> None:
    if not argv or argv[0].startswith("-"):
        raise ConfigError(
            "usage: python -m mdistiller_dfpt.interop.into_mdistiller MDISTILLER_CHECKOUT --cfg FILE [KEY VALUE ...]"
        )
    script = Path(argv[0]) / "tools" / "train.py"
    if not script.is_file():
        raise ConfigError(f"{argv[0]} is not a checkout of mdistiller: it has no tools/train.py")
    USER_FILES.add(str(Path(argv[0]).resolve()))  # an error in the checkout is not an error of this package
    sys.path.insert(0, str(Path(argv[0]).resolve()))
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG

    added = extend(distiller_dict, CFG)
    print(f"mdistiller_dfpt adds {', '.join(added)}", flush=True)
    sys.argv = [str(script), *argv[1:]]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    sys.exit(guarded(_main, None))
