"""Configs: every key with its default and limit, files that inherit, validation of all faults at once."""

from .keywords import flatten, keywords
from .load import dump_cfg, load_cfg, load_yaml_text

__all__ = ["dump_cfg", "flatten", "keywords", "load_cfg", "load_yaml_text"]
