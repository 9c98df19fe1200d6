"""docs/tune.md as printed: its files are written, and its commands run, with stand-ins for runs or with real ones."""

import functools
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.commands import search
from mdistiller_dfpt.launch.jobs import Ended
from mdistiller_dfpt.report.spec import load_table
from mdistiller_dfpt.search import tune

from ..pages import checkout, files_of
from ..test_house import ROOT
from .stand_in_runs import Runs

PAGE = (ROOT / "docs/tune.md").read_text()
FILES = files_of(PAGE)
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S) for line in block.splitlines()]
TINY = {"--trials": "1", "SOLVER.EPOCHS": "1", "LOG.EVAL_FREQ": "1"}


@pytest.fixture
def root(tmp_path):
    """A checkout with the page's folder in it."""
    return checkout(tmp_path, PAGE)


def words_of(command):
    """The words of a command, at tiny size."""
    words = shlex.split(command)
    return [TINY.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def test_the_search_of_the_page_is_the_one_that_its_other_commands_go_on_with(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr(tune, "run_jobs", lambda jobs, launcher, say, **how: Ended([], []))
    monkeypatch.setattr(search, "tune", functools.partial(tune.tune, start=Runs(lambda cfg: 50 + cfg.SOLVER.LR)))
    first, tuned, matched, *_ = COMMANDS
    assert search.main(words_of(first)[2:]) == 0
    done = capsys.readouterr()
    assert tuned.replace("EVAL_FREQ 4", "EVAL_FREQ 1") in done.out.splitlines()
    assert matched.startswith(tuned)
    found = json.loads((root / "output/search/space/search.json").read_text())["configs"]
    assert [len(one["space"]) for one in found.values()] == [4, 4, 4], "as many keys of each"
    assert all(trial["state"] == "complete" for one in found.values() for trial in one["trials"])


def test_the_sweep_of_the_page_names_configs_that_load(root, monkeypatch):
    monkeypatch.chdir(root)
    cells = load_table(root / "mine/sweep.yaml").cells
    warm = [load_cfg(cell.config, cell.overrides).KD.TEMPERATURE for cell in cells.values()]
    assert warm == [1.0, 2.0, 4.0, 8.0]


def test_a_table_outside_of_a_checkout_has_the_packaged_configs_unless_a_folder_beside_it_has_the_name(tmp_path):
    (tmp_path / "sweep.yaml").write_text(FILES["mine/sweep.yaml"])
    (cell, *_) = load_table(tmp_path / "sweep.yaml").cells.values()
    assert (cell.config, cell.folder) == (ROOT / "configs/digits/kd/res20_res8.yaml", "digits/kd/res20_res8/t1")
    (tmp_path / "digits/kd").mkdir(parents=True)
    (tmp_path / "digits/kd/res20_res8.yaml").write_text("_BASE_: digits/kd/res20_res8")
    (cell, *_) = load_table(tmp_path / "sweep.yaml").cells.values()
    assert cell.config == tmp_path / "digits/kd/res20_res8.yaml"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_runs_as_it_is_printed(root):
    assert len(COMMANDS) == 4
    (root / "mine/sweep.yaml").write_text(FILES["mine/sweep.yaml"].replace("seeds: [1, 2, 3]", "seeds: [1]"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in COMMANDS:
        words = words_of(command)[1:]
        if "tuned.yaml" in command:
            words += ["--seeds", "3"]
        done = subprocess.run([sys.executable, "-m", "mdistiller_dfpt", *words], cwd=root, env=environment, text=True,
                              capture_output=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Missing" not in done.stdout, "all cells are filled"
