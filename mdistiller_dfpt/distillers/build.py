"""From a config to a distiller: the last line that sees `cfg`."""

from collections.abc import Sequence
from inspect import signature

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config import keywords
from ..errors import ConfigError
from .base import DISTILLERS, Distiller
from .combined import Combined

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16}


def methods_of(cfg: CN) -> dict[str, type[Distiller]]:
    """The classes that DISTILLER.TYPE names, one or a list; ConfigError for an unknown name."""
    names = cfg.DISTILLER.TYPE
    return {name: DISTILLERS[name] for name in ([names] if isinstance(names, str) else names)}


def method_label(cfg: CN) -> str:
    """DISTILLER.TYPE in one word."""
    return "+".join(methods_of(cfg))


def needs_teacher(cfg: CN) -> bool:
    """Whether any of the methods has a teacher."""
    return any(method.needs_teacher for method in methods_of(cfg).values())


def assistant_names(cfg: CN) -> list[str]:
    """The networks that stand between teacher and student, the strongest first."""
    lists = [cfg[name].ASSISTANTS for name, method in methods_of(cfg).items() if "assistants" in method.needs]
    return lists[0] if lists else []


def build_distiller(
    cfg: CN, student: nn.Module, teacher: nn.Module | None, num_data: int, *,
    image_shape: tuple[int, int, int] = (3, 32, 32), assistants: Sequence[nn.Module] = (),
) -> Distiller:  # fmt: skip
    """What DISTILLER.TYPE names, over two networks.

    `num_data` is the training set's size, for methods with a memory; `image_shape` (3, H, W), for methods that must
    know the size of the networks' maps; `assistants`, for methods that have networks between teacher and student.
    ConfigError where a method is unknown or one of its keys does not fit these networks.
    """
    beside = {
        "num_data": num_data, "image_shape": tuple(image_shape), "assistants": list(assistants), "cfg": cfg,
    }  # fmt: skip
    members = {}
    for name, method in methods_of(cfg).items():
        if method.needs_teacher and teacher is None:
            raise ConfigError(f"DISTILLER.TYPE is {name}; it needs a teacher: set DISTILLER.TEACHER")
        arguments = keywords(cfg[name]) if method.config else {}
        arguments |= {need: beside[need] for need in method.needs}
        if "cfg" in signature(method.__init__).parameters:  # mdistiller's constructor: it reads its node by itself
            arguments = {need: beside[need] for need in (*method.needs, "cfg")}
        try:
            members[name] = method(student, teacher if method.needs_teacher else None, **arguments)
        except ValueError as e:
            raise ConfigError(str(e)) from None
    try:
        distiller = next(iter(members.values())) if len(members) == 1 else Combined(members)
    except ValueError as e:
        raise ConfigError(str(e)) from None
    distiller.set_precision(AMP_DTYPES[cfg.SOLVER.AMP], AMP_DTYPES[cfg.SOLVER.AMP_STUDENT or cfg.SOLVER.AMP])
    return distiller
