"""Jobs through submitit: its executor of local processes, and its commands of SLURM with stand-ins for its programs."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from submitit.core.core import Job as SubmittedJob

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch import jobs
from mdistiller_dfpt.launch.jobs import Job, run_jobs
from mdistiller_dfpt.launch.submitted import InProcesses, InSlurm

from ..test_house import ROOT
from ..waits import LIMIT, has_ended, wait_until

RUN = """
import os, signal, sys, time
from pathlib import Path
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.parent import stop_with_launcher
end_at_once()
got = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: (got.append(number), print(signal.Signals(number).name, flush=True)))
stop_with_launcher()
checkpoint, end = Path(sys.argv[1]), Path(sys.argv[1] + ".end")
print("resumes" if checkpoint.exists() else "begins", os.getppid(), flush=True)
while not end.exists():
    if stops := [number for number in got if number != signal.SIGUSR1]:
        time.sleep(0.2)
        checkpoint.touch()
        print("saved", flush=True)
        sys.exit(128 + stops[0])
    time.sleep(0.01)
print("ends", flush=True)
"""
"""A run: it saves and stops, saves and goes on, or resumes, and ends once it may."""


class Launched:
    """A job that `RUN` stands for."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "logs/a.txt"
        self.job = Job("a", (str(folder / "checkpoint"),), self.log, folder / "runs/a/seed1")

    def words(self):
        """What the job has printed, without the numbers of processes."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[0] for line in lines if line]

    def worker(self, word):
        """The process that submitit has for the job, once that has printed this word."""
        wait_until(lambda: word in self.words(), f"never {word}")
        lines = self.log.read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(word)))

    def may_end(self):
        (self.folder / "checkpoint.end").touch()


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """A job, and a thread that launches it by submitit's local executor; `ended` has what became of it."""
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, "-c", RUN])
    monkeypatch.setattr(SubmittedJob, "_results_timeout_s", 0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    one = Launched(tmp_path)
    one.ended = []
    launcher = InProcesses(tmp_path / "submitit", 1, ["time=60"])
    thread = threading.Thread(target=lambda: one.ended.append(run_jobs([one.job], launcher, [].append)))
    thread.start()
    yield one
    one.may_end()
    thread.join(LIMIT)


def has_launched(one):
    wait_until(lambda: one.ended)
    return one.ended[0]


def test_a_request_of_the_scheduler_to_save_reaches_the_run_which_goes_on(launched):
    os.kill(launched.worker("begins"), signal.SIGUSR1)
    wait_until(lambda: "SIGUSR1" in launched.words())
    launched.may_end()
    assert has_launched(launched) == ([], [])
    assert launched.words() == ["begins", "SIGUSR1", "ends"]


def test_a_job_at_its_time_limit_saves_is_queued_again_and_resumes(launched):
    os.kill(launched.worker("begins"), signal.SIGUSR2)
    launched.worker("resumes")
    assert not launched.ended, "for the launcher it is the same job"
    launched.may_end()
    assert has_launched(launched) == ([], [])
    assert launched.words() == ["begins", "SIGUSR2", "saved", "resumes", "ends"]


def test_a_job_that_the_scheduler_ends_saves_and_has_failed(launched):
    os.kill(launched.worker("begins"), signal.SIGTERM)
    assert has_launched(launched).failed == [launched.job]
    assert launched.words() == ["begins", "SIGTERM", "saved"]


def test_a_run_whose_worker_is_killed_saves_and_ends_and_its_log_says_why(launched):
    os.kill(launched.worker("begins"), signal.SIGKILL)
    assert has_launched(launched).failed == [launched.job]
    wait_until(lambda: "saved" in launched.words())
    assert "of submitit has no result; its files are in" in launched.log.read_text()


LAUNCHER = """
import sys
from pathlib import Path
from mdistiller_dfpt.launch import jobs
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.launch.submitted import InProcesses
jobs.TRAIN = [sys.executable, "-c", sys.argv[1]]
folder = Path(sys.argv[2])
all_of_them = [
    jobs.Job(name, (str(folder / name),), folder / f"logs/{name}.txt", folder / f"runs/{name}/seed1")
    for name in ("checkpoint", "further")
]
def launch(argv):
    jobs.run_jobs(all_of_them, InProcesses(folder / "submitit", 1, ["time=60"]), lambda line: None)
sys.exit(guarded(launch, []))
"""


@pytest.fixture
def process(tmp_path):
    """A process that launches two jobs, one at a time, once the first has begun; and that job."""
    one = Launched(tmp_path)
    one.log = tmp_path / "logs/checkpoint.txt"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RUN, str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    one.worker("begins")
    yield launcher, one
    one.may_end()


def test_a_signal_to_the_launcher_reaches_its_job_once_and_no_further_one_begins(process, tmp_path):
    launcher, one = process
    launcher.terminate()
    _, err = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode == 128 + signal.SIGTERM
    assert err.splitlines() == ["error: interrupted; repeat the same command to go on"]
    assert one.words() == ["begins", "SIGTERM", "saved"]
    assert not (tmp_path / "logs/further.txt").exists()


def test_a_job_in_a_queue_goes_on_where_its_launcher_is_killed_and_no_process_is_left(process):
    launcher, one = process
    worker = one.worker("begins")
    launcher.kill()
    launcher.wait()
    one.may_end()
    wait_until(lambda: has_ended(worker))
    assert one.words() == ["begins", "ends"]
    launcher.stderr.close()


SLURM = {
    "sbatch": """
        test -e "$STAND_IN/refuses" && { echo "sbatch: error: invalid partition specified: gpu" >&2; exit 1; }
        cp "$1" "$STAND_IN/$$.sh"
        SLURM_JOB_ID=$$ SLURM_NTASKS=1 SLURM_PROCID=0 setsid bash "$STAND_IN/$$.sh" < /dev/null > /dev/null 2>&1 &
        echo "Submitted batch job $$"
    """,
    "srun": 'shift 5; exec "$@"',
    "sacct": 'echo "JobID|State|NodeList"',
    "scancel": 'echo "$@" >> "$STAND_IN/cancelled"',
}
"""Stand-ins for the programs of SLURM."""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder with the scripts that sbatch was given."""
    for name, text in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, "-c", RUN])
    return tmp_path


def options(script):
    """The options of sbatch in a script, without those that name files."""
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    return sorted(line for line in lines if line.split("=")[0] not in ("output", "error", "wckey"))


def test_slurm_gets_the_options_and_one_name_for_all_launchers_of_a_job(slurm):
    one, names = Launched(slurm), set()
    one.may_end()
    for number in (1, 2):
        asked = ["time=30", "partition=gpu", "gpus-per-node=1", "mem=32G", "requeue"]
        assert run_jobs([one.job], InSlurm(slurm / "submitit", 4, asked), [].append) == ([], [])
        scripts = list(slurm.glob("*.sh"))
        assert len(scripts) == number
        found = options(max(scripts, key=lambda path: path.stat().st_mtime))
        names.add(next(line for line in found if line.startswith("job-name=")))
        assert [line for line in found if not line.startswith("job-name=")] == [
            "dependency=singleton", "gpus-per-node=1", "mem=32G", "nodes=1", "open-mode=append", "partition=gpu",
            "requeue", "signal=USR2@90", "time=30",
        ]  # fmt: skip
    assert len(names) == 1, "the second begins once the first has ended"
    assert one.words() == ["begins", "ends", "begins", "ends"]


def test_what_slurm_refuses_is_one_line(slurm):
    (slurm / "refuses").touch()
    with pytest.raises(ConfigError, match="^sbatch: .*invalid partition specified: gpu.*see --slurm$"):
        run_jobs([Launched(slurm).job], InSlurm(slurm / "submitit", 4, ["time=30", "partition=gpu"]), [].append)


def test_a_stop_signal_cancels_a_job_of_slurm_and_a_request_to_save_is_left_to_it(slurm):
    one = Launched(slurm)
    launcher = InSlurm(slurm / "submitit", 4, ["time=30"])
    with launcher.started(["true"], one.log) as handle:
        handle.send_signal(signal.SIGUSR1)
        assert not (slurm / "cancelled").exists()
        handle.send_signal(signal.SIGTERM)
        assert (slurm / "cancelled").read_text().split() == [handle.job.job_id]
        one.log.parent.mkdir()
        handle.wait()
