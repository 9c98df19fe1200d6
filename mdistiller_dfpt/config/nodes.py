"""A registry whose entries bring a section of the config: registering a class declares its node."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..registry import Registry
from .keys import declare_node

T = TypeVar("T")


class NodeRegistry(Registry[T]):
    """Registers classes with `config` (a node), `limits` and, where keys have gone, `removed`.

    `node_of` turns a registered name into that of its section.
    """

    def __init__(self, what: str, node_of: Callable[[str], str] = str):
        super().__init__(what)
        self.node_of = node_of

    def register(self, name: str) -> Callable[[Any], Any]:
        """As `Registry.register`; KeyError too where a limit is for a key that the node does not have."""
        file = super().register(name)

        def add(cls: Any) -> Any:
            if cls.config:
                declare_node(self.node_of(name), cls.config, cls.limits, getattr(cls, "removed", None))
            return file(cls)

        return add
