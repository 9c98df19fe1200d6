"""Runs methods written for mdistiller unchanged: `__init__(student, teacher, cfg)` and their own `forward_train`."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import reduce
from operator import getitem
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.effect import value_of
from ..config.keywords import asked_for
from ..distillers.base import Batch, Distiller, Method, StagedModel, TeacherLike
from ..distillers.crd import SECTION_OF_ROWS, contrastive_rows
from ..distributed import all_gather, pick_device, world_size
from ..errors import PluginError
from ..losses import Term, Terms, distillation, label
from ..losses.sharded import weighted_by_shard
from ..losses.term import RESERVED
from ..models.output import Output, as_output, autocast
from ..teachers import Frozen
from .cuda_calls import cuda_calls_ignored

OFFERED = {**{field.name: field.name for field in fields(Batch)}, "image_weak": "image", "image_strong": "strong"}
"""The keywords of `forward_train`, and the fields of a batch that they are."""
ROWS = "contrastive_index"
"""The keyword with the rows of a positive and of the negatives that mdistiller's loader draws; see SECTION_OF_ROWS."""


class Foreign(Distiller):
    """Runs a method written for mdistiller in this project's loop; `adapt` creates a subclass for each such class."""

    foreign: ClassVar[Any]
    wanted: ClassVar[tuple[str, ...]]  # those of OFFERED, and ROWS, that its `forward_train` takes
    undeclared: ClassVar[tuple[str, ...]] = ()  # keys that it reads and its fork's config does not have
    labels: Tensor  # (N,), a buffer of methods that want ROWS: -1 until a sample was met

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, cfg: CN, num_data: int):
        super().__init__(student, teacher)
        if type(self.teacher) is not Frozen:
            raise ValueError(f"DISTILLER.TEACHER_KIND: {type(self).__name__} is written for mdistiller and runs the "
                             "teacher's network itself, so it supports only the kind frozen")  # fmt: skip
        if ROWS in self.wanted:
            self.register_buffer("labels", torch.full((num_data,), -1, dtype=torch.int64))
            section = cfg[SECTION_OF_ROWS]
            self.draws = {"k": section.NCE.K, "mode": section.MODE, "seed": cfg.SOLVER.SEED}
        more = asked_for(self.foreign, {"num_data": num_data})
        on_cpu = pick_device(cfg.EXPERIMENT.DEVICE).type == "cpu"
        try:
            with cuda_calls_ignored(on_cpu):
                self.method = self.foreign(student, self.teacher_network, self._with_set_keys(cfg), **more)
        except AttributeError as e:
            if unset := [full for full in self.undeclared if str(e) in full.split(".")]:
                others = [full for full in self.undeclared if full != unset[0] and value_of(cfg, full) is None]
                too = f"; and, if it reads them, {', '.join(others)}" if others else ""
                raise PluginError(self.foreign, f"it reads cfg.{unset[0]}, which no `CFG` has: set {unset[0]}{too}"
                                  ) from None  # fmt: skip
            raise
        if world_size() > 1:
            print(f"{type(self).__name__} is written for mdistiller: each process computes its loss on its own samples")
        # The method runs the networks itself; each runs in its precision and returns float32
        self._contexts: list[Any] = []
        for network in (student, self.teacher_network):
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave, always_call=True)

    def _with_set_keys(self, cfg: CN) -> CN:
        """The config without the undeclared keys that are not set, so that reading one is an error as in the fork."""
        cfg = cfg.clone()
        for full in self.undeclared:
            *sections, last = full.split(".")
            node = reduce(getitem, sections, cfg)
            if node[last] is None:
                del node[last]
        return cfg

    def _enter(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        context = autocast(self.student_dtype if network is self.student else self.dtype, args[0])
        context.__enter__()
        self._contexts.append(context)

    def _leave(self, network: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        self._contexts.pop().__exit__(None, None, None)
        return tuple(as_output(result)) if isinstance(result, tuple) and len(result) == 2 else result

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        values = {name: getattr(batch, OFFERED[name]) for name in self.wanted if name != ROWS}
        if ROWS in self.wanted:
            values[ROWS] = contrastive_rows(self.labels, batch, **self.draws)
        with cuda_calls_ignored(batch.image.device.type == "cpu"):
            result = self.method.forward_train(**values)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise PluginError(self.foreign, "`forward_train` must return (logits, {name: loss})")
        logits, losses = result
        if wrong := [name for name, value in losses.items() if not isinstance(value, Tensor | float | int)]:
            raise PluginError(self.foreign, f"`forward_train` returned losses that are no numbers: {', '.join(wrong)}")
        terms = {
            f"{name}_of_method" if name in RESERVED else name: _term(name, torch.as_tensor(value, device=logits.device))
            for name, value in losses.items()
        }
        return logits, weighted_by_shard(terms, batch)

    def after_step(self, batch: Batch) -> None:
        if ROWS in self.wanted:
            # Of all processes, as each draws from all samples
            self.labels[all_gather(batch.index, batch.total)] = all_gather(batch.target, batch.total)

    def forward_student(self, image: Tensor) -> Output:
        with cuda_calls_ignored(image.device.type == "cpu"):
            return Output(self.method.forward_test(image), {})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The parameters that the method lists as learnable, each once."""
        found = self.method.get_learnable_parameters()
        found = list(found) if isinstance(found, Iterable) else [found]
        if not all(isinstance(p, Tensor) for p in found):
            raise PluginError(self.foreign, "`get_learnable_parameters` must return a list of parameters")
        learned = {id(p): p for p in found if p.requires_grad}
        return [{"params": list(learned.values()), "lr_factor": 1.0}]


def _term(name: str, value: Tensor) -> Term:
    """mdistiller's name for the label term is `loss_ce`; what is no scalar is averaged, as in its trainer."""
    value = value.float().mean()
    return label(value) if name == "loss_ce" else distillation(value, inside=None)


def _wanted(cls: Any) -> tuple[str, ...]:
    """The keywords that a class's `forward_train` takes; PluginError if it requires others."""
    parameters = list(inspect.signature(cls.forward_train).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    offered = (*OFFERED, ROWS)
    if unknown := [p.name for p in named if p.default is p.empty and p.name not in offered]:
        raise PluginError(cls, f"`forward_train` requires {', '.join(unknown)}; supported are {', '.join(offered)}")
    names = {p.name for p in named}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names.update(field.name for field in fields(Batch))
    required = {p.name for p in named if p.default is p.empty}
    return tuple(name for name in offered if name in (required if name == ROWS else names))


def _refuse_constructor(cls: Any) -> None:
    """PluginError unless the class is made by `cls(student, teacher, cfg)`, with `num_data` if it asks for it."""
    try:
        inspect.signature(cls).bind(None, None, None, **asked_for(cls, {"num_data": 0}))
    except TypeError as e:
        raise PluginError(
            cls, f"its constructor must take (student, teacher, cfg), and may take num_data ({e})"
        ) from None


def keys_read(cls: type) -> set[str]:
    """The dotted names after `cfg.` in the source of a class and of its bases, less a last one that is called."""
    found: set[str] = set()
    for base in inspect.getmro(cls):
        if base.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        try:
            names = re.findall(r"\bcfg\.(\w+(?:\.\w+)*)(\s*\()?", inspect.getsource(base))
        except (OSError, TypeError):  # no source
            continue
        found.update(name.rpartition(".")[0] if called else name for name, called in names)
    return found - {""}


def adapt(cls: type[nn.Module], added: Iterable[str] = (), undeclared: Iterable[str] = ()) -> type[Foreign]:
    """A class of this project that wraps one written for mdistiller; PluginError if it cannot be called here.

    `added`: the config keys that its fork has and this project does not; `undeclared`: those that neither has.
    """
    _refuse_constructor(cls)
    wanted, sections = _wanted(cls), frozenset(name.partition(".")[0] for name in keys_read(cls))
    if ROWS in wanted:
        sections |= {SECTION_OF_ROWS}
    reads = sections | {full for full in added if full.partition(".")[0] in sections}
    methods: dict[str, Any] = {
        "foreign": cls, "__doc__": cls.__doc__, "wanted": wanted, "needs_strong_view": "image_strong" in wanted,
        "reads": reads, "undeclared": tuple(undeclared),
        "__module__": cls.__module__, "__qualname__": cls.__qualname__,
    }  # fmt: skip
    return type(cls.__name__, (Foreign,), methods)


def is_foreign(cls: object) -> bool:
    """Whether this is a class written for mdistiller: a module with `forward_train`, not one of this project."""
    return inspect.isclass(cls) and issubclass(cls, nn.Module) and not issubclass(cls, Method) and hasattr(
        cls, "forward_train"
    )  # fmt: skip
