"""Methods written for mdistiller, as they are: `__init__(student, teacher, cfg)` and a `forward_train` of their own."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config_keys import declare_node
from ..data import Batch
from .base import DISTILLERS, Distiller, as_output, weighted_by_share
from .dkd import dkd_loss
from .feature import feature_shapes
from .fitnet import Regressor
from .kd import kd_loss


class MdistillerBase(nn.Module):
    """What such a method inherits where mdistiller itself is not installed: its base class's interface."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode: bool = True) -> "MdistillerBase":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        return 0

    def forward_test(self, image: Tensor) -> Tensor:
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


class Foreign(Distiller):
    """Runs a method written for mdistiller in this project's loop: one is made by `adapt` for each such class."""

    foreign: type
    why_eager = "a class written for mdistiller may ask anything of the host"
    needs = ("cfg",)

    def __init__(self, student: nn.Module, teacher: nn.Module, *, cfg: CN, num_data: int | None = None):
        super().__init__(student, teacher)
        more = {} if num_data is None else {"num_data": num_data}
        self.method = self.foreign(student, teacher, cfg, **more)

    @contextlib.contextmanager
    def _networks_in_precision(self, image: Tensor) -> Iterator[None]:
        """Both networks under autocast with float32 results; the method's own losses are computed as they stand."""
        if self.autocast_dtype is None and self.student_autocast_dtype is None:
            yield
            return
        networks = [n for n in (self.student, self.teacher) if n is not None]
        own = [vars(n).get("forward") for n in networks]  # a teacher may compute in a way of its own already
        for network in networks:

            def forward(
                *args: Any, _network: nn.Module = network, _plain: Any = network.forward, **kwargs: Any
            ) -> tuple[Tensor, Any]:
                with self.precision(image, student=_network is self.student):
                    result = _plain(*args, **kwargs)
                return tuple(as_output(result))

            network.forward = forward
        try:
            yield
        finally:
            for network, plain in zip(networks, own, strict=True):
                del network.forward
                if plain is not None:
                    network.forward = plain

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        with self._networks_in_precision(image):
            logits, losses = self.method.forward_train(image=image, target=target, **kwargs)
        return logits, weighted_by_share(losses, Batch(image, target, **kwargs))

    def forward_test(self, image: Tensor) -> Tensor:
        with self._networks_in_precision(image):
            return self.method.forward_test(image)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the method says it learns, each once."""
        learned = {id(p): p for p in self.method.get_learnable_parameters() if p.requires_grad}
        return [{"params": list(learned.values()), "lr_factor": 1.0}]


def adapt(cls: type) -> type[Foreign]:
    """A class of this project around one that was written for mdistiller."""
    needs = ("cfg", "num_data") if "num_data" in inspect.signature(cls.__init__).parameters else ("cfg",)
    return type(cls.__name__, (Foreign,), {"foreign": cls, "needs": needs, "__doc__": cls.__doc__})


def is_foreign(cls: object) -> bool:
    """Whether this is a class of mdistiller's making: a module that trains, and not one of this project."""
    return inspect.isclass(cls) and issubclass(cls, nn.Module) and not issubclass(cls, Distiller) and hasattr(
        cls, "forward_train"
    )  # fmt: skip


def collect(load: Callable[[], Any]) -> Any:
    """Import a plugin, and register the methods that it adds in mdistiller's way.

    That way is `distiller_dict["NAME"] = cls` with `CFG.NAME = CN(...)`. A file that registers nothing has its own
    classes registered under their names in upper case, `CFG.NAME` or the class's `config` for a node.
    """
    with _mdistiller() as (registry, tree):
        before, nodes, ours = dict(registry), dict(tree), set(DISTILLERS)
        module = load()
        added = {name: cls for name, cls in registry.items() if before.get(name) is not cls}
        if not added and set(DISTILLERS) == ours:
            own = [c for c in vars(module).values() if is_foreign(c) and c.__module__ == module.__name__]
            added = {cls.__name__.upper(): cls for cls in own}
        for name, cls in added.items():
            if name in tree and tree[name] is not nodes.get(name):
                declare_node(name, tree[name].clone(), {})
            elif isinstance(getattr(cls, "config", None), CN):
                declare_node(name, cls.config.clone(), {})
            DISTILLERS.register(name)(adapt(cls) if is_foreign(cls) else cls)
        return module


@contextlib.contextmanager
def _mdistiller() -> Iterator[tuple[dict[str, Any], CN]]:
    """(distiller_dict, CFG) of mdistiller, or of stand-ins of its modules where it is not installed."""
    if "mdistiller" not in sys.modules and find_spec("mdistiller") is None:
        _stand_in()
    from mdistiller.distillers import distiller_dict
    from mdistiller.engine.cfg import CFG

    yield distiller_dict, CFG


def _stand_in() -> None:
    """Put the modules that methods import from mdistiller where Python looks; each name does what it does there."""

    def shapes(student: nn.Module, teacher: nn.Module, size: tuple[int, int]) -> tuple[list, list]:
        return tuple([(1, *s) for s in feature_shapes(n, (3, *size)).feats] for n in (student, teacher))

    def regressor(s_shape: tuple, t_shape: tuple, use_relu: bool = True) -> nn.Module:
        return Regressor(tuple(s_shape[1:]), tuple(t_shape[1:]))

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
