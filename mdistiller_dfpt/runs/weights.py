"""A network's weights from files of any origin."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from ..distributed import rank
from ..errors import CheckpointError, ConfigError, in_short
from ..models import StagedModel
from ..models.external.adapt import AdaptedModel
from ..regular_files import read_tensors
from .safe_load import load_pickled_tensors
from .state_dicts import COUNTER, Match, dict_with_versions, matches, other_networks

WEIGHTS = "student.safetensors"  # in the directory of a run and in a checkpoint
HUB_WEIGHTS, HUB_CONFIG = "model.safetensors", "config.json"  # in a folder as model hubs read it
POSITIONS = re.compile(r"(^|\.)(pos_embed|pos_embedding|position_embeddings?)\S* is \(")  # of a transformer's tokens
TEACHER_WEIGHTS = "teacher.safetensors"  # in the directory of a run, if the teacher is trained along with the student


def weights_file(path: Path) -> Path:
    """A file as it is; of the directory of a run or a folder as model hubs read it, its student's, which may miss."""
    if not path.is_dir():
        return path
    return path / (HUB_WEIGHTS if not (path / WEIGHTS).exists() and (path / HUB_WEIGHTS).exists() else WEIGHTS)


def weights_folder(path: Path) -> Path:
    """The directory that a file of weights is in, or that was given in its place."""
    return path if path.is_dir() else path.parent


def load_weights(path: Path) -> dict[str, Any]:
    """The content of a file with weights: of a run or checkpoint directory, a safetensors or a `torch.save` file.

    CheckpointError if there is no such file, or if it contains no tensors by name.
    """
    path = weights_file(Path(path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        try:
            return read_tensors(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise CheckpointError(f"{path}: not a safetensors file ({in_short(e)})") from None
    content = load_pickled_tensors(path, objects=True)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains {type(content).__name__}; expected a state_dict, or a dict with one")
    return content


def load_into(network: nn.Module, path: Path, name: str) -> None:
    """Load a file's weights into `network`; CheckpointError unless exactly one network in it is this one.

    They may be under any key and behind any prefix. Missing counters of BatchNorm are no fault. What was chosen among
    several, and what was left out, is printed.
    """
    content = load_weights(path)
    target, rename = _renamed(network)
    found = matches(content, target, rename)
    fitting = [match for match in found if not match.faults]
    plain = [match for match in fitting if not match.is_average] or fitting
    # A network beside another one, as a student that holds its teacher, does not fit as a whole
    several = plain + [m for m in found if plain and m.faults and m.holds_network_beside(plain[0])]
    if len(several) > 1:
        places = ", ".join(match.place for match in several)
        raise CheckpointError(
            f"{path}: {len(several)} networks in it fit {name}: {places};"
            " save the one to use in a file of its own (mdistiller's student_best is one)"
        )
    if not plain:
        raise CheckpointError(f"{path}: not a checkpoint of {name}: {_difference(found, content, target)}")
    match = plain[0]
    if match.prefix == "student." and match.beside and (path.is_dir() or path.name in (WEIGHTS, HUB_WEIGHTS)):
        raise CheckpointError(
            f"{path}: the student in it predicts with modules of its method ({_first(match.beside)}), not as {name}"
            " alone: evaluate it with the --cfg of its run; a teacher must be a network of its own"
        )
    try:
        target.load_state_dict(dict_with_versions(match.state), strict=False)
    except RuntimeError as e:  # sparse, quantised, or without values
        raise CheckpointError(f"{path}: cannot be copied into {name} ({str(e).splitlines()[-1].strip()})") from None
    if rank() == 0:
        for line in _notes(match, fitting, content):
            print(f"note: {path}: {line}", flush=True)


def class_counts(network: StagedModel, path: Path) -> list[int]:
    """How many classes the linear classifiers have that stand in a file where the network has one of other classes."""
    content = load_weights(path)
    target, rename = _renamed(network)
    try:
        weight = network.classifier_layer.weight
    except ConfigError:
        return []
    key = next(name for name, parameter in target.named_parameters() if parameter is weight)
    found = [match.state[key].shape for match in matches(content, target, rename) if key in match.state]
    fitting = (s[0] for s in found if len(s) == 2 and s[1] == weight.shape[1] and s[0] != len(weight))
    return list(dict.fromkeys(fitting))


def _renamed(network: nn.Module) -> tuple[nn.Module, Callable[[str], str | None]]:
    """A network of another library is given its file as it is, with the versions of its modules."""
    return (network.network, network.rename) if isinstance(network, AdaptedModel) else (network, str)


def _notes(match: Match, fitting: list[Match], content: dict[str, Any]) -> list[str]:
    """What was chosen among several networks, and what of the file is not used."""
    lines = []
    if others := [other.place for other in fitting if other is not match]:
        lines.append(f"the weights are {match.place}; not their average {', '.join(others)}")
    if match.beside:
        lines.append(f"the weights are {match.place}; left out: {_first(match.beside)}")
    if others := other_networks(content, fitting):
        lines.append(f"the weights are {match.place}; left out: {_first(others)}, which the"
                     " network may need to predict as it was trained")  # fmt: skip
    return lines


def _difference(found: list[Match], content: dict[str, Any], network: nn.Module) -> str:
    """How the part of a file that is closest to a network differs from it."""
    if not found:
        return f"it contains no tensors by name; its keys are {_first([str(key) for key in content])}"
    own = [key for key in network.state_dict() if not key.endswith(COUNTER)]
    closest = min(found, key=lambda match: (not set(own) & set(match.state), len(match.faults)))
    if set(own) & set(closest.state):
        beside = f" (outside {closest.place}: {_first(closest.beside)})" if closest.beside else ""
        sized = all(POSITIONS.search(fault) for fault in closest.faults)
        hint = ": it was trained with images of another size; set DATASET.SIZE to that" if sized else ""
        return _first(closest.faults, "; ") + hint + beside
    whole = next(match for match in found if match.where == closest.where)  # of each state_dict, it comes first
    return f"its keys are {_first(list(whole.state))}; expected {_first(own)}"


def _first(names: list[str], between: str = ", ") -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return between.join(names[:3]) + more
