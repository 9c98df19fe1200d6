"""What starts several processes sets their environment: values that are not right are refused before anything waits."""

import re

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_cfg
from mdistiller_dfpt.training.parallel import PeerError, process_group

RIGHT = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}


def enter(monkeypatch, environment, *overrides):
    for name in RIGHT:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with process_group(tiny_cfg(*overrides)):
        pass


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORLD_SIZE", "0", "WORLD_SIZE is 0; it must be from 1 to 1000000"),
        ("WORLD_SIZE", "two", "WORLD_SIZE is two; it must be from 1 to 1000000"),
        ("WORLD_SIZE", "-1", "WORLD_SIZE is -1; it must be from 1 to 1000000"),
        ("WORLD_SIZE", "9" * 20, f"WORLD_SIZE is {'9' * 20}; it must be from 1 to 1000000"),
        ("RANK", None, "RANK is not set; it must be from 0 to 1"),
        ("RANK", "2", "RANK is 2; it must be from 0 to 1"),
        ("LOCAL_RANK", "2", "LOCAL_RANK is 2; it must be from 0 to 1"),
        ("MASTER_ADDR", None, "MASTER_ADDR is not set and WORLD_SIZE is 2"),
        ("MASTER_PORT", "", "MASTER_PORT is ; it must be from 0 to 65535"),
        ("MASTER_PORT", "65536", "MASTER_PORT is 65536; it must be from 0 to 65535"),
    ],
)
def test_an_environment_that_is_not_right_is_refused_by_name(name, value, said, monkeypatch):
    with pytest.raises(ConfigError, match=re.escape(said)):
        enter(monkeypatch, RIGHT | {name: value})


def test_a_process_that_never_joins_is_waited_for_as_long_as_the_config_says(monkeypatch):
    said = r"the 2 processes did not meet at 127.0.0.1:29511 within EXPERIMENT.TIMEOUT 1 s \(.*1/2 clients joined"
    with pytest.raises(PeerError, match=said):
        enter(monkeypatch, RIGHT, "EXPERIMENT.TIMEOUT", "1")


def test_a_process_alone_needs_no_environment(monkeypatch):
    enter(monkeypatch, {})
    enter(monkeypatch, {"WORLD_SIZE": "1"})
