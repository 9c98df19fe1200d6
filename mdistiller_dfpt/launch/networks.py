"""The networks that a config names, by role."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.policy import published_size
from ..data.normalisation import Normalisation
from ..distillers.choice import choice
from ..distributed import rank
from ..errors import ConfigError
from ..models import StagedModel, build_model
from ..models.dummy import try_image
from ..models.external.adapt import AdaptedModel
from ..models.external.names import published_normalisation

Role = Literal["student", "teacher", "other"]


class DataShape(Protocol):
    """What networks and methods are built for: `Data`, or what a file of weights says of it."""

    @property
    def num_classes(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def normalisation(self) -> Normalisation: ...
    @property
    def num_train(self) -> int: ...


@dataclass(frozen=True)
class Networks:
    """The networks of a run: `teacher` if the kind of teacher is around one, `others` if it is around several."""

    student: StagedModel
    teacher: StagedModel | None
    others: list[StagedModel]


def name_of(cfg: CN, role: Role) -> str:
    """The name of the student or teacher network in the config."""
    return cfg.DISTILLER.STUDENT if role == "student" else cfg.DISTILLER.TEACHER


def build_network(
    cfg: CN, role: Role, name: str = "", num_classes: int = 100, image_shape: tuple[int, int, int] | None = None,
    images: Normalisation | None = None,
) -> StagedModel:  # fmt: skip
    """The network for a role, newly initialised, with the stages set in the config; `name` overrides the network.

    `images`: the normalisation of the images that it will get. With `image_shape` it is tried on one image; ConfigError
    if that fails.
    """
    d = cfg.DISTILLER
    name = name or name_of(cfg, role)
    stages = {"student": d.STUDENT_STAGES, "teacher": d.TEACHER_STAGES}.get(role, [])
    size = image_shape[1] if image_shape else cfg.DATASET.SIZE or published_size(cfg.DATASET.TYPE, cfg.DATASET.RECIPE)
    own_size = size_of(cfg, role) or size
    network = build_model(name, cfg.MODEL.FAMILY, num_classes, stages=stages, image_size=own_size)
    if own_size != size:
        _check_forward(network, name, f"resize its images to {own_size}")
        network.resize_input(own_size)
    if images is not None and (own := normalisation_of(cfg, role, name, images)) != images:
        _check_forward(network, name, f"normalise its images by {own}")
        network.renormalise(images, own)
    if image_shape is not None:
        _check_output(try_image(network, name, image_shape), name, num_classes)
    return network


def size_of(cfg: CN, role: Role) -> int | None:
    """The size of the images of a network, where the config says one of its own; None: that of the dataset."""
    return None if role == "other" else cfg.DISTILLER[f"{role.upper()}_SIZE"]


def _check_forward(network: StagedModel, name: str, what: str) -> None:
    """ConfigError for a network that does not change its images before its first stage."""
    if type(network).forward not in (StagedModel.forward, AdaptedModel.forward):
        raise ConfigError(f"{name} is to {what}, but has its own forward: do it there")


def normalisation_of(cfg: CN, role: Role, name: str, images: Normalisation) -> Normalisation:
    """The normalisation that a network of a run was, or is, trained with: as set, else published, else the images'."""
    own = published_normalisation(name) or images
    if role == "other":
        return own
    d, prefix = cfg.DISTILLER, role.upper()
    return Normalisation(tuple(d[f"{prefix}_MEAN"] or own.mean), tuple(d[f"{prefix}_STD"] or own.std))


def refuse_other_normalisation(cfg: CN, role: Role, network: str, images: Normalisation, there: str, what: str) -> None:
    """ConfigError if a network was trained (`there`) on images that are normalised otherwise than it gets here."""
    here = normalisation_of(cfg, role, network, images)
    if str(here) != there:
        mean, _, std = there.removeprefix("mean ").partition(", std ")
        prefix = f"DISTILLER.{role.upper()}"
        remedy = f"set {prefix}_MEAN [{mean}] {prefix}_STD [{std}]"
        if role == "other":
            remedy = "train it with the normalisation that it has here"
        raise ConfigError(f"{what} with images of {there}; here {network} gets {here}: {remedy}")


def refuse_other_order(its: Sequence[str], mine: Sequence[str], what: str) -> None:
    """ConfigError if a network was trained on these classes in another order; a warning if on classes of other names.

    Classes that are only numbered have no known names.
    """
    numbers = tuple(map(str, range(len(mine))))
    if len(its) != len(mine) or tuple(its) == tuple(mine) or numbers in (tuple(its), tuple(mine)):
        return
    number = next(i for i, (one, other) in enumerate(zip(its, mine, strict=True)) if one != other)
    where = f"class {number} is {its[number]!r} there and {mine[number]!r} here"
    if sorted(its) == sorted(mine):
        raise ConfigError(f"{what} with these classes in another order, {where}: order them as there")
    if rank() == 0:
        print(f"warning: {what} with classes of other names, {where}", file=sys.stderr, flush=True)


def own_normalisations(cfg: CN, images: Normalisation) -> dict[str, str]:
    """By role, or name, of the networks of a run: their normalisation in words, where it is not the images'."""
    chosen = choice(cfg)
    roles: list[tuple[Role, str]] = [("student", chosen.student)]
    if chosen.teacher:
        roles += [("teacher", chosen.teacher), *(("other", name) for name in chosen.others)]
    found = {name if role == "other" else role: normalisation_of(cfg, role, name, images) for role, name in roles}
    return {key: str(own) for key, own in found.items() if own != images}


def _check_output(result: Any, name: str, num_classes: int) -> None:
    """ConfigError if a network does not return (logits (1, num_classes), features)."""
    logits = result[0] if isinstance(result, tuple) and len(result) == 2 else result
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, num_classes):
        raise ConfigError(
            f"{name} returns {_kind(logits)} for one image; it must return logits of shape (1, {num_classes}), or a"
            " tuple that begins with them"
        )


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"logits of shape {tuple(value.shape)}"
    keys = f" with the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
    return "nothing" if value is None else f"a {type(value).__name__}{keys}"


def build_networks(cfg: CN, data: DataShape) -> Networks:
    """Untrained networks of a config for this dataset."""
    chosen, shape = choice(cfg), (data.num_classes, data.image_shape, data.normalisation)
    student = build_network(cfg, "student", "", *shape)
    teacher = build_network(cfg, "teacher", "", *shape) if chosen.teacher else None
    return Networks(student, teacher, [build_network(cfg, "other", name, *shape) for name in chosen.others])


def check_networks(cfg: CN) -> None:
    """ConfigError if the config names an unknown network; takes neither time nor memory."""
    chosen = choice(cfg)
    with torch.device("meta"):
        build_network(cfg, "student")
        if chosen.teacher:
            build_network(cfg, "teacher")
        for name in chosen.others:
            build_network(cfg, "other", name)
