"""Paths in a config are relative to it; what is only in the working directory is taken, and said; modules beside it."""

import os
import sys

import pytest

from mdistiller_dfpt import load_cfg, run
from mdistiller_dfpt.config import dump_cfg
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DataError
from mdistiller_dfpt.interop import plugins
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
    # What is written has its place beside the file, whatever else is there
    (here / "out").mkdir()
    assert os.path.realpath(load_cfg("../home/a.yaml").LOG.PREFIX) == str(home / "out")
    assert "LOG.PREFIX" not in capsys.readouterr().out
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


@pytest.mark.parametrize("kind", ["network", "plugin", "package"])
def test_a_config_that_is_written_elsewhere_says_where_a_users_modules_are(kind, tmp_path, monkeypatch, registries):
    name, home, moved = f"a_module_of_mine_{kind}", tmp_path / "home", tmp_path / "moved"
    file = home / (f"{name}/__init__.py" if kind == "package" else f"{name}.py")
    file.parent.mkdir(parents=True)
    file.write_text("def build(num_classes): ...\n")
    text = f"PLUGINS: [{name}]" if kind == "plugin" else f"DISTILLER: {{STUDENT: '{name}:build'}}"
    (home / "a.yaml").write_text(text)
    runs = tmp_path / "runs/seed1"
    runs.mkdir(parents=True)

    def read_anew(*words):
        """The config in `runs`, in a process that has imported nothing."""
        monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(tmp_path))])
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(plugins, "_loaded", {})
        cfg = load_cfg(runs / "config.yaml", words)
        return cfg, [os.path.realpath(folder) for folder in cfg.EXPERIMENT.IMPORT_FROM]

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    cfg = load_cfg("home/a.yaml")
    assert cfg.EXPERIMENT.IMPORT_FROM == []
    for _ in range(2):  # what is read from there is also said by the next
        (runs / "config.yaml").write_text(dump_cfg(cfg, runs))
        assert "IMPORT_FROM:\n  - ../../home\n" in (runs / "config.yaml").read_text()
        cfg, folders = read_anew()
        assert folders == [str(home)]
        assert str(home) in sys.path
    # The files are elsewhere now
    home.rename(moved)
    cfg, folders = read_anew("EXPERIMENT.IMPORT_FROM", "[moved]")
    assert folders == [str(moved)]
    assert str(moved) in sys.path
    assert load_cfg(runs / "config.yaml", {"EXPERIMENT.IMPORT_FROM": ["moved"]}) == cfg


GONE = [
    ("DATASET: {TYPE: folder, ROOT: gone}", "no dataset in DATASET.ROOT 'sub/gone'"),
    ("DATASET: {TYPE: cifar100, ROOT: gone}", "no CIFAR-100 in DATASET.ROOT 'sub/gone'"),
    ("DATASET: {TYPE: cub200, ROOT: gone}", "no CUB-200-2011 in DATASET.ROOT 'sub/gone'"),
    ("DATASET: {EXTRA: {TYPE: images, ROOT: gone}}", "DATASET.EXTRA.ROOT is sub/gone; there is no such folder"),
    ("DISTILLER: {TEACHER_CFG: gone.yaml}", "DISTILLER.TEACHER_CFG is sub/gone.yaml; there is no such config"),
    ("DISTILLER: {TEACHER_CKPT: gone.pth}", "DISTILLER.TEACHER_CKPT is sub/gone.pth; there is no such file"),
    ("DISTILLER: {STUDENT_CKPT: gone.pth}", "DISTILLER.STUDENT_CKPT is sub/gone.pth; there is no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), GONE)
def test_a_path_that_leads_nowhere_is_named_with_the_key_and_the_line_that_set_it(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c.yaml").write_text(f"_BASE_: digits/kd/res20_res8\n{text}\n")
    with pytest.raises((ConfigError, DataError, CheckpointError)) as error:
        run(load_cfg("sub/c.yaml", ["EXPERIMENT.DEVICE", "cpu"]))
    assert str(error.value).startswith(f"sub/c.yaml:2: {message}")
