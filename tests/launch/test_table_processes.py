"""Tables with real runs: a launcher or a worker is killed at any time, two launchers at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mdistiller_dfpt.runs.locks import claim

from ..commands_as_processes import kill_at_random
from ..test_house import ROOT
from ..waits import wait_until

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


SUBMITIT = ("--launcher", "submitit-local", "--slurm", "time=60")


def started(folder: Path, prefix: str, *launcher: str) -> "subprocess.Popen[str]":
    (folder / "table.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "mdistiller_dfpt", "table", "--table", "table.yaml", "--run"]
    words = [*(launcher or ("--jobs", "2")), "--prefix", prefix, *WORDS]
    return subprocess.Popen(
        [*command, *words], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
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


@pytest.fixture
def taught(whole, tmp_path):
    """A folder whose runs are the teacher of the table."""
    shutil.copytree(whole[0] / "runs/digits/vanilla", tmp_path / "runs/digits/vanilla")
    return tmp_path


def has_begun(run: Path) -> bool:
    return any(run.glob("checkpoints/epoch-*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_launchers_of_two_kinds_at_once_train_each_cell_once_and_the_same(whole, taught):
    both = [started(taught, "runs", "--jobs", "1"), started(taught, "runs", "--jobs", "1", *SUBMITIT)]
    begun = []
    for table in both:
        _, err = table.communicate()
        assert table.returncode == 0, err
        begun += [line.split(" ... ")[0] for line in err.splitlines() if " ... " in line and "teacher" not in line]
    assert sorted(begun) == ["dfptkd res20_res8 seed 1", "kd res20_res8 seed 1"]
    assert students(taught / "runs") == whole[1]
    assert len(list((taught / "runs").rglob("config.yaml"))) == 3


def workers(folder: Path) -> list[int]:
    """The processes that submitit has for jobs in this working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and "submitit.core._submit" in (process / "cmdline").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cell_whose_worker_was_killed_is_taken_up_again_and_ends_the_same(whole, taught):
    table = started(taught, "runs", "--jobs", "2", *SUBMITIT)
    wait_until(lambda: has_begun(taught / "runs/digits/kd/res20_res8/seed1"))
    for worker in workers(taught):
        os.kill(worker, signal.SIGKILL)
    _, err = table.communicate()
    assert table.returncode == 1
    assert "runs failed: " in err
    again = started(taught, "runs", "--jobs", "2", *SUBMITIT)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert students(taught / "runs") == whole[1]
    assert len(list((taught / "runs").rglob("config.yaml"))) == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cell_of_another_launcher_is_left_to_it_and_the_table_has_the_others(whole, taught):
    with claim(taught / "runs/digits/kd/res20_res8/seed1"):
        table = started(taught, "runs")
        out, err = table.communicate()
    assert table.returncode == 0, err
    assert "left to other launchers, which train 1 cells: kd res20_res8 seed 1; the same command prints" in err
    assert sorted(students(taught / "runs")) == ["digits/dfptkd/res20_res8/seed1", "digits/vanilla/res20/seed1"]
    assert "| DFPT-KD | 8 |" in out
