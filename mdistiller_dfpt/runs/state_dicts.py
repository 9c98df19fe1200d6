"""Finds a network's weights in the content of a file: under any key, behind any prefix, beside other networks'."""

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

DEPTH = 3  # of the containers in a file, and of a prefix such as `module.student.`
COUNTER = "num_batches_tracked"  # of a BatchNorm: without one, it counts from 0, and eval mode does not use it
WRAPPER = re.compile(r"(?<![^.])(module|_orig_mod)\.")
AVERAGE = re.compile(r"(^|[_. ])(ema|swa|averaged?)([_. ]|$)")
MISMATCH = re.compile(r"size mismatch for (\S+):")


class Match(NamedTuple):
    """A part of a file, as the weights of a network: faulty unless `faults` is empty."""

    where: str  # the keys that lead to its state_dict; empty: the file itself
    prefix: str
    state: Mapping[str, Tensor]  # under the network's keys
    faults: list[str]
    is_average: bool  # whether it is a moving average of another network's weights
    beside: list[str]  # keys of the same state_dict outside the prefix

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.where} {self.prefix}{'*' if self.prefix else ''}".strip() or "the file itself"

    def holds_network_beside(self, other: "Match") -> bool:
        """Whether the whole network is in it too, and all that is not of the network is the `other` one."""
        inside = other.prefix.removeprefix(self.prefix)
        return (
            self.where == other.where and other.prefix.startswith(self.prefix) and inside != ""
            and all(fault.startswith(inside) and fault.endswith(" is unexpected") for fault in self.faults)
        )  # fmt: skip


def matches(content: Any, network: nn.Module, rename: Callable[[str], str | None]) -> list[Match]:
    """All parts of a file's content that may be the weights of `network`, which stays unchanged, in the file's order.

    `rename`: a key of the file -> the network's; None for tensors that it does not have.
    """
    shadow = copy.deepcopy(network).to("meta")
    size = len(_without_counters(shadow.state_dict()))
    found: list[Match] = []
    for place, state in _state_dicts(content):
        # Wrappers inside the network, `features.module.0`, only matter if it does not fit with them; likewise the
        # names of its parts, `backbone.conv1` and `head.fc`
        plain = _unwrapped(state)
        for part in (state, *plain, *_joined((*plain, state)[0])):
            parts = [_match(place, prefix, part, shadow, rename) for prefix in _prefixes(part, size)]
            found += parts
            if any(not match.faults for match in parts):
                break
    return found


def other_networks(content: Any, used: list[Match]) -> list[str]:
    """The places in a file of weights and biases that are of none of the matches: of modules beside the network."""
    known = {match.where for match in used}
    places = {_words(place): state for place, state in _state_dicts(content)}
    return [
        f"{where or 'the file itself'} {next(key for key in state if _is_weight(key))} ..."
        for where, state in places.items() if where not in known and any(map(_is_weight, state))
    ]  # fmt: skip


def _is_weight(key: str) -> bool:
    return key.endswith((".weight", ".bias"))


def _words(place: tuple[str, ...]) -> str:
    return "".join(f"[{key!r}]" for key in place)


def _match(
    place: tuple[str, ...], prefix: str, state: Mapping[str, Tensor], shadow: nn.Module,
    rename: Callable[[str], str | None],
) -> Match:  # fmt: skip
    inside = _inside(state, prefix, rename)
    beside = [k for k in _without_counters(state) if not k.startswith(prefix) and k != "n_averaged"]
    average = "n_averaged" in state or AVERAGE.search(" ".join([*place, prefix]).lower()) is not None
    return Match(_words(place), prefix, inside, _faults(shadow, inside), average, beside)


def _unwrapped(state: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """The keys without the names that DataParallel and `torch.compile` insert; none if two keys become one."""
    found = OrderedDict((WRAPPER.sub("", key), value) for key, value in state.items())
    return [found] if len(found) == len(state) else []


def _joined(state: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """The keys without the names of the network's parts, as OpenMMLab's; none if they are no names of parts."""
    found = OrderedDict((key.partition(".")[2], value) for key, value in state.items() if "." in key)
    parts = {key.partition(".")[0] for key in state}
    return [found] if len(found) == len(state) and len(parts) > 1 else []


def _state_dicts(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Tensor]]]:
    """Every mapping of names to tensors in nested containers, with the keys that lead to it."""
    if not isinstance(content, Mapping):
        return
    tensors = OrderedDict((k, v) for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor))
    if tensors:
        # The versions of its modules, by which PyTorch renames keys of earlier ones
        tensors._metadata = getattr(content, "_metadata", {})  # type: ignore[attr-defined]
        yield place, tensors
    if len(place) < DEPTH:
        for key, value in content.items():
            if isinstance(key, str | int | float | tuple):  # others may have no text
                yield from _state_dicts(value, (*place, str(key)))


def _without_counters(state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if not key.endswith(COUNTER)]


def _prefixes(state: Mapping[str, Tensor], size: int) -> list[str]:
    """The prefixes of so many keys that a network of `size` keys can be behind them, the shortest first."""
    counts = {"": len(_without_counters(state))}
    for key in _without_counters(state):
        parts = key.split(".")
        for depth in range(1, min(DEPTH + 1, len(parts))):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return [prefix for prefix, count in counts.items() if not prefix or count >= size / 2]


def _inside(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None]) -> Mapping[str, Tensor]:
    keys = {k: rename(k.removeprefix(prefix)) for k in state if k.startswith(prefix) and k != "n_averaged"}
    inside = OrderedDict((key, state[k]) for k, key in keys.items() if key is not None)
    versions: Mapping[str, Any] = getattr(state, "_metadata", {})
    inside._metadata = {  # type: ignore[attr-defined]
        f"{k}."[len(prefix) : -1]: v for k, v in versions.items() if f"{k}.".startswith(prefix)
    }
    return inside


def _faults(shadow: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What PyTorch's strict loading refuses, less missing counters; `shadow` is the network on the meta device."""
    own = shadow.state_dict()
    wrong: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copying to the meta device has no effect, as intended
            missing, unexpected = shadow.load_state_dict(dict_with_versions(state), strict=False)
    except Exception as e:  # a network's own conversion of earlier keys may raise any exception
        missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
        wrong = [f"{k} is {_shape(state, k)}, not {_shape(own, k)}" for k in MISMATCH.findall(str(e))]
        wrong = wrong or [str(e).splitlines()[0] if str(e) else type(e).__name__]
    faults = [f"{k} is missing" for k in missing if not k.endswith(COUNTER)]
    return faults + [f"{k} is unexpected" for k in unexpected if not k.endswith(COUNTER)] + wrong


def _shape(state: Mapping[str, Tensor], key: str) -> str:
    return str(tuple(state[key].shape)) if key in state else "of another shape"


def dict_with_versions(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A copy for `load_state_dict`, which may change it."""
    copied = OrderedDict(state)
    copied._metadata = getattr(state, "_metadata", {})  # type: ignore[attr-defined]
    return copied
