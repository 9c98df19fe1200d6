"""The registry rejects duplicate names and suggests close ones; a registry with nodes declares config sections."""

import pytest
from yacs.config import CfgNode as CN

from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.config.limits import POSITIVE
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.registry import Registry


def test_a_name_has_one_owner():
    things = Registry("thing")
    things.register("A")(int)
    with pytest.raises(KeyError, match="there is a thing 'A' already"):
        things.register("A")(float)
    assert things["A"] is int


def test_unknown_name_lists_the_closest_or_all():
    things = Registry("thing")
    for name in ("RKD", "CRD", "FITNET"):
        things.register(name)(name)
    with pytest.raises(ConfigError, match="unknown thing 'fitnets'; did you mean FITNET"):
        things["fitnets"]
    with pytest.raises(ConfigError, match="choose from CRD, FITNET, RKD"):
        things["zzzzzz"]


def test_a_registered_class_brings_its_section_and_its_limits(registries):
    @DISTILLERS.register("MINE")
    class Mine(DISTILLERS["KD"]):
        config = CN({"RATE": 2.0})
        limits = {"RATE": POSITIVE}

    assert load_cfg().MINE.RATE == 2
    with pytest.raises(ConfigError, match="command line: MINE.RATE is -1.0; it must be > 0"):
        load_cfg(None, ["MINE.RATE", "-1"])


def test_a_limit_for_a_key_that_is_not_there_is_refused_at_once_and_nothing_is_left_behind(registries):
    class Mine(DISTILLERS["KD"]):
        config = CN({"RATE": 2.0, "LOSS": CN({"CE_WEIGHT": 1.0})})
        limits = {"LOSS.CE_WIEGHT": POSITIVE}

    with pytest.raises(KeyError, match=r"MINE: a limit is given for 'LOSS.CE_WIEGHT'; did you mean LOSS.CE_WEIGHT"):
        DISTILLERS.register("MINE")(Mine)
    assert "MINE" not in DISTILLERS
    assert "MINE" not in load_cfg()


def test_a_section_has_one_owner(registries):
    class Mine(DISTILLERS["KD"]):
        config = CN({"EPOCHS": 2})

    with pytest.raises(KeyError, match="'SOLVER' is already a section of the config"):
        DISTILLERS.register("SOLVER")(Mine)
