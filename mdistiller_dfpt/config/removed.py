"""Keys of earlier versions, and what replaces them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Removed:
    """A key of an earlier version: its default, with which a file may still set it, and the key that replaces it."""

    default: Any
    now: str = ""  # the full key; empty if there is none

    def what_to_do(self) -> str:
        """The remedy, for the error message."""
        return f"it was renamed to {self.now}" if self.now else "it was removed: delete it"


REMOVED: dict[str, Removed] = {
    "DISTILLER.TEACHER_TABLE": Removed("", "DISTILLER.LOGITS_CACHE"),
    "DISTILLER.TEACHER_TABLE_FILL": Removed("lazily", "DISTILLER.LOGITS_CACHE_FILL"),
    "DISTILLER.TEACHER_AHEAD": Removed(1),
    "DISTILLER.TEACHER_FOLD_BN": Removed(False),
    "SOLVER.CUDA_GRAPH": Removed(False),
}
