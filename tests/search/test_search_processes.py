"""Searches with real runs: stopped by a signal and killed in the middle of a trial, then continued."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ..commands_as_processes import kill_at_random
from ..test_house import ROOT
from ..waits import wait_until

SPACE = "SOLVER.LR: {float: [0.01, 0.2], log: true}\n"
WORDS = ["SOLVER.EPOCHS", "30", "LOG.TENSORBOARD", "False", "EXPERIMENT.THREADS", "1"]


def started(folder: Path, out: str, words: Sequence[str] = WORDS) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mdistiller_dfpt", "search", "--cfg", "digits/vanilla/res8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--space", "space.yaml", "--trials", "2", "--out", out, *words], cwd=folder, env=environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_checkpoint(run: Path, epoch: int) -> None:
    """Until a run has saved this epoch or a later one; the last checkpoints alone are kept."""
    least = run / f"checkpoints/epoch-{epoch:05d}"
    wait_until(lambda: any(path >= least for path in run.glob("checkpoints/epoch-*")), str(least))


def trials(folder: Path) -> list[dict]:
    found = json.loads((folder / "search.json").read_text())["configs"]["digits/vanilla/res8"]["trials"]
    return [{key: trial[key] for key in trial if key != "seconds"} for trial in found]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_that_is_stopped_and_killed_ends_with_the_same_trials(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    whole = started(tmp_path, "whole")
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    run = tmp_path / "output/search/parts/digits_vanilla_res8/trial-0001/seed1"
    # A scheduler's signal: the run saves, within an epoch, and the search ends
    search = started(tmp_path, "parts")
    wait_for_checkpoint(run, 1)
    search.send_signal(signal.SIGTERM)
    _, err = search.communicate()
    assert search.returncode == 143
    assert err.splitlines()[-1] == "error: interrupted; repeat the same command to go on"
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["epoch"] < 20) == ("stopped", True)
    # The search is killed, and its run saves and ends: the next one waits for it
    search = started(tmp_path, "parts")
    wait_for_checkpoint(run, status["epoch"] + 2)
    search.kill()
    search.communicate()
    last = started(tmp_path, "parts")
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert trials(tmp_path / "parts") == trials(tmp_path / "whole")
    assert [path.parent.name for path in run.parent.parent.glob("*/*/results.json")] == ["seed1", "seed1"]
    weights = [
        json.loads((tmp_path / f"output/search/{name}/digits_vanilla_res8/trial-0001/seed1/results.json").read_text())
        for name in ("parts", "whole")
    ]
    assert weights[0]["student_sha256"] == weights[1]["student_sha256"]
    assert weights[0]["fingerprint"] == weights[1]["fingerprint"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_killed_at_random_leaves_no_process_and_ends_with_the_same_trials(tmp_path):
    words = ["SOLVER.EPOCHS", "10", *WORDS[2:]]
    (tmp_path / "space.yaml").write_text(SPACE)
    whole = started(tmp_path, "whole", words)
    _, err = whole.communicate()
    assert whole.returncode == 0, err
    kill_at_random(lambda: started(tmp_path, "parts", words), tmp_path, seed=6)
    last = started(tmp_path, "parts", words)
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert trials(tmp_path / "parts") == trials(tmp_path / "whole")
