"""Configs: all keys with defaults and allowed values, inheritance of files, validation that reports all errors."""

from .keywords import flatten, keywords
from .load import Overrides, dump_cfg, load_cfg, load_yaml_text

__all__ = ["Overrides", "dump_cfg", "flatten", "keywords", "load_cfg", "load_yaml_text"]
