"""The command of several GPUs, on the CPU: torchrun tools/train.py."""

import json
import os
import subprocess
import sys
import time

import pytest

from .test_house import ROOT

FAILING = """
import os
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import DataError

@DISTILLERS.register("FAILS")
class Fails(DISTILLERS["NONE"]):
    def losses(self, student, teacher, batch):
        if os.environ["RANK"] == "1" and batch.step == 2:
            raise DataError("broken.png: cannot be read as an image")
        return super().losses(student, teacher, batch)
"""


def torchrun(tmp_path, *words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "tools/train.py",
               "--cfg", "configs/digits/vanilla/res8.yaml", "LOG.PREFIX", str(tmp_path / "out"), "SOLVER.EPOCHS", "1",
               "EXPERIMENT.THREADS", "1", "EXPERIMENT.DEVICE", "cpu", *words]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=240,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    return done, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_run(tmp_path):
    done, _ = torchrun(tmp_path)
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").rglob("results.json")
    protocol = json.loads(results.read_text())["protocol"]
    assert (protocol["world_size"], protocol["batch"]) == (2, 64)
    assert done.stdout.count("epoch 1/1") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crash_in_one_process_ends_all_and_names_it(tmp_path):
    (tmp_path / "fails.py").write_text(FAILING)
    done, seconds = torchrun(tmp_path, "PLUGINS", f"['{tmp_path}/fails.py']", "DISTILLER.TYPE", "FAILS")
    assert done.returncode != 0
    assert "rank 1: error: broken.png: cannot be read as an image" in done.stderr
    assert "rank 0: error: this is a bug" not in done.stderr
    assert seconds < 120
