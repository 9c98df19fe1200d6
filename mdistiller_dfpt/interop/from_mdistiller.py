"""Runs methods written for mdistiller unchanged: `__init__(student, teacher, cfg)` and their own `forward_train`."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.keys import declare_node
from ..config.keywords import asked_for
from ..distillers.base import DISTILLERS, Batch, Distiller, Method, StagedModel, TeacherLike
from ..distillers.dkd import dkd_loss
from ..distillers.feature import feature_shapes
from ..distillers.fitnet import Regressor
from ..distillers.kd import kd_loss
from ..distributed import world_size
from ..errors import PluginError
from ..losses import Term, Terms, distillation, label
from ..losses.sharded import weighted_by_shard
from ..models.output import Output, as_output, autocast
from ..registry import restored_on_error
from ..teachers import Frozen

OFFERED = {**{field.name: field.name for field in fields(Batch)}, "image_weak": "image", "image_strong": "strong"}
"""The keywords of `forward_train`, and the fields of a batch that they are."""

Shape = tuple[int, int, int, int]  # of a feature map, as in mdistiller: (1, C, H, W)


class MdistillerBase(nn.Module):
    """Base class of such methods if mdistiller is not installed: the interface of mdistiller's base class."""

    forward_train: Callable[..., tuple[Tensor, dict[str, Tensor]]]  # implemented by the method

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode: bool = True) -> "MdistillerBase":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """The optimised parameters."""
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        """The number of parameters that the method adds to the student's."""
        return 0

    def forward_test(self, image: Tensor) -> Tensor:
        """The logits (B, classes) that are evaluated."""
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


class Foreign(Distiller):
    """Runs a method written for mdistiller in this project's loop; `adapt` creates a subclass for each such class."""

    foreign: ClassVar[Any]
    wanted: ClassVar[tuple[str, ...]]  # those of OFFERED that its `forward_train` takes

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, cfg: CN, **more: Any):
        super().__init__(student, teacher)
        if type(self.teacher) is not Frozen:
            raise ValueError(f"DISTILLER.TEACHER_KIND: {type(self).__name__} is written for mdistiller and runs the "
                             "teacher's network itself, so it supports only the kind frozen")  # fmt: skip
        self.method = self.foreign(student, self.teacher_network, cfg, **more)
        if world_size() > 1:
            print(f"{type(self).__name__} is written for mdistiller: each process computes its loss on its own samples")
        # The method runs the networks itself; each runs in its precision and returns float32
        self._contexts: list[Any] = []
        for network in (student, self.teacher_network):
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave, always_call=True)

    def _enter(self, network: nn.Module, args: tuple[Any, ...]) -> None:
        context = autocast(self.student_dtype if network is self.student else self.dtype, args[0])
        context.__enter__()
        self._contexts.append(context)

    def _leave(self, network: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        self._contexts.pop().__exit__(None, None, None)
        return tuple(as_output(result)) if isinstance(result, tuple) and len(result) == 2 else result

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        values = {name: getattr(batch, OFFERED[name]) for name in self.wanted}
        result = self.method.forward_train(**values)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise PluginError(self.foreign, "`forward_train` must return (logits, {name: loss})")
        logits, losses = result
        if wrong := [name for name, value in losses.items() if not isinstance(value, Tensor)]:
            raise PluginError(self.foreign, f"`forward_train` returned losses that are no tensors: {', '.join(wrong)}")
        terms = {name: _term(name, value) for name, value in losses.items()}
        return logits, weighted_by_shard(terms, batch)

    def forward_student(self, image: Tensor) -> Output:
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
    """mdistiller's name for the label term is `loss_ce`; vectors are averaged, as in its trainer."""
    return (label if name == "loss_ce" else distillation)(value.mean())


def _wanted(cls: Any) -> tuple[str, ...]:
    """The keywords that a class's `forward_train` takes; PluginError if it requires others."""
    parameters = list(inspect.signature(cls.forward_train).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if unknown := [p.name for p in named if p.default is p.empty and p.name not in OFFERED]:
        raise PluginError(cls, f"`forward_train` requires {', '.join(unknown)}; supported are {', '.join(OFFERED)}")
    names = {p.name for p in named}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        names.update(field.name for field in fields(Batch))
    return tuple(name for name in OFFERED if name in names)


def adapt(cls: type[nn.Module]) -> type[Foreign]:
    """A class of this project that wraps one written for mdistiller; PluginError if it cannot be called here."""
    wanted = _wanted(cls)
    methods: dict[str, Any] = {
        "foreign": cls, "__doc__": cls.__doc__, "wanted": wanted, "needs_strong_view": "image_strong" in wanted,
        "__module__": cls.__module__, "__qualname__": cls.__qualname__,
    }  # fmt: skip
    if asked_for(cls, {"num_data": 0}):

        def __init__(self: Foreign, student: StagedModel, teacher: TeacherLike, *, cfg: CN, num_data: int) -> None:
            Foreign.__init__(self, student, teacher, cfg=cfg, num_data=num_data)

        methods["__init__"] = __init__
    return type(cls.__name__, (Foreign,), methods)


def is_foreign(cls: object) -> bool:
    """Whether this is a class written for mdistiller: a module with `forward_train`, not one of this project."""
    return inspect.isclass(cls) and issubclass(cls, nn.Module) and not issubclass(cls, Method) and hasattr(
        cls, "forward_train"
    )  # fmt: skip


def collect(load: Callable[[], Any]) -> Any:
    """Import a plugin, and register the methods that it adds as in mdistiller.

    mdistiller's way is `distiller_dict["NAME"] = cls` with `CFG.NAME = CN(...)`. If a file registers nothing, its own
    classes are registered under their names in upper case, with `CFG.NAME` or the class's `config` as config section.
    """
    registry, tree = _mdistiller()
    with restored_on_error(registry, tree):
        before, ours = dict(registry), set(DISTILLERS)
        module = load()
        added = {name: cls for name, cls in registry.items() if before.get(name) is not cls}
        if not added and set(DISTILLERS) == ours:
            names = {cls: name for name, cls in before.items()}  # those of a fork whose methods are registered already
            own = [c for c in vars(module).values() if is_foreign(c) and c.__module__ == module.__name__]
            added = {names.get(cls, cls.__name__.upper()): cls for cls in own}
        for name, cls in added.items():
            section = tree.get(name, getattr(cls, "config", None))
            if is_foreign(cls) and isinstance(section, CN) and name not in DISTILLERS:  # else it is refused below
                declare_node(name, section.clone(), {})
            DISTILLERS.register(name)(adapt(cls) if is_foreign(cls) else cls)
    return module


def _mdistiller() -> tuple[dict[str, Any], CN]:
    """(distiller_dict, CFG) of mdistiller, or of stand-ins for its modules if it is not installed."""
    if "mdistiller" not in sys.modules and find_spec("mdistiller") is None:
        _stand_in()
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG

    return distiller_dict, CFG


def _stand_in() -> None:
    """Add stand-ins for the modules that methods import from mdistiller to sys.modules; each name works as there."""

    def shapes(student: nn.Module, teacher: nn.Module, size: tuple[int, int]) -> tuple[list[Shape], list[Shape]]:
        mine, its = (feature_shapes(network, (3, *size)).feats for network in (student, teacher))
        return [(1, *s) for s in mine], [(1, *t) for t in its]

    def regressor(s_shape: Shape, t_shape: Shape, use_relu: bool = True) -> nn.Module:
        return Regressor((s_shape[1], s_shape[2], s_shape[3]), (t_shape[1], t_shape[2], t_shape[3]))

    contents: dict[str, dict[str, Any]] = {
        "": {},
        ".engine": {},
        ".engine.cfg": {"CFG": CN()},
        ".distillers": {"distiller_dict": {}},
        ".distillers._base": {"Distiller": MdistillerBase},
        ".distillers._common": {"ConvReg": regressor, "get_feat_shapes": shapes},
        ".distillers.KD": {"kd_loss": kd_loss},
        ".distillers.DKD": {"dkd_loss": dkd_loss},
    }
    for name, names in contents.items():
        module = ModuleType("mdistiller" + name, "A stand-in for mdistiller's module, by mdistiller_dfpt.")
        module.__path__ = []
        vars(module).update(names)
        sys.modules[module.__name__] = module
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
