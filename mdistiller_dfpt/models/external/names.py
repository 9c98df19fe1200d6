"""Networks of other libraries and of the user: torchvision/resnet18, timm/vit_tiny_patch16_224, package.nets:build.

timm's take arguments: timm/vit_tiny_patch16_224(patch_size=8, depth=6).
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ...data.normalisation import Normalisation
from ...errors import USER_FILES, ConfigError, kind_and_message, lack_of_memory
from ...literals import keywords_of
from ...registry import suggest
from ..staged import StagedModel
from .adapt import AdaptedModel
from .file_keys import renamed

Maker = Callable[..., nn.Module]


def is_external(name: str) -> bool:
    """Whether a network's name refers to something outside this package."""
    return name.startswith(("torchvision/", "timm/")) or ":" in name


def build_external(name: str, num_classes: int, stages: Sequence[str], image_size: int) -> StagedModel:
    """The network `name`, newly initialised; ConfigError if it does not exist or its library is not installed.

    A user's `module:function` takes `num_classes` and returns a module; a `StagedModel` is returned unchanged.
    """
    network = made_by_library(name, num_classes, image_size)[0]
    if isinstance(network, StagedModel):
        return network
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{name} returned {type(network).__name__}; it must return a torch.nn.Module")
    library, _, rest = name.partition("/")
    return AdaptedModel(network, stages, image_size, rename=renamed(rest) if library == "torchvision" else str)


def made_by_library(name: str, num_classes: int, image_size: int) -> tuple[Any, dict[str, Any]]:
    """The network as its library or the user's function makes it, and the arguments; ConfigError if it cannot."""
    library, _, rest = name.partition("/") if ":" not in name else ("", "", name)
    make = {"torchvision": _torchvision, "timm": _timm, "": _imported}[library](rest)
    network, arguments = _made(make, name, num_classes, image_size)
    beside = {"torchvision": torchvision_arguments, "timm": lambda rest: timm_arguments(rest)[1], "": lambda rest: {}}
    return network, {**arguments, **beside[library](rest)}


def published_normalisation(name: str) -> Normalisation | None:
    """The normalisation behind the published weights of a torchvision/ or timm/ network; None for other networks.

    googlenet and inception_v3 of torchvision convert to theirs in `forward`, if its builders load their weights.
    """
    library, _, rest = name.partition("/")
    if library == "torchvision":
        from torchvision import models

        if rest in ("googlenet", "inception_v3"):
            return Normalisation((0.5,) * 3, (0.5,) * 3)
        published = next(iter(models.get_model_weights(rest)), None)
        transform = published.transforms() if published else None
        return None if transform is None else Normalisation(tuple(transform.mean), tuple(transform.std))
    if library == "timm":
        import timm

        known = timm.get_pretrained_cfg(timm_arguments(rest)[0], allow_unregistered=True)
        return None if known is None else Normalisation(tuple(known.mean), tuple(known.std))
    return None


def _made(make: Maker, name: str, num_classes: int, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Transformers are built for one image size, passed under one of two names; most networks take none.

    A user's function may also be of a fixed number of classes, which its logits show.
    """
    given = {"num_classes": num_classes}
    attempts = [{**given, "img_size": image_size}, {**given, "image_size": image_size}, given, *([{}] * (":" in name))]
    for arguments in attempts:
        try:
            return make(**arguments), arguments
        except TypeError as e:
            if arguments == attempts[-1] or not re.search(r"im(a)?g(e)?_size|num_classes", str(e)):
                raise ConfigError(f"{name} cannot be built ({e})") from None
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, ValueError) as e:
            if ":" in name or lack_of_memory(e):
                raise
            # Arguments of a network are others', and few libraries check them
            raise ConfigError(f"{name} cannot be built ({kind_and_message(e)})") from None
    raise AssertionError("the last attempt returns or raises")


def _torchvision(name: str) -> Maker:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier {name!r}; {suggest(name, known)}")
    return lambda **arguments: models.get_model(name, weights=None, **torchvision_arguments(name), **arguments)


def torchvision_arguments(name: str) -> dict[str, Any]:
    """What a network of torchvision is built with, beside its classes."""
    return {"init_weights": True, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}


def torchvision_networks() -> dict[str, str]:
    """{name in torchvision: name here} of all of its classifiers."""
    from torchvision import models

    return {name: f"torchvision/{name}" for name in models.list_models(module=models)}


def external_networks() -> list[str]:
    """The names of all networks of torchvision, and of timm if it is installed."""
    found = list(torchvision_networks().values())
    if importlib.util.find_spec("timm") is None:
        return found
    import timm

    return [*found, *(f"timm/{name}" for name in timm.list_models())]


def _timm(name: str) -> Maker:
    try:
        import timm
    except ModuleNotFoundError:
        raise ConfigError(f"timm/{name} needs timm: pip install timm") from None
    known, given = timm_arguments(name)
    if not timm.is_model(known):
        raise ConfigError(f"timm has no model {known!r}; {suggest(known, timm.list_models())}")
    of_loading = inspect.signature(timm.create_model).parameters  # a config names no file that would be read
    if others := sorted(given.keys() & of_loading):
        raise ConfigError(f"timm/{name}: {others[0]} is not of the network, but of how timm makes it: leave it out")
    return lambda **arguments: timm.create_model(known, pretrained=False, **{**arguments, **given})


def timm_arguments(name: str) -> tuple[str, dict[str, Any]]:
    """`vit_tiny_patch16_224(patch_size=8, depth=6)` -> the name, and the arguments: plain values, never evaluated."""
    known, opening, inside = name.partition("(")
    if not opening:
        return name, {}
    try:
        return known, keywords_of(inside)
    except ValueError:
        raise ConfigError(f"timm/{name}: write its arguments as timm/NAME(width=32, depths=[2, 2])") from None


NARROW: tuple[dict[str, Any], ...] = (
    {"embed_dim": 16, "num_heads": (1, 2, 4, 8)},
    {"dims": (8, 16, 32, 64)},
    {"embed_dim": 32, "num_heads": 2},
    {"embed_dim": 32},
    {"mlp_ratio": (0.1, 0.1)},
    {"channels": (64, 16, 32, 64)},
)
"""Arguments that make networks of timm small, by the arguments that the families take."""


def narrowed(name: str) -> str:
    """The same network of timm with few channels, its depth and modules unchanged; a name of other kinds as it is."""
    library, _, rest = name.partition("/")
    if library != "timm":
        return name
    known, given = timm_arguments(rest)
    for arguments in NARROW:
        words = ", ".join(f"{key}={value!r}" for key, value in {**given, **arguments}.items())
        try:
            with torch.device("meta"):
                _timm(f"{known}({words})")()
        except (ConfigError, TypeError, RuntimeError, AssertionError, ValueError):
            continue
        return f"timm/{known}({words})"
    return name


def file_of_network(name: str) -> str | None:
    """The file of a user's `module:function`."""
    _imported(name)
    return getattr(sys.modules[name.partition(":")[0]], "__file__", None)


def _imported(name: str) -> Maker:
    module, _, function = name.partition(":")
    try:
        imported = importlib.import_module(module)
        maker = getattr(imported, function)
    except (ImportError, AttributeError, ValueError) as e:
        raise ConfigError(f"{name}: cannot be imported ({e}); it is package.module:function, in the folder of the"
                          " config, the working directory or a folder of PYTHONPATH") from None  # fmt: skip
    if file := getattr(imported, "__file__", None):
        USER_FILES.add(file)
    return maker
