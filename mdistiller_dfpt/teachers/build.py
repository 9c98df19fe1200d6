"""Builds a teacher around the trained network from a config."""

from collections.abc import Sequence

from yacs.config import CfgNode as CN

from ..config.keywords import keywords_for
from ..errors import ConfigError, made
from ..models import StagedModel
from .base import TEACHERS, Teacher


def build_teacher(cfg: CN, network: StagedModel, others: Sequence[StagedModel] = (), kind: str = "") -> Teacher:
    """The teacher of DISTILLER.TEACHER_KIND (or of `kind`) around a trained network.

    `others`: further trained networks, for kinds that use several. ConfigError if the kind is unknown, or if one of its
    keys does not fit this network.
    """
    kind = kind or cfg.DISTILLER.TEACHER_KIND
    cls = TEACHERS[kind]
    node = TEACHERS.node_of(kind)
    arguments = keywords_for(cls, cfg[node]) if cls.config else {}
    if cls.others_key:
        arguments["others"] = list(others)
    try:
        return made(cls, network, **arguments)
    except ValueError as e:
        raise ConfigError(f"{node}.{e}") from None
