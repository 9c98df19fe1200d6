"""The registry of networks, and the function that creates them."""

from collections.abc import Callable, Sequence

from torch import nn

from ..errors import ConfigError
from ..registry import Registry, suggest
from .external.adapt import adapt
from .external.names import build_external, is_external, torchvision_networks
from .staged import StagedModel

OWN_NETWORK = "own/"
"""Before the class of a network that a program gave and no config can build."""

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Keys are `family/name`; a builder takes `num_classes`, and returns a `StagedModel` or any network, to be adapted."""


def build_model(
    name: str, family: str = "cifar", num_classes: int = 100, *, stages: Sequence[str] = (), image_size: int = 224
) -> StagedModel:
    """A newly initialised network; ConfigError with the closest names if the name is unknown.

    torchvision/NAME, timm/NAME and package.module:function are networks of other libraries and of users, which have no
    family; `stages` names the modules that end their stages, `image_size` is the size they are built for.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; it must be at least 1")
    if name.startswith(OWN_NETWORK):
        raise ConfigError(
            f"{name} is a network of a program, which alone can build it: there, load_student(path, network=...)"
        )
    if is_external(name):
        return build_external(name, num_classes, stages, image_size)
    known = sorted(key.removeprefix(f"{family}/") for key in MODELS if key.startswith(f"{family}/"))
    if not known:
        families = sorted({key.split("/")[0] for key in MODELS})
        raise ConfigError(f"unknown network family {family!r}; choose from {', '.join(families)}")
    if name not in known:
        if families := sorted(key.partition("/")[0] for key in MODELS if key.partition("/")[2] == name):
            raise ConfigError(f"there is no network {name!r} in the family {family}; MODEL.FAMILY {families[0]} has it")
        of_torchvision = {key: shown for key, shown in torchvision_networks().items() if key not in known}
        names = {own: own for own in known} | of_torchvision
        raise ConfigError(f"unknown network {name!r}; {suggest(name, names)}")
    network = MODELS[f"{family}/{name}"](num_classes=num_classes)
    if stages and isinstance(network, StagedModel):
        raise ConfigError(f"{name} defines its own stages; remove the names {', '.join(stages)}")
    return adapt(network, image_size, stages)
