"""A registry whose classes come with a config section: registering a class checks it and declares its section."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from yacs.config import CfgNode as CN

from ..errors import PluginError
from ..registry import Entry, Registry, suggest
from .hook_signatures import check_signatures
from .keys import KEYS
from .keywords import flatten
from .limits import NETWORKS, Limit
from .sections import declare_node

T = TypeVar("T")


class NodeRegistry(Registry[T]):
    """Registers subclasses of `base` with `config` (a section), `limits`, and optionally `when` and `removed`.

    `node_of` maps a registered name to the name of its section.
    """

    def __init__(self, what: str, key: str, base: type, node_of: Callable[[str], str] = str):
        super().__init__(what, key)
        self.base, self.node_of = base, node_of

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """As `Registry.register`; PluginError if the class does not fit its base class.

        Also raises KeyError if a limit is given for a key that the section does not have.
        """
        file = super().register(name)

        def add(cls: Entry) -> Entry:
            kind: Any = cls
            self.check(kind)
            if kind.config and name not in self:
                removed, when = (getattr(kind, what, None) for what in ("removed", "when"))
                declare_node(self.node_of(name), kind.config, kind.limits, removed, when)
            return file(cls)

        return add

    def check(self, cls: Any) -> None:
        """PluginError if the class is not one of `base` whose attributes and hooks the toolbox can use."""
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise PluginError(cls, f"{self.a_what} must be a subclass of {self.base.__name__}")
        its: Any = cls
        if not isinstance(its.config, CN):
            raise PluginError(cls, f"`config` is a {type(its.config).__name__}; it must be a yacs CfgNode")
        if not isinstance(its.limits, Mapping):
            raise PluginError(cls, f"`limits` is a {type(its.limits).__name__}; it must be a dict from keys to Limits")
        for key, limit in its.limits.items():
            if key in flatten(its.config) and not isinstance(limit, Limit):  # `declare_node` refuses other keys
                raise PluginError(cls, f"the limit of {key!r} is {limit!r}; it must be a Limit, such as "
                                       'config.limits.POSITIVE or Limit("> 0", lambda v: v > 0)')  # fmt: skip
        others = getattr(cls, "others_key", "")
        known = [key.removeprefix("DISTILLER.") for key, known in KEYS.items() if known.limit is NETWORKS]
        if others and others not in known:
            raise PluginError(cls, f"`others_key` is {others!r}, which is no list of networks in DISTILLER; "
                                   f"{suggest(others, known)}")  # fmt: skip
        check_signatures(cls)
