"""A fault in a file that a plugin imports, or in an installed plugin, is the user's too, and is named."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from mdistiller_dfpt import build_data, errors, load_cfg
from mdistiller_dfpt.errors import ConfigError, is_users
from mdistiller_dfpt.interop import plugins
from mdistiller_dfpt.launch import cli
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_distiller

from ..test_house import ROOT

HELPER = """
def strange(logits):
    raise RuntimeError("no such luck")
"""
PLUGIN = """
import sys, pathlib
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from helper_of_mine import strange
from mdistiller_dfpt import DISTILLERS, Distiller, label

@DISTILLERS.register("HELPED")
class Helped(Distiller):
    def losses(self, student, teacher, batch):
        return {"ce": label(strange(student.logits))}
"""


def test_a_fault_in_a_file_that_the_plugin_imports_names_it(tmp_path):
    (tmp_path / "helper_of_mine.py").write_text(HELPER)
    (tmp_path / "mine.py").write_text(PLUGIN)
    words = [
        "--cfg", "configs/digits/kd/res20_res8.yaml", "PLUGINS", f"[{tmp_path}/mine.py]", "DISTILLER.TYPE", "HELPED",
        "LOG.PREFIX", str(tmp_path / "out"), "DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CFG",
        "configs/digits/vanilla/res8.yaml",
    ]  # fmt: skip
    code = (
        "import sys; from mdistiller_dfpt.launch import smoke; from mdistiller_dfpt.launch.cli import guarded; "
        "from mdistiller_dfpt import build_data, load_cfg; "
        f"sys.exit(guarded(lambda argv: smoke.smoke(load_cfg(argv[1], argv[2:])), {words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"error: {tmp_path}/helper_of_mine.py:3: RuntimeError: no such luck" in done.stderr


@pytest.mark.parametrize("what", ["class", "function"])
def test_a_fault_that_passes_no_line_of_the_users_names_what_was_run(what, tmp_path, capsys, monkeypatch, registries):
    (tmp_path / "mine.py").write_text(
        "from mdistiller_dfpt import DATASETS, DISTILLERS, Distiller\n\n@DISTILLERS.register('STUDENTLESS')\n"
        "class Mine(Distiller):\n    def forward_student(self, image):\n        return None\n\n"
        "@DATASETS.register('mine')\ndef mine():\n    return None\n"
    )
    monkeypatch.setattr(errors, "USER_FILES", set())
    monkeypatch.setattr(plugins, "USER_FILES", errors.USER_FILES)
    load_cfg(None, ["PLUGINS", f"[{tmp_path}/mine.py]"])

    def run(argv):
        if what == "class":
            tiny_distiller("STUDENTLESS").evaluated_paths(tiny_batch().image)
        else:
            build_data(tiny_cfg("DATASET.TYPE", "mine"))

    assert cli.guarded(run, []) == 2
    line, name, raised = (3, "Mine", "AttributeError") if what == "class" else (8, "mine", "TypeError")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path}/mine.py:{line}: {name}: mdistiller_dfpt raised {raised}: "), last
    assert "check what its methods take and return" in last


def test_an_installed_plugins_file_is_the_users(tmp_path, monkeypatch, registries):
    (tmp_path / "plugin_installed.py").write_text(
        "from mdistiller_dfpt import Distiller\n\nclass Mine(Distiller):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("mine", "plugin_installed", plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    load_cfg()
    assert is_users(sys.modules["plugin_installed"].Mine)


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(5)"])
def test_a_module_that_cannot_be_imported_is_named_with_its_line(fault, tmp_path, monkeypatch, registries):
    (tmp_path / "plugin_broken.py").write_text(f"x = 1\n{fault}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"importing it raised .*plugin_broken.py:2\)"):
        load_cfg(None, ["PLUGINS", "[plugin_broken]"])
