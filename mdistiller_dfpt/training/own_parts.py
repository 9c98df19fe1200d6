"""For programs with parts of their own: what they give a trainer, as a config says it; what a loop of theirs needs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config.effect import value_of
from ..config.keys import KEYS
from ..config.sections import put
from ..data import Data
from ..data.loader import Epoch
from ..data.normalisation import Normalisation
from ..data.own_loaders import OWN, OwnLoader
from ..distillers import DISTILLERS, Method
from ..distillers.choice import choice
from ..errors import ConfigError
from ..models import StagedModel, build_model
from ..models.build import OWN_NETWORK
from ..models.external.names import published_normalisation
from ..runs.hashing import state_hash
from ..runs.identity import Identity, identity_of
from ..runs.users_code import hashes_of, registered
from ..teachers import Teacher
from ..teachers.hooked import passes

KEPT = ("DATASET.TYPE", "DATASET.SEED")


def prepare(method: Method, data: Data) -> None:
    """For a loop of one's own, before its first step: what the method and its teacher measure on the training set."""
    for part, epoch in passes(method.hooked()):
        part.prepare(Epoch(data.train, epoch))


def parameter_groups(method: Method, lr: float) -> list[dict[str, Any]]:
    """The parameters to train, as groups of a PyTorch optimiser, each with its own share of the learning rate."""
    return [{**group, "lr": lr * group["lr_factor"]} for group in method.parameter_groups() if group["params"]]


def _refuse_other_method(cfg: CN, method: Method) -> None:
    chosen = choice(cfg)
    names = {cls: name for name, cls in DISTILLERS.items() if cls not in chosen.methods.values()}
    members = [member.distiller for member in getattr(method, "members", ())]
    if other := [names[type(one)] for one in members or [method] if type(one) in names]:
        raise ConfigError(
            f"the method is {' + '.join(other)}, and this config names DISTILLER.TYPE {chosen.label}: give the config"
            " by which the method was built"
        )


def with_own_parts(cfg: CN, method: Method, data: Data) -> CN:
    """The config that says which student, teacher and data a program gave, where they are not those that it names.

    A student or teacher is then `own/<class>`, and the dataset `own`, so that no record says that it was another one.
    The same for the normalisation of a network of another library, which here gets the images as they are. ConfigError
    if the method is another than the config's, whose name and keys would be recorded.
    """
    _refuse_other_method(cfg, method)
    changes: dict[str, Any] = _changes(cfg, "STUDENT", method.student, data)
    teacher: Teacher | None = getattr(method, "teacher", None)
    if choice(cfg).teacher and teacher is not None:
        changes |= _changes(cfg, "TEACHER", teacher.network, data)
    if isinstance(data.train, OwnLoader):
        changes["DATASET.TYPE"] = OWN
        changes |= {key: KEYS[key].default for key in KEYS if key.startswith("DATASET.") and key not in KEPT}
    changes = {key: value for key, value in changes.items() if value_of(cfg, key) != value}
    if not changes:
        return cfg
    told = [f"{key} {value}" for key, value in changes.items() if value != KEYS[key].default]
    print(f"recorded as what the program gave: {', '.join(told)}", flush=True)
    return _changed(cfg, changes)


def _changed(cfg: CN, changes: Mapping[str, Any]) -> CN:
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in changes.items():
        put(cfg, key, value)
    cfg.freeze()
    return cfg


def _changes(cfg: CN, role: str, network: StagedModel, data: Data) -> dict[str, Any]:
    """The keys of a role and their values, where they are not what the network is."""
    d = cfg.DISTILLER
    name, own = d[role], f"{OWN_NETWORK}{type(getattr(network, 'network', network)).__name__}"
    if name == own or not _is_named(cfg, name, d[f"{role}_STAGES"], network, data):
        return {f"DISTILLER.{role}": own}
    published = published_normalisation(name)
    if published is None or "input_scale" in dict(network.named_buffers()):
        return {}
    its = Normalisation(tuple(d[f"{role}_MEAN"] or published.mean), tuple(d[f"{role}_STD"] or published.std))
    if its == data.normalisation:
        return {}
    mean, std = (list(values) for values in data.normalisation)
    return {f"DISTILLER.{role}_MEAN": mean, f"DISTILLER.{role}_STD": std}


def _is_named(cfg: CN, name: str, stages: list[str], network: StagedModel, data: Data) -> bool:
    """Whether a network is of the kind that a name of the config stands for, whatever its weights."""
    size = data.image_shape[1]
    try:
        with torch.device("meta"):
            named = build_model(name, cfg.MODEL.FAMILY, data.num_classes, stages=stages, image_size=size)
    except ConfigError:
        return False
    return _layout(named) == _layout(network)


def _layout(network: nn.Module) -> tuple[type, dict[str, torch.Size]]:
    """The class of a network, and the shapes of what is in its state."""
    inside = getattr(network, "network", network)
    return type(inside), {key: value.shape for key, value in inside.state_dict().items()}


def own_identity(cfg: CN, method: Method, data: Data) -> Identity:
    """What a program's run computes, by its own code as well, which may be nowhere registered."""
    chosen, frozen = choice(cfg), method.frozen()
    names = [chosen.teacher, *chosen.others, *(f"network {n}" for n in range(len(frozen)))]
    teachers = [(name, state_hash(n.state_dict())) for name, n in zip(names, frozen, strict=False)]
    written = [type(getattr(part, "network", part)) for part in (method, method.student, *frozen)]
    return identity_of(cfg, data, teachers, hashes_of(registered(cfg), beside=written))
