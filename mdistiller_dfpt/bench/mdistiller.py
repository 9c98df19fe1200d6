"""mdistiller from a checkout, made to do the same work: same pair, weights, images, batch."""

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import flatten
from ..distillers import Distiller
from ..errors import ConfigError
from ..losses.term import total
from .workload import Workload

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4  # relative, in float32


class Mdistiller:
    """The same method of mdistiller on the batch of a `Workload`; ConfigError where it cannot be the same work."""

    def __init__(self, checkout: Path, side: Workload):
        if not (checkout / "mdistiller").is_dir():
            raise ConfigError(f"--against {checkout}: not a checkout of mdistiller; it holds no folder mdistiller")
        sys.path.insert(0, str(checkout.resolve()))
        if side.device.type == "cpu":  # mdistiller moves everything to a GPU, wherever it stands
            for cls, method in ((Tensor, "cuda"), (nn.Module, "cuda")):
                setattr(cls, method, _stay)
        try:
            networks = importlib.import_module("mdistiller.models").cifar_model_dict
            methods = importlib.import_module("mdistiller.distillers").distiller_dict
            cfg = importlib.import_module("mdistiller.engine.cfg").CFG.clone()
        except ImportError as e:
            raise ConfigError(
                f"--against {checkout}: mdistiller cannot be imported ({e}): install what it needs"
            ) from None
        self.side, d = side, side.cfg.DISTILLER
        if d.TYPE not in methods:
            raise ConfigError(f"--against {checkout}: it has no {d.TYPE}; it has {', '.join(sorted(methods))}")
        known, ours = flatten(cfg), flatten(side.cfg)
        cfg.defrost()
        for key, default in known.items():
            if key in ours and ours[key] != []:  # an empty list is inferred from the networks here
                cfg.merge_from_list([key, _as_its(ours[key], default)])
        distiller = side.trainer.distiller
        assert isinstance(distiller, Distiller)
        student, teacher = (networks[name][0](num_classes=side.data.num_classes) for name in (d.STUDENT, d.TEACHER))
        student.load_state_dict(distiller.student.state_dict())
        teacher.load_state_dict(distiller.teacher.network.state_dict())
        try:
            self.distiller = methods[d.TYPE](student, teacher, cfg).to(side.device)
        except TypeError as e:  # a bank of samples, which it draws from in its loader
            raise ConfigError(f"--against: no ratio, as its {d.TYPE} is fed otherwise ({e})") from None
        self.distiller.train()
        mine = {id(p) for n in (distiller.student, distiller.teacher.network) for p in n.parameters()}
        its = {id(p) for n in (student, teacher) for p in n.parameters()}
        _copy_in_order(
            [p for p in distiller.parameters() if id(p) not in mine],
            [p for p in self.distiller.parameters() if id(p) not in its],
        )
        self.student = student
        self.module = nn.DataParallel(self.distiller)  # as its tools/train.py does, with one GPU too
        s = side.cfg.SOLVER
        self.optimizer = torch.optim.SGD(
            self.distiller.get_learnable_parameters(), lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.WEIGHT_DECAY
        )

    def loss(self) -> Tensor:
        """The sum of the method's terms on the side's batch."""
        batch = self.side.batch
        _, losses = self.module(image=batch.image, target=batch.target, epoch=batch.epoch)
        return sum(value.mean() for value in losses.values())

    def step(self, steps: int) -> int:
        """Training steps as its trainer takes them, without its logging."""
        self.distiller.train()
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()
        return steps * len(self.side.batch.target)

    def refuse_other_work(self) -> None:
        """ConfigError where losses or the student's gradients differ: then a ratio of times would mean nothing."""
        trainer = self.side.trainer
        trainer.training.optimizer.zero_grad()
        self.optimizer.zero_grad()
        _, terms = trainer.distiller(self.side.batch)
        mine, its = total(terms), self.loss()
        off = abs(mine.item() - its.item()) / max(abs(its.item()), 1e-12)
        if off > LOSS_TOLERANCE:
            raise ConfigError(
                f"--against: no ratio, as the losses differ: {mine.item():.7g} here, {its.item():.7g} there"
            )
        mine.backward()
        its.backward()
        worst = max(_relative(_gradients(trainer.distiller.student), _gradients(self.student)))
        if worst > GRADIENT_TOLERANCE:
            raise ConfigError(f"--against: no ratio, as the student's gradients differ by {worst:.1e} of themselves")


def _stay(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self


def _as_its(value: Any, default: Any) -> Any:
    """A value of ours in the type of mdistiller's default: whole numbers are `int` there."""
    if type(default) is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return tuple(value) if isinstance(default, tuple) else value


def _copy_in_order(ours: list[nn.Parameter], its: list[nn.Parameter]) -> None:
    """The method's own modules start alike where they are built alike; where not, parity will say so."""
    if [p.shape for p in ours] == [p.shape for p in its]:
        with torch.no_grad():
            for a, b in zip(ours, its, strict=True):
                b.copy_(a)


def _gradients(network: nn.Module) -> dict[str, Any]:
    return {name: p.grad for name, p in network.named_parameters()}


def _relative(ours: dict[str, Any], its: dict[str, Any]) -> Iterable[float]:
    for name, a in ours.items():
        b = its[name]
        if a is None or b is None:
            yield 0.0 if a is b else float("inf")
        else:
            yield ((a - b).norm() / b.norm().clamp(min=1e-12)).item()
