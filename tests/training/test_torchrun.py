"""The multi-GPU command, on the CPU: torchrun tools/train.py."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..test_house import ROOT
from ..waits import LIMIT

FAILING = """
import os, resource, signal, sys, time
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import DataError

def fail():
    if os.environ["FAULT"] == "raises":
        raise DataError("broken.png: cannot be read as an image")
    if os.environ["FAULT"] == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["FAULT"] == "is killed at first" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["FAULT"] == "hangs":
        time.sleep(600)
    if os.environ["FAULT"] == "leaves":
        sys.exit(0)
    if os.environ["FAULT"] == "cannot save":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

@DISTILLERS.register("FAILS")
class Fails(DISTILLERS["NONE"]):
    def forward(self, batch):
        if os.environ["RANK"] == os.environ["FAULTY"] and batch.step == 2 and batch.epoch == int(os.environ["EPOCH"]):
            fail()
        return super().forward(batch)
"""


def command(tmp_path, *words, restarts=0):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "--max-restarts", str(restarts), "tools/train.py", "--cfg", "configs/digits/vanilla/res8.yaml",
            "LOG.PREFIX", str(tmp_path / "out"), "SOLVER.EPOCHS", "2", "EXPERIMENT.THREADS", "1",
            "EXPERIMENT.DEVICE", "cpu", "LOG.TENSORBOARD", "False", *words]  # fmt: skip


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def torchrun(tmp_path, *words, restarts=0, **more):
    return subprocess.run(
        command(tmp_path, *words, restarts=restarts), capture_output=True, text=True, cwd=ROOT, timeout=LIMIT,
        env=environment(**more),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_run(tmp_path):
    done = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results.json")
    protocol = json.loads(results.read_text())["protocol"]
    assert (protocol["world_size"], protocol["batch"]) == (2, 64)
    assert done.stdout.count("epoch 2/2") == 1


FAULTS = {
    "raises": ("1", "rank 1: error: broken.png: cannot be read as an image"),
    "is killed": ("1", r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9"),  # torchrun's words
    "hangs": ("1", "rank 1 ended or did not respond within EXPERIMENT.TIMEOUT 20 s"),
    "leaves": ("1", r"rank 1: error: \S+fails.py:\d+: SystemExit: 0"),
    "cannot save": ("0", r"rank 0: error: \S+ cannot be written \(.*File too large"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_that_fails_ends_all_in_bounded_time_and_is_named(fault, tmp_path):
    (tmp_path / "fails.py").write_text(FAILING)
    faulty, message = FAULTS[fault]
    words = ("PLUGINS", f"['{tmp_path}/fails.py']", "DISTILLER.TYPE", "FAILS", "EXPERIMENT.TIMEOUT", "20")
    done = torchrun(tmp_path, *words, FAULT=fault, FAULTY=faulty, EPOCH="1")
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    assert "this is a bug" not in done.stderr
    (status,) = (tmp_path / "out").rglob("status.json")
    assert json.loads(status.read_text())["state"] in ("running", "failed", "stopped")
    assert not list((tmp_path / "out").rglob("results.json"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("faulty", ["0", "1"])
def test_a_run_that_torchrun_starts_again_continues(faulty, tmp_path):
    (tmp_path / "fails.py").write_text(FAILING)
    words = ("PLUGINS", f"['{tmp_path}/fails.py']", "DISTILLER.TYPE", "FAILS")
    found = {}
    for fault in ("none", "is killed at first"):
        out = tmp_path / fault
        done = torchrun(out, "LOG.PREFIX", str(out), *words, restarts=1, FAULT=fault, FAULTY=faulty, EPOCH="2")
        assert done.returncode == 0, done.stderr
        (results,) = out.rglob("results.json")
        found[fault] = json.loads(results.read_text())["student_sha256"]
    assert "resuming after epoch 1" in done.stdout
    assert found["is killed at first"] == found["none"]


def in_its_second_epoch(tmp_path):
    """A torchrun job of many epochs that has ended its first."""
    words = ("SOLVER.EPOCHS", "400", "LOG.EVAL_FREQ", "400")
    process = subprocess.Popen(
        command(tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=environment(),
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    return process


def processes_of(torchrun):
    tasks = Path(f"/proc/{torchrun.pid}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("to_each", [False, True], ids=["to torchrun", "to each"])
def test_a_stop_signal_to_torchrun_saves_once_and_the_run_continues(to_each, tmp_path):
    """A scheduler sends it to each process of a job, and torchrun passes it on."""
    with in_its_second_epoch(tmp_path) as process:
        ranks = processes_of(process)
        assert len(ranks) == 2
        for number in ranks * to_each:
            os.kill(number, signal.SIGTERM)
        process.terminate()
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode != 0
    assert "stopped by SIGTERM" in err
    assert "this is a bug" not in err
    (status,) = (tmp_path / "out").rglob("status.json")
    status = json.loads(status.read_text())
    assert status["state"] == "stopped"
    assert status["reason"].startswith("stopped by SIGTERM")
    checkpoints = sorted(p.name for p in (tmp_path / "out").rglob("checkpoints/*"))
    step = f"-step-{status['step']:07d}" if status["step"] else ""
    assert checkpoints[-1] == f"epoch-{status['epoch']:05d}{step}"
    (run,) = (path.parent for path in (tmp_path / "out").rglob("status.json"))
    more = ("SOLVER.EPOCHS", str(status["epoch"] + 1), "--resume", str(run))
    done = torchrun(tmp_path, *more)
    assert done.returncode == 0, done.stderr
    assert f"resuming after epoch {status['epoch']}" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_processes_save_and_end_when_torchrun_is_killed(tmp_path):
    with in_its_second_epoch(tmp_path) as process:
        process.kill()
        _, err = process.communicate(timeout=LIMIT)  # until both have closed their ends of the pipes
    assert [f"rank {number}: error: stopped by SIGTERM" in err for number in (0, 1)] == [True, True]
    (status,) = (tmp_path / "out").rglob("status.json")
    assert json.loads(status.read_text())["state"] == "stopped"
