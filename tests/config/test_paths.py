"""Paths in a config are relative to it; what is only in the working directory is taken, and said; modules beside it."""

import os
import sys

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config import dump_cfg
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import build_model

ALL = """DATASET: {ROOT: photos, EXTRA: {TYPE: images, ROOT: more}}
LOG: {PREFIX: out}
DISTILLER: {STUDENT_CKPT: s.pth, TEACHER_CKPT: t.pth, LOGITS_CACHE: cache}
"""


def paths_of(cfg):
    d = cfg.DISTILLER
    return [cfg.DATASET.ROOT, cfg.DATASET.EXTRA.ROOT, cfg.LOG.PREFIX, d.STUDENT_CKPT, d.TEACHER_CKPT, d.LOGITS_CACHE]


NAMES = ["photos", "more", "out", "s.pth", "t.pth", "cache"]


def test_they_are_relative_to_the_file_and_on_the_command_line_to_the_working_directory(tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (home / "a.yaml").write_text(ALL)
    monkeypatch.chdir(here)
    found = paths_of(load_cfg("../home/a.yaml"))
    assert [os.path.realpath(path) for path in found] == [str(home / name) for name in NAMES]
    assert load_cfg("../home/a.yaml", ["DATASET.ROOT", "photos", "LOG.PREFIX", "out"]).DATASET.ROOT == "photos"
    assert capsys.readouterr().out == ""
    (home / "all.yaml").write_text("DATASET: {ROOT: ./data}\n")
    assert load_cfg("../home/all.yaml").DATASET.ROOT == "./data"
    # A copy in another folder names the same places
    (tmp_path / "copy.yaml").write_text(dump_cfg(load_cfg("../home/a.yaml"), tmp_path))
    assert [os.path.realpath(p) for p in paths_of(load_cfg("../copy.yaml"))] == [str(home / name) for name in NAMES]
    # In the working directory alone, as earlier versions looked for it
    (here / "photos").mkdir()
    assert load_cfg("../home/a.yaml").DATASET.ROOT == "photos"
    assert (
        "DATASET.ROOT is photos, which is not beside this file: the one in the working directory is taken; write"
        in (said := capsys.readouterr().out)
    )
    assert said.rstrip().endswith("../here/photos")
    (home / "photos").mkdir()
    assert os.path.realpath(load_cfg("../home/a.yaml").DATASET.ROOT) == str(home / "photos")
    assert capsys.readouterr().out == ""


def test_a_module_beside_the_file_is_importable_and_never_another_of_its_name(tmp_path, monkeypatch, registries):
    monkeypatch.setattr(sys, "path", list(sys.path))
    home = tmp_path / "home"
    home.mkdir()
    (home / "a_package_nets.py").write_text(
        "from mdistiller_dfpt.testing import TinyNet\ndef build(num_classes):\n    return TinyNet(num_classes)\n"
    )
    for name, module in (("a", "a_package_nets"), ("b", "colorsys")):
        (home / f"{name}.yaml").write_text(f"DISTILLER: {{STUDENT: '{module}:build'}}\n")
    cfg = load_cfg(home / "a.yaml")
    assert type(build_model(cfg.DISTILLER.STUDENT, num_classes=7)).__name__ == "TinyNet"
    (home / "colorsys.py").write_text("")
    with pytest.raises(ConfigError, match=r"colorsys.py: Python has another module colorsys .*rename the file"):
        load_cfg(home / "b.yaml")
    # A config elsewhere, as that of a run: from the working directory, if Python has no such module
    (tmp_path / "run").mkdir()
    for name, module in (("c", "a_package_of_cwd"), ("b", "colorsys")):
        (tmp_path / f"run/{name}.yaml").write_text(f"DISTILLER: {{STUDENT: '{module}:build'}}\n")
    with pytest.raises(ConfigError, match="No module named 'a_package_of_cwd'.*folder of the config, the working dir"):
        build_model(load_cfg(tmp_path / "run/c.yaml").DISTILLER.STUDENT, num_classes=7)
    (home / "a_package_of_cwd.py").write_text((home / "a_package_nets.py").read_text())
    monkeypatch.chdir(home)
    assert type(build_model(load_cfg("../run/c.yaml").DISTILLER.STUDENT, num_classes=7)).__name__ == "TinyNet"
    load_cfg("../run/b.yaml")
    # The same name in two folders, in one process
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a.yaml", "a_package_nets.py"):
        (other / name).write_text((home / name).read_text())
    with pytest.raises(ConfigError, match="other/a_package_nets.py: Python has another module a_package_nets"):
        load_cfg(other / "a.yaml")
