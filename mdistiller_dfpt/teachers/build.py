"""Builds a teacher around the trained network from a config."""

from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode as CN

from ..config.keywords import asked_for, keywords_for
from ..errors import ConfigError, made
from ..models import StagedModel
from .base import TEACHERS, Teacher


def build_teacher(
    cfg: CN, network: StagedModel | None, others: Sequence[StagedModel] = (), kind: str = "",
    of_run: Mapping[str, Any] | None = None,
) -> Teacher:  # fmt: skip
    """The teacher of DISTILLER.TEACHER_KIND (or of `kind`) around a network, None for a kind that needs none.

    `others`: further trained networks, for kinds that use several. `of_run`: what a constructor may ask for beside the
    keys of its section: num_data, num_classes, image_shape, epochs. ConfigError if the kind is unknown, or if one of
    its keys does not fit this network.
    """
    kind = kind or cfg.DISTILLER.TEACHER_KIND
    cls = TEACHERS[kind]
    node = TEACHERS.node_of(kind)
    arguments = {**asked_for(cls, of_run or {}), **(keywords_for(cls, cfg[node]) if cls.config else {})}
    if cls.others_key:
        arguments["others"] = list(others)
    try:
        return made(cls, *([network] if cls.needs_network else []), **arguments)
    except ValueError as e:
        raise ConfigError(f"{node}.{e}") from None
