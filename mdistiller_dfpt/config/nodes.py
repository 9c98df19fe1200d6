"""A registry whose classes come with a config section: registering a class declares its section."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..registry import Registry
from .keys import declare_node

T = TypeVar("T")


class NodeRegistry(Registry[T]):
    """Registers classes with `config` (a section), `limits`, and optionally `when` (conditions) and `removed` (keys).

    `node_of` maps a registered name to the name of its section.
    """

    def __init__(self, what: str, key: str, node_of: Callable[[str], str] = str):
        super().__init__(what, key)
        self.node_of = node_of

    def register(self, name: str) -> Callable[[Any], Any]:
        """As `Registry.register`; also raises KeyError if a limit is given for a key that the section does not have."""
        file = super().register(name)

        def add(cls: Any) -> Any:
            if cls.config and name not in self:
                declare_node(
                    self.node_of(name),
                    cls.config,
                    cls.limits,
                    getattr(cls, "removed", None),
                    getattr(cls, "when", None),
                )
            return file(cls)

        return add
