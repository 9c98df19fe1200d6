"""Texts of others as values of Python: the values, or ValueError."""

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.literals import keywords_of, literal
from mdistiller_dfpt.models.external.names import timm_arguments

ODD = ["({[]: 1},)", "(" + "-" * 9_000 + "1,)", "(" + "1+" * 4_000 + "1,)", "(" * 300, "(" + "9" * 9_000 + ",)",
       "(\0,)", "(1" + ",1" * 500_000 + ")", "(open('x'),)", "(x,)", "("]  # fmt: skip


def test_values_are_read():
    assert literal("(16, 16)") == (16, 16)
    assert keywords_of("depth=6, sizes=[2, 2])") == {"depth": 6, "sizes": [2, 2]}


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_no_other_error_escapes(text):
    for read in (literal, lambda text: keywords_of(f"a={text})")):
        with pytest.raises(ValueError):
            read(text)
    with pytest.raises(ConfigError, match=r"SOLVER\.LR_DECAY_STAGES is .* must be a list"):
        load_cfg(None, {"SOLVER.LR_DECAY_STAGES": text})


@pytest.mark.parametrize("inside", ["1", "*[1]", "**{'pretrained': True}", "a=1).b(", "a=1) + f(b=1"])
def test_arguments_of_a_network_are_keywords_alone(inside):
    with pytest.raises(ConfigError, match="write its arguments as"):
        timm_arguments(f"resnet18({inside})")
