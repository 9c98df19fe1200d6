"""The registry refuses a second owner and suggests names."""

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.registry import Registry


def test_a_name_has_one_owner():
    things = Registry("thing")
    things.register("A")(int)
    with pytest.raises(KeyError, match="'A' is already"):
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
