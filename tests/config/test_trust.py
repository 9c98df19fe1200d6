"""Code that a file names runs only if the user trusts the file; what the user types runs."""

import os

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.commands import train, trust
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.student import config_of_student
from mdistiller_dfpt.report.spec import load_table
from mdistiller_dfpt.search.space import load_space
from mdistiller_dfpt.trusted_files import VARIABLE, is_trusted


@pytest.fixture(autouse=True)
def _nothing_is_trusted(monkeypatch, tmp_path, registries):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ran(tmp_path):
    """A folder `theirs` with code that leaves a file when it runs, and whether it did."""
    (tmp_path / "theirs").mkdir()
    mark = f"import pathlib\n\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    code = f"{mark}\n\ndef make(num_classes):\n    return None\n"
    (tmp_path / "theirs/a_package_theirs.py").write_text(code)
    return (tmp_path / "ran").exists


IN_A_CONFIG = [
    ("PLUGINS: [a_package_theirs.py]", "PLUGINS names a_package_theirs.py"),
    ("PLUGINS: [a_package_theirs]", "PLUGINS names a_package_theirs"),
    ("DISTILLER: {STUDENT: 'a_package_theirs:make'}", "DISTILLER.STUDENT names a_package_theirs:make"),
    ("DISTILLER: {TEACHER: 'a_package_theirs:make'}", "DISTILLER.TEACHER names a_package_theirs:make"),
    ("DISTILLER: {ASSISTANTS: [resnet8, 'os:abort']}", "DISTILLER.ASSISTANTS names os:abort"),
    ("DISTILLER: {OTHER_TEACHERS: ['os:abort']}", "DISTILLER.OTHER_TEACHERS names os:abort"),
    # A text that is read as a list, in which the colon is an escape
    (r"""DISTILLER: {ASSISTANTS: '("os\x3aabort",)'}""", r"""DISTILLER.ASSISTANTS names ("os\x3aabort",)"""),
    (
        r"""DISTILLER: {OTHER_TEACHERS: '("os\72abort",)'}""",
        r"""DISTILLER.OTHER_TEACHERS names ("os\72abort",)""",
    ),
]


@pytest.mark.parametrize(("text", "what"), IN_A_CONFIG)
def test_a_config_that_names_code_is_refused_unless_it_is_trusted(text, what, tmp_path, ran, capsys):
    path = tmp_path / "theirs/a.yaml"
    path.write_text(text)
    below = tmp_path / "mine.yaml"
    below.write_text("_BASE_: theirs/a.yaml\n")
    for cfg in (path, below):  # a trusted file vouches for no other
        assert train.main(["--cfg", str(cfg)]) == 2
        error = capsys.readouterr().err
        assert f"theirs/a.yaml:1: {what}, code that this file would run" in error
        assert error.rstrip().endswith(f"mdistiller-dfpt trust {tmp_path / 'theirs'}")
        assert error.count("\n") == 1
    assert not ran()
    assert trust.main([str(tmp_path / "theirs")]) == 0
    if "abort" not in text:
        train.main(["--cfg", str(path), "SOLVER.EPOCHS", "0"])  # refused for another reason, or imported
        assert "code that this file would run" not in capsys.readouterr().err
    assert trust.main(["theirs", "--remove"]) == 0
    assert not is_trusted(path)


def test_what_a_plugin_does_happens_once_it_is_trusted_and_not_before(tmp_path, ran, monkeypatch):
    path = tmp_path / "theirs/a.yaml"
    path.write_text("PLUGINS: [a_package_theirs.py]")
    with pytest.raises(ConfigError, match="a.yaml:1: PLUGINS names a_package_theirs.py"):
        load_cfg(path)
    assert not ran()
    monkeypatch.setenv(VARIABLE, f"{tmp_path}/elsewhere{os.pathsep}{tmp_path}/theirs")
    load_cfg(path)
    assert ran()


def test_trust_for_one_command_ends_with_it(tmp_path, ran, capsys):
    (tmp_path / "theirs/a.yaml").write_text("PLUGINS: [a_package_theirs.py]\nSOLVER: {LR: -1.0}")
    assert train.main(["--cfg", "theirs/a.yaml", "--trust"]) == 2
    assert ran()
    assert "SOLVER.LR" in capsys.readouterr().err
    assert VARIABLE not in os.environ


def test_what_is_typed_and_a_plugin_of_ones_own_run(tmp_path, ran):
    with pytest.raises(ConfigError, match=r"SOLVER\.LR"):
        load_cfg(None, ["PLUGINS", "[theirs/a_package_theirs.py]", "SOLVER.LR", "-1"])
    assert ran()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/config.yaml").write_text("PLUGINS: [../theirs/a_package_theirs.py]")
    with pytest.raises(ConfigError, match="runs/config.yaml:1"):
        load_cfg("runs/config.yaml")
    trust.main(["theirs"])
    assert load_cfg("runs/config.yaml").PLUGINS == ["theirs/a_package_theirs.py"]


def test_a_link_is_as_trusted_as_the_file_behind_it(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a.yaml").write_text("DISTILLER: {STUDENT: 'os:abort'}")
    (tmp_path / "mine/a.yaml").symlink_to("../theirs/a.yaml")
    trust.main(["mine"])
    with pytest.raises(ConfigError, match="os:abort"):
        load_cfg(tmp_path / "mine/a.yaml")


def test_tables_spaces_and_files_of_weights_are_judged_too(tmp_path):
    (tmp_path / "a.yaml").write_text("SOLVER: {EPOCHS: 1}")
    table = tmp_path / "table.yaml"
    for value in ("{PLUGINS: [evil.py]}", "{PLUGINS: '[evil.py]'}", "{DISTILLER.STUDENT: 'os:abort'}",
                  r"""{DISTILLER.ASSISTANTS: '["os\x3aabort"]'}"""):  # fmt: skip
        table.write_text(
            "title: T\nconfigs: .\nmetric: last\nseeds: [1]\nreference: a\ncolumns: {p: {title: P}}\n"
            f"rows: {{a: {{title: A, config: a, overrides: {value}}}}}\n"
        )
        with pytest.raises(ConfigError, match="table.yaml: .* code that this file would run"):
            load_table(table)
    space = tmp_path / "space.yaml"
    space.write_text("DISTILLER.STUDENT: {choice: [resnet8, 'os:abort']}")
    with pytest.raises(ConfigError, match=r"space.yaml:1: DISTILLER\.STUDENT names os:abort"):
        load_space(space)


class _Record:
    config = "DISTILLER: {STUDENT: 'os:abort'}"


def test_the_config_in_a_file_of_weights_is_judged_by_that_file(tmp_path):
    with pytest.raises(ConfigError, match=r"student.safetensors: DISTILLER\.STUDENT names os:abort"):
        config_of_student(tmp_path / "student.safetensors", _Record())


def test_the_list_of_trusted_folders_is_printed_and_may_be_absent_and_not_damaged(tmp_path, capsys):
    assert trust.main([]) == 0
    assert "no folder is trusted" in capsys.readouterr().out
    assert trust.main(["absent"]) == 2
    assert trust.main([str(tmp_path), "--remove"]) == 2
    assert trust.main([str(tmp_path)]) == trust.main([str(tmp_path)]) == 0
    capsys.readouterr()
    trust.main([])
    assert capsys.readouterr().out == f"{tmp_path}\n"
    (tmp_path / "home/mdistiller_dfpt/trusted").write_bytes(b"\xff\xfe")
    assert trust.main([]) == 2
    assert "home/mdistiller_dfpt/trusted: cannot be read" in capsys.readouterr().err
