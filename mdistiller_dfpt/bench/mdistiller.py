"""mdistiller from a checkout, set up for the same computation: same pair, weights, images and batch."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config import flatten
from ..distillers.choice import choice
from ..errors import ConfigError
from ..losses.term import total
from .workload import Workload

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4  # relative, in float32


class Mdistiller:
    """mdistiller's version of the method on the batch of a `Workload`; ConfigError if the two computations differ."""

    def __init__(self, checkout: Path, variant: Workload):
        networks, methods, cfg = _imported(checkout, variant)
        self.variant, d, s = variant, variant.cfg.DISTILLER, variant.cfg.SOLVER
        if s.TRAINER == "dot":
            raise ConfigError("--against: no ratio, because mdistiller's trainer of SOLVER.TRAINER dot is unsupported")
        label = choice(variant.cfg).label
        if label not in methods:
            raise ConfigError(f"--against {checkout}: it has no {label}; it has {', '.join(sorted(methods))}")
        ours = {"student": variant.trainer.distiller.student}
        if variant.trainer.teacher is not None:
            ours["teacher"] = variant.trainer.teacher.network
        names = {"student": d.STUDENT, "teacher": d.TEACHER}
        for name in (names[role] for role in ours):
            if name not in networks:
                raise ConfigError(f"--against {checkout}: it has no network {name}")
        built = {role: networks[names[role]][0](num_classes=variant.data.num_classes) for role in ours}
        # In mdistiller, plain training has no teacher and takes no config
        rest = (built["teacher"], _its_config(cfg, variant.cfg)) if "teacher" in built else ()
        try:
            self.distiller = methods[label](built["student"], *rest).to(variant.device)
        except TypeError as e:  # a memory bank: mdistiller samples from it in its data loader
            raise ConfigError(f"--against: no ratio, because its {label} takes other inputs ({e})") from None
        # After its constructor, which may run a random image through the networks and change their running statistics
        for role, network in built.items():
            _load(network, ours[role], names[role])
        _copy_in_order(
            _parameters_beside(variant.trainer.distiller, ours.values()),
            _parameters_beside(self.distiller, built.values()),
        )
        self.distiller.train()
        self.student = built["student"]
        self.module = nn.DataParallel(self.distiller)  # as in mdistiller's tools/train.py, also with a single GPU
        self.optimizer = torch.optim.SGD(
            self.distiller.get_learnable_parameters(), lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.WEIGHT_DECAY
        )

    def loss(self) -> Tensor:
        """The sum of the method's loss terms on the batch of the workload."""
        batch = self.variant.batch
        _, losses = self.module(image=batch.image, target=batch.target, epoch=batch.epoch)
        return sum(value.mean() for value in losses.values())

    def step(self, steps: int) -> int:
        """Training steps as in mdistiller's trainer, without its logging."""
        self.distiller.train()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()
        return steps * len(self.variant.batch.target)

    def refuse_unlike(self) -> None:
        """ConfigError if losses or the student's gradients differ: a ratio of times would then be meaningless."""
        trainer = self.variant.trainer
        trainer.training.optimizer.zero_grad()
        self.optimizer.zero_grad()
        _, terms = trainer.distiller(self.variant.batch)
        mine, its = total(terms), self.loss()
        off = abs(mine.item() - its.item()) / max(abs(its.item()), 1e-12)
        if off > LOSS_TOLERANCE:
            raise ConfigError(
                f"--against: no ratio, because the losses differ: {mine.item():.7g} here, {its.item():.7g} there"
            )
        mine.backward()
        its.backward()
        worst = max(_relative(_gradients(trainer.distiller.student), _gradients(self.student)))
        if worst > GRADIENT_TOLERANCE:
            raise ConfigError(f"--against: no ratio, because the student's gradients differ by {worst:.1e} (relative)")


def _imported(checkout: Path, variant: Workload) -> tuple[dict[str, Any], dict[str, Any], CN]:
    """mdistiller's networks, methods and config."""
    if not (checkout / "mdistiller").is_dir():
        raise ConfigError(f"--against {checkout}: not a checkout of mdistiller; it has no folder mdistiller")
    sys.path.insert(0, str(checkout.resolve()))
    if variant.device.type == "cpu":  # mdistiller moves everything to a GPU unconditionally
        for cls, method in ((Tensor, "cuda"), (nn.Module, "cuda")):
            setattr(cls, method, _stay)
    try:
        networks = importlib.import_module("mdistiller.models").cifar_model_dict
        methods = importlib.import_module("mdistiller.distillers").distiller_dict
        return networks, methods, importlib.import_module("mdistiller.engine.cfg").CFG.clone()
    except ImportError as e:
        raise ConfigError(f"--against {checkout}: mdistiller cannot be imported ({e}): install what it needs") from None


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self


def _its_config(its: CN, ours: CN) -> CN:
    """mdistiller's config, with our values for the keys that it has."""
    values = flatten(ours)
    its.defrost()
    for key, default in flatten(its).items():
        if key in values and values[key] != []:  # an empty list means: inferred from the networks
            its.merge_from_list([key, _as_its(values[key], default)])
    return its


def _as_its(value: Any, default: Any) -> Any:
    """One of our values, converted to the type of mdistiller's default: whole numbers are `int` there."""
    if type(default) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(default, tuple) else value


def _load(network: nn.Module, ours: nn.Module, name: str) -> None:
    try:
        network.load_state_dict(ours.state_dict())
    except RuntimeError as e:
        raise ConfigError(
            f"--against: no ratio, because its {name} is a different network ({' '.join(str(e).split())[:160]})"
        ) from None


def _parameters_beside(method: nn.Module, networks: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters that a method adds to these networks."""
    known = {id(p) for network in networks for p in network.parameters()}
    return [p for p in method.parameters() if id(p) not in known]


def _copy_in_order(ours: list[nn.Parameter], its: list[nn.Parameter]) -> None:
    """Initialises each of its parameters with our next one of the same shape; the parity check reports any mismatch."""
    left = iter(ours)
    with torch.no_grad():
        for parameter in its:
            for candidate in left:
                if candidate.shape == parameter.shape:
                    parameter.copy_(candidate)
                    break


def _gradients(network: nn.Module) -> dict[str, Any]:
    return {name: p.grad for name, p in network.named_parameters()}


def _relative(ours: dict[str, Any], its: dict[str, Any]) -> Iterable[float]:
    """Relative difference of each gradient; tiny gradients are compared with a thousandth of the total norm."""
    least = 1e-3 * torch.cat([b.flatten() for b in its.values() if b is not None]).norm()
    for name, a in ours.items():
        b = its[name]
        if a is None or b is None:
            yield 0.0 if a is b else float("inf")
        else:
            yield ((a - b).norm() / b.norm().clamp(min=least)).item()
