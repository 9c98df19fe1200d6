"""A law is a function that raises `BrokenLaw` if its subject violates it."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import kind_and_message
from ..models.output import Output

T = TypeVar("T")


class BrokenLaw(AssertionError):
    """The subject violates a rule that all of its kind must obey; the message says which one, and what to do."""


class Undeclared(dict[str, Any]):
    """Features that a method does not declare to use."""

    def __missing__(self, key: str) -> Any:
        raise BrokenLaw(f"it reads the teacher's {key!r}: set `needs_teacher_maps = True` in the class")


def holds(condition: bool, message: str) -> None:
    """Raise BrokenLaw with this message unless the condition holds."""
    if not condition:
        raise BrokenLaw(message)


def obey(laws: Iterable[Callable[[T], None]], subject: T, name: str) -> None:
    """Check all laws; BrokenLaw naming the subject, with one line per law that is broken or raises an error.

    The first such error is chained as the cause.
    """
    broken, cause = [], None
    for law in laws:
        try:
            law(subject)
        except BrokenLaw as e:
            broken.append(f"{name}: {law.__name__.replace('_', ' ')}: {e}")
        except Exception as e:
            broken.append(f"{name}: {law.__name__.replace('_', ' ')}: it raised {kind_and_message(e)}")
            cause = cause or e
    if broken:
        raise BrokenLaw("\n".join(broken)) from cause


def reachable_tensors(root: object) -> dict[int, Tensor]:
    """Every tensor reachable from `root` through attributes and containers, by id."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()
    queue: list[Any] = [root]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found[id(item)] = item
        elif isinstance(item, dict):
            queue += item.values()
        elif isinstance(item, list | tuple | set):
            queue += item
        elif isinstance(item, nn.Module):
            queue += vars(item).values()
    return found


def leaves_of(loss: Tensor) -> set[int]:
    """Ids of the parameters that a loss's graph reaches."""
    queue: list[Any] = [loss.grad_fn]
    seen, leaves = set(), set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        queue += [following for following, _ in node.next_functions]
    return leaves


def tensors_of(output: Output) -> list[Tensor]:
    """The logits and all features of an output."""
    features = [x for value in output.features.values() for x in (value if isinstance(value, list) else [value])]
    return [output.logits, *features]
