"""Tables with real runs: the launcher killed at any time, and two launchers at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..commands_as_processes import kill_at_random
from ..test_house import ROOT

SPEC = f"""
title: Digits
configs: {ROOT}/configs/digits
metric: last
seeds: [1]
reference: kd
columns:
  res20_res8: {{title: ResNet20 -> ResNet8}}
rows:
  kd: {{title: KD}}
  dfptkd: {{title: DFPT-KD}}
"""
WORDS = ["SOLVER.EPOCHS", "3", "LOG.TENSORBOARD", "False", "EXPERIMENT.THREADS", "1"]


def started(folder: Path, prefix: str) -> "subprocess.Popen[str]":
    (folder / "table.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "mdistiller_dfpt", "table", "--table", "table.yaml", "--run", "--jobs", "2"]
    return subprocess.Popen(
        [*command, "--prefix", prefix, *WORDS], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def students(prefix: Path) -> dict[str, str]:
    """{run: hash of its student} of all finished runs."""
    found = sorted(prefix.rglob("results.json"))
    return {str(path.parent.relative_to(prefix)): json.loads(path.read_text())["student_sha256"] for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A table that nothing interrupted: its folder, and {run: hash of its student}."""
    folder = tmp_path_factory.mktemp("whole")
    table = started(folder, "runs")
    _, err = table.communicate()
    assert table.returncode == 0, err
    found = students(folder / "runs")
    assert len(found) == 3, "two cells and their teacher"
    return folder, found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_table_killed_at_random_leaves_no_process_and_ends_with_the_same_students(whole, tmp_path):
    kill_at_random(lambda: started(tmp_path, "runs"), tmp_path, seed=5)
    table = started(tmp_path, "runs")
    _, err = table.communicate()
    assert table.returncode == 0, err
    assert students(tmp_path / "runs") == whole[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_launchers_at_once_train_no_cell_twice(whole, tmp_path):
    both = [started(tmp_path, "runs") for _ in range(2)]
    for table in both:
        _, err = table.communicate()
        assert table.returncode == 0, err
    assert students(tmp_path / "runs") == whole[1]
    assert len(list((tmp_path / "runs").rglob("config.yaml"))) == 3
