"""The registry of networks and the one function that makes one."""

from ..errors import ConfigError
from ..registry import Registry, suggest
from .staged import StagedModel

MODELS = Registry("model")
"""(family, name) is written `family/name`; a builder takes `num_classes`."""


def build_model(name: str, family: str = "cifar", num_classes: int = 100) -> StagedModel:
    """A freshly initialised network; ConfigError with the closest names where there is none of that name."""
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; it must be at least 1")
    known = sorted(key.removeprefix(f"{family}/") for key in MODELS if key.startswith(f"{family}/"))
    if not known:
        families = sorted({key.split("/")[0] for key in MODELS})
        raise ConfigError(f"unknown model family {family!r}; choose from {', '.join(families)}")
    if name not in known:
        raise ConfigError(f"unknown model {name!r}; {suggest(name, known)}")
    return MODELS[f"{family}/{name}"](num_classes=num_classes)
