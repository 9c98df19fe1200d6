"""Absurd values of keys, which are refused by name before anything runs."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config import flatten
from mdistiller_dfpt.config.sections import default_cfg
from mdistiller_dfpt.errors import ConfigError, UserError
from mdistiller_dfpt.launch.build import check_config

from ..test_house import ROOT
from .strategies import fuzzed, leaves, values

BASE = str(ROOT / "configs/digits/dfptkd/res20_res8.yaml")
KEYS = [*flatten(default_cfg()), "DISTILLER.PATHS", "DISTILLER.PATHS.prompt", "SOLVER", "KD.", "", "X.Y"]
REFUSED = [
    ("EXPERIMENT.THREADS", "100000", "EXPERIMENT.THREADS is 100000; it must be in 1 .. 1024"),
    ("EXPERIMENT.DEVICE", "cuda:" + "9" * 30, "there is no such device"),
    ("EXPERIMENT.DEVICE", "cuda:999", "CUDA devices here"),
    ("KD.TEMPERATURE", "1e300", r"KD.TEMPERATURE is 1e\+300; it must be in \(0, 1000\]"),
    ("SOLVER.SEED", "9" * 30, "SOLVER.SEED"),
    ("SOLVER.MOMENTUM", "1e300", "SOLVER.MOMENTUM"),
    ("SOLVER.LR", "!!int ''", "SOLVER.LR"),
    ("SOLVER.LR", "!!bool x", "SOLVER.LR"),
    ("SOLVER.LR", "!!timestamp x", "SOLVER.LR"),
    ("SOLVER.LR", "9" * 5000, "a number of 5000 characters"),
    ("DISTILLER.TYPE", "[KD, KD]", "DISTILLER.TYPE"),
]


@pytest.mark.parametrize(("key", "value", "said"), REFUSED, ids=[f"{key} {value[:12]}" for key, value, _ in REFUSED])
def test_absurd_values_are_refused_by_name(key, value, said):
    with pytest.raises(ConfigError, match=said):
        check_config(load_cfg(BASE, ["DISTILLER.TYPE", "KD", key, value]))


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(leaves, values)), min_size=1, max_size=3))
def test_any_values_are_a_config_that_can_be_checked_or_refused(pairs):
    for given_values in ([str(word) for pair in pairs for word in pair], dict(pairs)):
        with contextlib.suppress(UserError):
            check_config(load_cfg(BASE, given_values))
