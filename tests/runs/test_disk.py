"""A disk that is full, out of inodes or read-only: a one-line error, and the previous checkpoint stays intact."""

import errno
import json
import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from mdistiller_dfpt.atomic import write_text
from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.errors import CheckpointError, ConfigError, UserError
from mdistiller_dfpt.report.figures import new_figure, write_figure
from mdistiller_dfpt.report.page import write_page
from mdistiller_dfpt.report.result import Result
from mdistiller_dfpt.runs.directory import check_writable, existing_runs
from mdistiller_dfpt.runs.log import EventLog
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.testing import tiny_cfg

from ..forks import forked
from ..tiny_runs import WRITING, continued, final_state, fit, outcome, run_of, unbroken, writes_below

WORDS = ("LOG.SAVE_EVERY", "2 steps")


def fail_from_write(number, folder, code):
    """From the given operation on, every open for writing, rename and removal in `folder` fails as on a full disk."""
    count = []

    def fail(event, args):
        if event not in WRITING:  # what is removed at the end is no write that could fail
            return
        count.append(1)
        if len(count) >= number:
            raise OSError(code, os.strerror(code), str(args[0]))

    writes_below(folder, fail)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_that_takes_no_more_writes_ends_the_run_in_one_line_and_nothing_is_lost(code, tmp_path):
    def failing(folder, number):
        count = fail_from_write(number, folder, code)
        try:
            return [outcome(run_of("KD", folder, *WORDS)), len(count)]
        except UserError as e:
            return [str(e), e.exit_code]

    _, (expected, count) = forked(lambda: failing(tmp_path / "whole", 10**9))
    assert expected == unbroken()
    assert count > 30
    for number in range(1, count + 1):
        folder = tmp_path / f"failed{number}"
        ended, (message, exit_code) = forked(lambda folder=folder, number=number: failing(folder, number))
        assert (ended, exit_code) in ((0, 2), (0, 3)), f"at write {number}: {message}"
        assert "cannot" in message
        assert os.strerror(code) in message
        assert "\n" not in message
        assert forked(lambda folder=folder: continued("KD", folder, *WORDS)) == (0, expected), (
            f"failed at write {number}"
        )


@pytest.mark.parametrize("place", ["/proc", "/sys"])
def test_a_file_system_that_takes_no_files_is_refused_before_any_work(place):
    if not Path(place).is_dir():
        pytest.skip(f"there is no {place} here")
    with pytest.raises(ConfigError, match=rf"LOG.PREFIX is {place}/out; cannot write in {place} \("):
        check_writable(tiny_cfg("LOG.PREFIX", f"{place}/out"))


def test_a_dataset_is_only_read(tmp_path):
    words = [*write_data_set("folder", tmp_path / "data", classes=5), "DATASET.SIZE", "8", "MODEL.FAMILY", "cifar",
             "SOLVER.BATCH_SIZE", "4", "DATASET.NUM_WORKERS", "0"]  # fmt: skip

    def reading():
        wrote = []
        writes_below(tmp_path / "data", lambda event, args: wrote.append([event, str(args[0])]))
        outcome(run_of("KD", tmp_path / "out", *words, make_data=build_data))
        return wrote

    assert forked(reading) == (0, [])


def test_clocks_that_jump_change_no_duration(tmp_path, monkeypatch):
    def jumping():
        now = iter(range(2_000_000_000, 0, -1_000_000))
        time.time = lambda: float(next(now))
        trainer = run_of("KD", tmp_path)
        fit(trainer)
        return [e["seconds"] for e in trainer.epochs]

    _, seconds = forked(jumping)
    assert all(0 < s < 100 for s in seconds)


def test_paths_may_hold_any_letter_and_no_control_character(tmp_path):
    folder = tmp_path / "é 实验 x y"
    assert forked(lambda: outcome(run_of("KD", folder))) == (0, unbroken())
    (results,) = folder.rglob("results.json")
    assert json.loads(results.read_text(encoding="utf-8"))["method"] == "KD"
    for name in ("a\nb", "a\x1b[31m", os.fsdecode(b"a\xff")):
        for key in ("LOG.PREFIX", "DATASET.ROOT", "EXPERIMENT.NAME", "EXPERIMENT.TAG"):
            with pytest.raises(ConfigError, match=f"{key} is .*; it must be text in UTF-8 without control") as info:
                tiny_cfg(key, name)
            assert str(info.value).isprintable()


def test_what_a_run_saves_is_on_the_disk_before_it_has_its_name_and_the_name_then(tmp_path, monkeypatch):
    events, flush = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda n: (events.append((os.readlink(f"/proc/self/fd/{n}"),)), flush(n))[1])
    for name in ("replace", "rename"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda a, b, p=plain: (events.append((str(a), str(b))), p(a, b))[1])
    run = run_of("KD", tmp_path)
    fit(run)
    named = {}
    for number, (part, *target) in enumerate(events):
        for path in target:
            assert (part,) in events[:number]
            assert (str(Path(path).parent),) in events[number:]
            named[Path(path).name] = path
    saved = {path.name for path in run.run.rglob("*") if path.name not in ("run.lock", "checkpoints")}
    assert saved <= named.keys()
    assert {"state.pt", "manifest.json", "epoch-00002", "best.safetensors", "results.json"} <= saved


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_modes_or_a_flush_of_folders_takes_a_run(code, tmp_path):
    def without():
        def refuse(*args, **more):
            raise OSError(code, os.strerror(code))

        os.fsync, os.chmod = refuse, refuse
        return outcome(run_of("KD", tmp_path))

    assert forked(without) == (0, unbroken())


def test_a_flush_that_fails_is_said(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write_text(tmp_path / "a.txt", "before")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"a.txt: cannot be written \(Input/output error"):
        write_text(tmp_path / "a.txt", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]


@pytest.mark.parametrize("act", ["moved", "deleted"])
def test_a_run_directory_that_vanishes_ends_the_run_and_does_not_begin_there_anew(act, tmp_path):
    away = tmp_path / "away"

    def vanish():
        trainer, save = run_of("KD", tmp_path, *WORDS), Saver.save

        def save_and_vanish(self, done):
            if len(done.epochs) == 1:
                self.run.rename(away)
                if act == "deleted":
                    shutil.rmtree(away)
            save(self, done)

        Saver.save = save_and_vanish
        try:
            fit(trainer)
        except CheckpointError as e:
            return str(e)

    ended, message = forked(vanish)
    assert ended == 0
    assert "cannot be written (No such file or directory); what was saved before is untouched: remove" in message
    assert existing_runs(tiny_cfg("LOG.PREFIX", str(tmp_path), "EXPERIMENT.NAME", "tiny")) == []
    if act == "moved":
        trainer = run_of("KD", tmp_path, *WORDS)
        trainer.fit(away, resume=True)
        assert final_state(trainer) == unbroken()[:2]


@pytest.mark.parametrize("kind", ["page", "picture"])
def test_what_a_command_wrote_before_outlives_a_full_disk(kind, tmp_path):
    target = tmp_path / {"page": "report.html", "picture": "curve.svg"}[kind]
    target.write_text("before")

    def full():
        figure = new_figure(3, 2)
        results = [Result("a", tmp_path, fit(run_of("KD", tmp_path / "runs")))]
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            write_page(results, target, "a") if kind == "page" else write_figure(figure, target)
        except CheckpointError as e:
            return str(e)

    ended, message = forked(full)
    assert ended == 0
    assert message.startswith(f"{target}: cannot be written (File too large")
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([target.name, "runs"])


@pytest.mark.parametrize("flushes", [0, 2])
def test_events_that_cannot_be_written_end_no_run(flushes, tmp_path, capsys, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    trainer = run_of("KD", tmp_path, "LOG.TENSORBOARD", "True")
    done = []

    def full(writer):
        done.append(1)
        if len(done) > flushes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "flush", full)
    assert len(fit(trainer)["epochs"]) == 2
    assert capsys.readouterr().err.count("TensorBoard's events cannot be written (No space left") == 1


def test_events_whose_folder_vanishes_are_one_line(tmp_path, capfd, monkeypatch):
    hook = threading.__excepthook__  # pytest's own keeps what it hears
    monkeypatch.setattr(threading, "excepthook", hook)
    trainer, write = run_of("KD", tmp_path, "LOG.TENSORBOARD", "True"), EventLog.scalars

    def vanish(self, record, step):
        shutil.rmtree(trainer.run / "events", ignore_errors=True)
        write(self, record, step)

    monkeypatch.setattr(EventLog, "scalars", vanish)
    assert len(fit(trainer)["epochs"]) == 2
    said = capfd.readouterr().err
    assert said.count("TensorBoard's events cannot be written (No such file or directory); the run continues") == 1
    assert "Traceback" not in said
    assert threading.excepthook is hook
