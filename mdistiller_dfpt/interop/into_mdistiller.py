"""This project's methods behind mdistiller's interface: `extend` adds them to its `distiller_dict` and its `CFG`."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from yacs.config import CfgNode as CN

from ..config.keywords import asked_for, keywords_for
from ..data import Batch
from ..distillers import DISTILLERS, Distiller
from ..distillers.base import TeacherLike
from ..errors import ConfigError
from ..losses.term import Terms, total
from ..models import MODELS, StagedModel, build_model
from ..runs.weights import load_into
from ..teachers import TEACHERS
from ..teachers.hooked import passes
from ..training.parameters import optimised

NUM_DATA = {"cifar100": 50_000, "imagenet": 1_281_167, "tiny_imagenet": 100_000}
IMAGE_SIZE = {"imagenet": 224, "tiny_imagenet": 64}
OTHERS_CKPTS = "OTHER_TEACHER_CKPTS"  # the key with the weights of a teacher's further networks, assistants included


def staged(network: nn.Module, name: str, family: str) -> StagedModel:
    """This project's network of that name with the same weights, or the given one if none has the same keys."""
    if not isinstance(network, StagedModel) and f"{family}/{name}" in MODELS:
        ours = build_model(name, family, _classes(network))
        if ours.state_dict().keys() == network.state_dict().keys():
            ours.load_state_dict(network.state_dict())
            return ours
    # mdistiller's networks have the same outputs as ours, and most methods need nothing else
    return cast(StagedModel, network)


def _classes(network: nn.Module) -> int:
    return [m for m in network.modules() if isinstance(m, nn.Linear)][-1].out_features


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
        beside = {"num_data": NUM_DATA.get(data, 0), "image_shape": (3, size, size), "epochs": cfg.SOLVER.EPOCHS,
                  "batch_size": cfg.SOLVER.get("BATCH_SIZE", 64)}  # fmt: skip
        arguments = (keywords_for(self.method, cfg[self.name]) if self.method.config else {}) | asked_for(
            self.method, beside
        )
        try:
            self.inner = self.method(self.student, self._what_teaches(cfg, family), **arguments)
        except ValueError as e:
            raise ConfigError(f"{self.name}: {e}") from None
        if self.inner.deployed is not self.student:
            raise ConfigError(
                f"DISTILLER.TYPE is {self.name}: its student predicts with modules that the method adds, and "
                "mdistiller saves the student alone: train it by `mdistiller-dfpt train`"
            )
        if cfg.SOLVER.get("TRAINER") == "dot" and len(self.get_learnable_parameters()) > 1:
            raise ConfigError(
                f"SOLVER.TRAINER is dot: mdistiller's two momenta take one learning rate, and {self.name} trains some"
                " parameters at a fraction of it: train it by `mdistiller-dfpt train`"
            )
        self._batch: Batch | None = None
        self._step = 0
        _exported.add(self)

    def _what_teaches(self, cfg: CN, family: str) -> TeacherLike:
        """The teacher's network, or the kind of teacher that the method needs around it."""
        if self.method.builds_teacher or not self.method.teacher_kind:
            return self.teacher
        kind = TEACHERS[self.method.teacher_kind]
        if not kind.others_key:
            return kind(self.teacher)
        names, files = cfg.DISTILLER[kind.others_key], cfg.DISTILLER[OTHERS_CKPTS]
        if len(names) != len(files):
            raise ConfigError(
                f"DISTILLER.{kind.others_key} names {len(names)} networks and DISTILLER.{OTHERS_CKPTS} {len(files)} "
                "files: give the trained weights of each (mdistiller trains no network but the student)"
            )
        others = [build_model(name, family, _classes(self.student)) for name in names]
        for network, name, file in zip(others, names, files, strict=True):
            load_into(network, Path(file), name)
        return kind(self.teacher, others=others)  # type: ignore[call-arg]

    def prepare(self, loader: Iterable[Any]) -> None:
        """Let the method pass over mdistiller's training set, before the first step of a new run."""
        device = next(self.student.parameters()).device

        def batches(epoch: int) -> Iterator[Batch]:
            for step, (image, target, index, *_) in enumerate(loader, start=1):
                yield Batch(image.float().to(device), target.to(device), index.to(device), epoch, step)

        for part, epoch in passes(self.inner.hooked()):
            part.prepare(_Again(partial(batches, epoch)))

    def train(self, mode: bool = True) -> "Exported":
        super().train(mode)
        self.inner.train(mode)
        return self

    def get_learnable_parameters(self) -> list[dict[str, Any]]:
        """One parameter group per `lr_factor`, by which the loop's learning rate is multiplied at each step.

        mdistiller's two-momenta optimiser takes a single group.
        """
        by_factor: dict[float, list[Tensor]] = {}
        for group in self.inner.parameter_groups():
            if group["params"]:
                by_factor.setdefault(group["lr_factor"], []).extend(group["params"])
        return [{"params": params, "lr_factor": factor} for factor, params in by_factor.items()]

    def get_extra_parameters(self) -> int:
        """The number of parameters trained in addition to the student's."""
        mine = {id(p) for p in self.student.parameters()}
        return sum(p.numel() for p in self.inner.parameters() if p.requires_grad and id(p) not in mine)

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits (B, classes) and its losses as in mdistiller: `loss_ce` of the labels, and `loss_kd`."""
        self._step += 1
        index = kwargs.get("index")
        if index is None:
            if asked_for(self.method, {"num_data": 0}):
                raise ConfigError(f"{self.name} needs the samples' indices: set SOLVER.TRAINER to crd")
            index = torch.arange(len(target), device=target.device)
        # mdistiller's trainer with indices passes no epoch: warm-ups then count as finished
        if "epoch" not in kwargs and asked_for(self.method, {"epochs": 0}):
            raise ConfigError(f"{self.name} decays over the epochs, which this trainer does not pass: set"
                              " SOLVER.TRAINER to base")  # fmt: skip
        self._batch = Batch(image, target, index, kwargs.get("epoch", 10**6), self._step)
        logits, terms = self.inner(self._batch)
        return logits, {"loss_ce": _sum(terms, logits, of_labels=True), "loss_kd": _sum(terms, logits, of_labels=False)}

    def forward_test(self, image: Tensor) -> Tensor:
        """The logits (B, classes) of the deployed network."""
        return self.inner.forward_student(image).logits

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


class _Again(Iterable[Batch]):
    """Batches that can be gone through more than once."""

    def __init__(self, batches: Callable[[], Iterator[Batch]]):
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()


def _sum(terms: Terms, logits: Tensor, *, of_labels: bool) -> Tensor:
    """The sum of the terms of a kind, (); without any, a zero that mdistiller's trainers can take the gradient of."""
    chosen = {name: term for name, term in terms.items() if (term.kind == "label") is of_labels}
    value = total(chosen) if chosen else logits.sum() * 0
    return value if value.requires_grad else value + logits.sum() * 0


_exported: weakref.WeakSet[Exported] = weakref.WeakSet()
_hooks: list[Any] = []  # on every optimiser step, since mdistiller's loop has no hooks


def _owners(optimizer: torch.optim.Optimizer) -> list[Exported]:
    trained = set(map(id, optimised(optimizer)))
    return [e for e in _exported if any(id(p) in trained for p in e.parameters())]


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for exported in _owners(optimizer):
        for part in exported.inner.hooked():
            part.before_step()
        for group in optimizer.param_groups:
            group["plain_lr"] = group["lr"]
            group["lr"] = group["lr"] * group.get("lr_factor", 1.0)


def before_storing(optimizer: torch.optim.Optimizer) -> None:
    """What the methods change in a gradient, for an optimiser that takes the one of `loss_kd` first and stores it."""
    for exported in _owners(optimizer):
        for part in exported.inner.hooked():
            part.before_step()


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


def extend(distiller_dict: dict[str, Any], tree: CN) -> list[str]:
    """Add every method that mdistiller lacks, with its config section; returns the names added.

    Excludes methods that need two views of a batch, held-out samples or unlabelled images, which mdistiller's loader
    does not give.
    """
    added = []
    for key in sorted({kind.others_key for kind in TEACHERS.values() if kind.others_key} | {OTHERS_CKPTS}):
        tree.DISTILLER.setdefault(key, [])
    for name, method in sorted(DISTILLERS.items()):
        needs_more = method.needs_strong_view or method.held_out or method.needs_extra
        if name in distiller_dict or not issubclass(method, Distiller) or needs_more:
            continue
        if method.config:
            _add_missing(tree.setdefault(name, CN()), method.config)
        distiller_dict[name] = export(name)
        added.append(name)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
        _hooks.append(register_optimizer_step_post_hook(_after_step))
    return added


def _add_missing(section: CN, ours: CN) -> None:
    """Add the keys of a method that a fork's section of the same name lacks."""
    for key, value in ours.items():
        if isinstance(value, CN) and isinstance(section.get(key, CN()), CN):
            _add_missing(section.setdefault(key, CN()), value)
        else:
            section.setdefault(key, value)
