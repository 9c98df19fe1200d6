"""Builds any method and any kind of teacher on tiny networks."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config import keywords
from ..config.keywords import asked_for, flatten, keyword_of
from ..config.merge import checked_value
from ..data import Augmentation, Batch
from ..data.held_out import hold_out
from ..distillers import Distiller, Method, build_distiller
from ..distillers.base import TeacherLike
from ..distillers.choice import choice
from ..distributed import rank, world_size
from ..errors import ConfigError
from ..interop.plugins import load_cfg
from ..losses import Terms
from ..losses.term import total
from ..models import StagedModel
from ..registry import suggest
from ..teachers import ORIGINAL, TEACHERS, Frozen, Teacher, TeacherPath
from ..teachers.hooked import passes
from .tiny_data import IMAGE_SHAPE, tiny_batch, tiny_data
from .tiny_networks import CLASSES, TinyNet, fit_batch, tiny_networks

NUM_DATA, EPOCHS, BATCH_SIZE = 48, 2, 16
OF_RUN = {
    "num_data": NUM_DATA, "num_classes": CLASSES, "image_shape": IMAGE_SHAPE, "epochs": EPOCHS,
    "batch_size": BATCH_SIZE,
}  # fmt: skip
T = TypeVar("T", bound=Method | Teacher | Augmentation)


def tiny_cfg(*overrides: str) -> CN:
    """The defaults, with batches of 16, two epochs, and these overrides."""
    words = ["SOLVER.BATCH_SIZE", str(BATCH_SIZE), "SOLVER.EPOCHS", str(EPOCHS), "LOG.TENSORBOARD", "False"]
    return load_cfg(None, [*words, *overrides])


def tiny_others(count: int) -> list[StagedModel]:
    """Further teacher networks, each with a different width."""
    return [TinyNet(7 + i).eval() for i in range(count)]


def tiny_distiller(name: str, *overrides: str, seed: int = 0, knowing: bool = False) -> Method:
    """Any registered method, or a list of methods, on tiny networks, in training mode.

    `knowing`: all teacher networks have been trained on `tiny_batch()`.
    """
    student, teacher = tiny_networks(seed)
    cfg = tiny_cfg("DISTILLER.TYPE", name, *overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chosen = choice(cfg)
        student = tiny_student(chosen.methods.values(), student, teacher)
        others = tiny_others(len(chosen.others) or (1 if chosen.others_key else 0))
        for network in (teacher, *others) if knowing else ():
            fit_batch(network, tiny_batch())
        distiller = build_distiller(cfg, student, teacher, NUM_DATA, image_shape=IMAGE_SHAPE, others=others)
        prepare(distiller)
        return distiller.train()


def tiny_student(methods: Iterable[type[Method]], student: TinyNet, teacher: TinyNet) -> TinyNet:
    """The tiny student, or one of the teacher's architecture for methods that fine-tune the teacher."""
    is_teachers = any(getattr(cls, "starts_from_teacher", False) for cls in methods)
    return copy.deepcopy(teacher).train() if is_teachers else student


def tiny_method(cls: type[Method], *, seed: int = 0, knowing: bool = False, **changes: Any) -> Method:
    """A method's class on tiny networks, with the defaults of its section and these changes, in training mode."""
    student, network = tiny_networks(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        others = tiny_others(1)
        student = tiny_student([cls], student, network)
        for one in (network, *others) if knowing else ():
            fit_batch(one, tiny_batch())
        beside = asked_for(cls, OF_RUN)
        arguments = {**keywords(cls.config), **beside, **changes}
        if issubclass(cls, Distiller):
            method: Method = cls(student, _what_teaches(cls, network, others), **arguments)
        else:
            method = cls(student, **arguments)
        prepare(method)
        return method.train()


def _what_teaches(cls: type[Distiller], network: StagedModel, others: Sequence[StagedModel]) -> TeacherLike:
    """What a run hands to the method: the network if it builds its teacher, else a teacher and the path it matches."""
    if cls.builds_teacher:
        return network
    if not cls.teacher_kind:
        return TeacherPath(Frozen(network), ORIGINAL) if cls.matches_one_path else Frozen(network)
    kind = TEACHERS[cls.teacher_kind]
    changes: dict[str, Any] = {"others": others} if kind.others_key else {}
    return tiny_teacher(kind, network, **changes)


def tiny_teacher(cls: type[Teacher], network: StagedModel | None = None, seed: int = 0, **changes: Any) -> Teacher:
    """A kind of teacher around a tiny network (and a second one if it uses several), with its section's defaults."""
    network = tiny_networks(seed)[1] if network is None else network
    arguments = {**asked_for(cls, OF_RUN), **keywords(cls.config), **changes}
    if cls.others_key:
        arguments.setdefault("others", tiny_others(1))
    return cls(*([network] if cls.needs_network else []), **arguments)


def with_values(cls: type[T], values: Mapping[str, Any]) -> type[T]:
    """A class with other defaults in its section, by the constructor's keywords.

    ConfigError if the section has no such key, or if its limits do not allow a value.
    """
    config: CN = cls.config.clone()
    keys = {keyword_of(key): key for key in flatten(config)}
    for keyword, value in values.items():
        if keyword not in keys:
            raise ConfigError(f"{cls.__name__} has no key for {keyword}; {suggest(keyword, list(keys))}")
        *sections, name = keys[keyword].split(".")
        node = reduce(getitem, sections, config)
        node[name] = checked_value(keyword, value, node[name], cls.limits.get(keys[keyword]))
    members = {"config": config, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return cast(type[T], type(cls.__name__, (cls,), members)) if values else cls


def prepare(method: Method, batch: Batch | None = None) -> None:
    """The loop's calls before the first step; the training set is this batch, by default `tiny_batch()`.

    The processes of a run share it.
    """
    batch = tiny_batch() if batch is None else batch
    own = batch.rows(slice(rank(), None, world_size()), total=len(batch.target))
    for part in method.hooked():
        if part.held_out:
            part.held = hold_out(tiny_data(size=batch.image.shape[-1]).train, part.held_out)[1]
    for part, epoch in passes(method.hooked()):
        part.prepare([own.replaced(epoch=epoch)])


def run_seeded(method: Method, batch: Batch) -> tuple[Tensor, Terms]:
    """A method's logits and terms, with the same state of the generators in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return method(batch)


def take_steps(method: Method, steps: int, lr: float = 0.05, epoch: int = 1) -> list[float]:
    """Plain SGD steps on one batch; the loss before each."""
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=lr, momentum=0.9)
    history = []
    for step in range(1, steps + 1):
        batch = tiny_batch(step=step, epoch=epoch)
        _, terms = method(batch)
        loss = total(terms)
        optimizer.zero_grad()
        loss.backward()
        for part in method.hooked():
            part.before_step()
        optimizer.step()
        for part in method.hooked():
            part.after_step(batch)
        history.append(loss.item())
    return history


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state_dict."""
    return copy.deepcopy(module.state_dict())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> Sequence[str]:
    """The keys whose values are not bit-identical."""
    return [k for k in before if not torch.equal(before[k], after[k])]
