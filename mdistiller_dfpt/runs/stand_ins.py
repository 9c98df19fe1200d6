"""Objects of unknown classes in a `torch.save` file, read as what they hold: their code is never looked up."""

import re
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

DEPTH = 4  # of objects in containers
MAX_MODULES, MAX_NAME = 100_000, 2_000  # far above those of any network; a module inside itself has no end
_HARMLESS = {  # of the standard library, in files of OpenMMLab and of networks saved whole
    "builtins.getattr", "collections.deque", "datetime.datetime", "functools.partial", "pathlib.PurePosixPath",
}  # fmt: skip
_REBUILDS_TENSORS = re.compile(r"torch\.(_utils|_tensor|storage)\.")


class StandIn:
    """In the place of any class or function: an OrderedDict takes the items of an object, and its attributes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


def is_replaceable(name: str) -> bool:
    """Whether a stand-in may take the place of this name.

    Most names of the standard library are refused, as only a hostile file contains them, and functions that make
    tensors.
    """
    if name.partition(".")[0] in sys.stdlib_module_names:
        return name in _HARMLESS
    return name != "" and not _REBUILDS_TENSORS.match(name)


def as_states(value: Any, depth: int = DEPTH) -> Any:
    """The content of a file with each network that was saved whole as its state_dict, and other objects as dicts."""
    if depth and isinstance(value, Mapping):
        attributes = _attributes(value)
        if "_modules" in attributes:
            return _state_dict(attributes)
        opened = {key: as_states(inside, depth - 1) for key, inside in {**value, **attributes}.items()}
        if attributes or any(opened[key] is not inside for key, inside in value.items()):
            return opened
    return value


def _attributes(value: Any) -> Mapping[str, Any]:
    """Those of an object; a state_dict has only the versions of its modules."""
    own = vars(value) if isinstance(value, OrderedDict) else {}
    return {} if own.keys() <= {"_metadata"} else own


def _state_dict(module: Mapping[str, Any]) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict()
    left = [("", module)]
    for _ in range(MAX_MODULES):
        if not left:
            return state
        prefix, attributes = left.pop()
        if len(prefix) > MAX_NAME:
            raise CheckpointError(f"it contains a module inside itself, or of a name of {len(prefix):,} characters")
        own = {**attributes.get("_parameters", {}), **attributes.get("_buffers", {})}
        hidden = attributes.get("_non_persistent_buffers_set", ())
        state |= {prefix + k: v for k, v in own.items() if isinstance(v, Tensor) and k not in hidden}
        left += [(f"{prefix}{k}.", _attributes(v)) for k, v in attributes.get("_modules", {}).items() if v is not None]
    raise CheckpointError(f"it contains a network of more than {MAX_MODULES:,} modules; rejected")
