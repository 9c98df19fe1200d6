"""A section of a method written for mdistiller may have tuples, which yaml does not."""

import pytest
from yacs.config import CfgNode as CN

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config import dump_cfg
from mdistiller_dfpt.config.sections import declare_node
from mdistiller_dfpt.errors import ConfigError


@pytest.fixture
def section(registries):
    declare_node("TUPLED", CN({"INPUT_SIZE": (224, 224)}), {})


@pytest.mark.parametrize("text", ["[16, 16]", "(16, 16)"])
def test_a_tuple_is_set_on_the_command_line(text, section):
    assert load_cfg(None, ["TUPLED.INPUT_SIZE", text]).TUPLED.INPUT_SIZE == (16, 16)


@pytest.mark.parametrize("text", ["[16, 16]", "(16, 16)"])
def test_a_tuple_is_set_in_a_file_and_dumped(text, section, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"TUPLED:\n  INPUT_SIZE: {text}\n")
    cfg = load_cfg(path)
    assert cfg.TUPLED.INPUT_SIZE == (16, 16)
    (tmp_path / "again.yaml").write_text(dump_cfg(cfg))
    assert load_cfg(tmp_path / "again.yaml").TUPLED.INPUT_SIZE == (16, 16)


@pytest.mark.parametrize("text", ["16", "(16", "__import__('os')"])
def test_what_is_no_tuple_is_refused(text, section):
    with pytest.raises(ConfigError, match="TUPLED.INPUT_SIZE is .*it must be tuple"):
        load_cfg(None, ["TUPLED.INPUT_SIZE", text])
