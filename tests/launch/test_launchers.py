"""Launchers on this machine: where their jobs run, whose they are, and the options that name them."""

import argparse
import itertools
import json
import os
import signal
import sys
import threading

import pytest
import torch

from mdistiller_dfpt.commands import table
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch import jobs
from mdistiller_dfpt.launch.jobs import Ended, Job, run_jobs
from mdistiller_dfpt.launch.launchers import JOBS, LAUNCHERS, Local, add_launcher, launcher_of, local_launcher
from mdistiller_dfpt.runs.locks import claim

from ..waits import LIMIT, wait_until

WRITES = """
import json, os, sys, time
path = sys.argv[1]
with open(path, "w") as file:
    json.dump([os.environ.get("CUDA_VISIBLE_DEVICES"), time.monotonic()], file)
while len(sys.argv) > 2 and not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
with open(path + ".ended", "w") as file:
    json.dump(time.monotonic(), file)
"""


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, "-c", WRITES])
    monkeypatch.setattr(jobs, "LOOK_AGAIN", 0.02)


def job_of(folder, name, *words):
    return Job(name, (str(folder / name), *words), folder / f"logs/{name}.txt", folder / f"runs/{name}/seed1")


def test_each_job_has_one_gpu_and_no_two_at_a_time_the_same(tmp_path):
    said = []
    launcher = Local(gpus=["3", "GPU-5"])
    assert launcher.parallel == 2
    assert run_jobs([job_of(tmp_path, name) for name in "abcde"], launcher, said.append) == ([], [])
    spans = {}
    for name in "abcde":
        gpu, began = json.loads((tmp_path / name).read_text())
        spans.setdefault(gpu, []).append((began, json.loads((tmp_path / f"{name}.ended").read_text())))
    assert set(spans) <= {"3", "GPU-5"}
    for of_gpu in spans.values():
        ordered = sorted(of_gpu)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ordered))
    assert sorted(line for line in said if line.endswith("done"))[-1].startswith("[5/5]")


def test_without_gpus_a_job_sees_those_of_its_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    run_jobs([job_of(tmp_path, "a")], Local(1), [].append)
    assert json.loads((tmp_path / "a").read_text())[0] == "7"


def test_a_job_of_another_launcher_is_passed_over_and_named(tmp_path):
    both = [job_of(tmp_path, name) for name in ("theirs", "ours")]
    with claim(both[0].run):
        assert run_jobs(both, Local(1), [].append) == Ended([], both[:1])
    assert (tmp_path / "ours").exists()
    assert not (tmp_path / "theirs").exists()


def test_a_job_whose_launcher_has_died_is_begun_by_the_one_that_still_runs(tmp_path):
    """The job that is free begins; the other one is left by its launcher while that one runs."""
    go = tmp_path / "go"
    both = [job_of(tmp_path, "theirs"), job_of(tmp_path, "ours", str(go))]
    theirs, ended = claim(both[0].run), []
    launcher = threading.Thread(target=lambda: ended.append(run_jobs(both, Local(2), [].append)))
    launcher.start()
    wait_until((tmp_path / "ours").exists)
    assert not (tmp_path / "theirs").exists()
    theirs.close()
    wait_until((tmp_path / "theirs").exists)
    go.touch()
    launcher.join(LIMIT)
    assert ended == [([], [])]


def test_what_other_jobs_need_is_waited_for_and_said_once(tmp_path):
    teacher, said, ended = job_of(tmp_path, "teacher"), [], []
    theirs = claim(teacher.run)
    wait = {"wait_for_others": True}
    launcher = threading.Thread(target=lambda: ended.append(run_jobs([teacher], Local(1), said.append, **wait)))
    launcher.start()
    wait_until(lambda: said)
    theirs.close()
    launcher.join(LIMIT)
    assert ended == [([], [])]
    assert [line for line in said if "waiting" in line] == [
        "teacher: another launcher trains it: waiting until it ends"
    ]


def test_a_job_that_another_launcher_has_done_meanwhile_does_not_begin(tmp_path):
    said = []
    both = [job_of(tmp_path, name) for name in ("theirs", "ours")]
    assert run_jobs(both, Local(1), said.append, lambda job: job.label == "theirs") == ([], [])
    assert not (tmp_path / "theirs").exists()
    assert "[1/2] theirs: trained meanwhile" in said


def test_two_launchers_at_once_run_each_job_once(tmp_path):
    said, left = [], []
    all_of_them = [job_of(tmp_path, str(i)) for i in range(8)]

    def launch(number):
        done = lambda job: (tmp_path / f"{job.label}.ended").exists()  # noqa: E731
        left.append(run_jobs(all_of_them, Local(2), lambda line: said.append((number, line)), done))

    both = [threading.Thread(target=launch, args=(number,)) for number in (1, 2)]
    for launcher in both:
        launcher.start()
    for launcher in both:
        launcher.join(LIMIT)
    begun = [line.split(" ")[0] for _, line in said if " ... " in line]
    assert sorted(begun) == [str(i) for i in range(8)]
    assert all(not ended.failed for ended in left)


def test_a_request_to_save_goes_to_the_jobs_and_ends_nothing(tmp_path, monkeypatch):
    waits = "import signal, sys; print('began', flush=True); print(signal.sigwait([signal.SIGUSR1]), flush=True)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); {waits}"
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, "-c", blocked])
    one = job_of(tmp_path, "a")

    def ask():
        wait_until(lambda: one.log.exists() and "began" in one.log.read_text())
        os.kill(os.getpid(), signal.SIGUSR1)

    asking = threading.Thread(target=ask)
    asking.start()
    assert run_jobs([one], Local(1), [].append) == ([], [])
    asking.join()
    assert one.log.read_text().split() == ["began", str(int(signal.SIGUSR1))]


def parsed(*words, names=tuple(LAUNCHERS)):
    parser = argparse.ArgumentParser()
    add_launcher(parser, names, "cell")
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("visible", "words", "gpus"),
    [
        (None, [], ["0", "1", "2"]),
        (None, ["--gpus", "2"], ["0", "1"]),
        ("4,6,GPU-8", ["--gpus", "2"], ["4", "6"]),
    ],
)
def test_the_gpus_are_those_that_the_launcher_sees(visible, words, gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launcher = local_launcher(parsed("--launcher", "torchrun", *words))
    assert [launcher._free.get() for _ in range(launcher.parallel)] == gpus


@pytest.mark.parametrize(
    ("gpus", "words", "message"),
    [
        (0, ["--launcher", "torchrun"], "--launcher torchrun: no GPU here; without it, --jobs N trains on what there"),
        (0, ["--launcher", "torchrun", "--gpus", "2"], "no GPU here, and --gpus is 2"),
        (1, ["--launcher", "torchrun", "--gpus", "2"], "1 GPUs here, and --gpus is 2"),
        (2, ["--launcher", "torchrun", "--gpus", "0"], "--gpus is 0; it must be at least 1"),
        (2, ["--launcher", "torchrun", "--jobs", "2"], "--jobs with --launcher torchrun, which has --gpus"),
        (2, ["--gpus", "2"], "--gpus with --launcher local, which has --jobs"),
        (2, ["--jobs", "0"], "--jobs is 0; it must be at least 1"),
        (2, ["--slurm", "time=3"], "--slurm with --launcher local"),
        (0, ["--launcher", "submitit"], "--slurm time is missing: give --slurm time=MINUTES"),
        (0, ["--launcher", "submitit", "--slurm", "time=4:00"], "--slurm time is 4:00"),
        (0, ["--launcher", "submitit", "--slurm", "time=9"], "no SLURM here, as srun is not found"),
        (0, ["--launcher", "submitit-local", "--slurm", "time=9", "--slurm", "mem=3G"], "which has time alone"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(gpus, words, message, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        launcher_of(parsed(*words), tmp_path)


def test_a_launcher_without_its_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r'pip install "mdistiller_dfpt\[submitit\]"'):
        launcher_of(parsed("--launcher", "submitit", "--slurm", "time=9"), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launcher", "submitit"], "--launcher without --run, which trains the missing cells"),
        (["--smoke", "--launcher", "torchrun"], "--launcher with --smoke"),
    ],
)
def test_a_launcher_of_a_table_needs_something_to_train(words, message, capsys):
    assert table.main(["--table", "configs/tables/study.yaml", *words]) == 2
    assert message in capsys.readouterr().err


def test_every_launcher_has_a_number_of_jobs_at_a_time():
    assert {name for name, options in LAUNCHERS.items() if "jobs" in options} == set(JOBS)
    assert launcher_of(parsed(), None).parallel == 1
    assert launcher_of(parsed("--jobs", "3"), None).parallel == 3
