"""Any text as yaml, as a config, a table and a space: a value, or one ConfigError that names the file."""

import contextlib

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config.yaml_reader import parse_yaml
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.report.spec import load_table
from mdistiller_dfpt.search.space import load_space

from ..test_house import ROOT
from .strategies import changed, damaged, fuzzed

TOKENS = ["!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!null ", "!!str ", "!!binary ", "!!python/name:os ", "''",
          "x", "1", "1:1", "1_000", "0x", "0o", "0b", ".inf", ".nan", "1e5", "~", "2020-13-45", "2020-01-01", "[", "]",
          "{", "}", ": ", "- ", "\n", " ", "  ", "&a ", "*a", "<<", "|", ">", "#", "%", "@", "\t", ",", "'", '"', "é",
          "\x00", "99999999999999999999", "---", "...", "? "]  # fmt: skip
FELL = [
    "x: !!int ''", "x: !!bool x", "x: !!timestamp x", "x: !!float ''", "x: !!null x", "x: !!int _", "x: 2020-13-45",
    "x: " + "9" * 5000, "x: 1" + ":1" * 30_000, "x: 1:1", "- " * 500, "[" * 5000,
    "[" + "b," * 499_000 + "]", "{" + "a: b," * 199_000 + "}", "? a\n" * 249_000, "x" * 2_000_000,
]  # fmt: skip


@fuzzed
@given(st.lists(st.sampled_from(TOKENS), max_size=20).map("".join))
def test_a_text_is_plain_data_or_refused(text):
    with contextlib.suppress(ConfigError):
        parse_yaml(text)


@pytest.mark.parametrize("text", FELL, ids=lambda text: text[:20])
def test_texts_that_once_fell_are_refused_or_read_at_once(text):
    with contextlib.suppress(ConfigError):
        parse_yaml(text)


def test_a_number_is_what_it_looks_like():
    assert parse_yaml("a: 1:30\nb: !!float 5\nc: !!str 5\nd: 1_000")[0] == {"a": "1:30", "b": 5.0, "c": "5", "d": 1000}
    for text in FELL[:6]:
        with pytest.raises(ConfigError):
            parse_yaml(text)


@pytest.mark.parametrize("text", ["[" + "b," * 11_000 + "]", "- b\n" * 11_000])
def test_a_text_of_too_many_entries_is_refused(text):
    with pytest.raises(ConfigError, match="too many entries"):
        parse_yaml(text)


CONFIG = (ROOT / "configs/digits/dfptkd/res20_res8.yaml").read_bytes()
TABLE = (
    b"title: T\nconfigs: CONFIGS\nmetric: last\nseeds: [1, 2]\nreference: kd\nsources: {X: text}\n"
    b"columns:\n  res20_res8: {title: A -> B}\n"
    b"rows:\n  kd: {title: KD, published: {res20_res8: [71.5, X]}}\n"
    b'  cold: {title: T 1, config: "kd/{pair}", overrides: {KD.TEMPERATURE: 1.0}, without: []}\n'
)
SPACE = (
    b"SOLVER.LR: {float: [0.01, 0.2], log: true}\n"
    b"KD: {TEMPERATURE: {choice: [1.0, 4.0]}}\nSOLVER.EPOCHS: {int: [1, 3]}\n"
)
READERS = {"config": (load_cfg, CONFIG), "table": (load_table, TABLE), "space": (load_space, SPACE)}


def read_or_refused(kind, content, tmp_path):
    """Read a file with this content: the only error is one that names the file, or the folder of its configs."""
    path = tmp_path / f"{kind}.yaml"
    path.write_bytes(content.replace(b"CONFIGS", str(ROOT / "configs/digits").encode()))
    said = path.name
    try:
        READERS[kind][0](path)
    except ConfigError as e:
        said = str(e)
    assert path.name in said or "configs/digits" in said, said


@pytest.mark.parametrize("kind", READERS)
@fuzzed
@given(st.data())
def test_a_damaged_file_is_read_or_refused_by_its_name(kind, tmp_path, data):
    read_or_refused(kind, data.draw(damaged(READERS[kind][1])), tmp_path)


@pytest.mark.parametrize("kind", READERS)
@fuzzed
@given(st.data())
def test_a_file_with_other_values_is_read_or_refused_by_its_name(kind, tmp_path, data):
    values = data.draw(changed(yaml.safe_load(READERS[kind][1])))
    read_or_refused(kind, yaml.safe_dump(values).encode("utf-8", "surrogatepass"), tmp_path)


@fuzzed
@given(st.integers(0, 1), st.integers(0, 3))
@example(0, 0)
def test_bases_that_name_each_other_are_refused_at_once(tmp_path, which, more):
    for name in "abcdefghijkl":
        bases = ", ".join(f"{other}.yaml" for other in "abcdefghijkl" for _ in range(1 + more * which))
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: [{bases}]\n")
    with pytest.raises(ConfigError):
        load_cfg(tmp_path / "a.yaml")
