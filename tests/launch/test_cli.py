"""What the machine does to a command: closed or full streams, no working directory, a program that exits."""

import os
import subprocess
import sys

import pytest

from mdistiller_dfpt.commands import train

from ..test_house import ROOT

PRINTS = "import sys; from mdistiller_dfpt.launch.cli import guarded; sys.exit(guarded(lambda argv: print('x'), []))"
WRITES = """
import os, sys
from mdistiller_dfpt.launch.cli import guarded, prepare_process
prepare_process()
with open("weights", "wb") as file:
    code = guarded(lambda argv: print("printed"), [])
    os.system("echo printed; echo printed >&2")
sys.exit(code)
"""
GONE = """
import os, sys
from mdistiller_dfpt.commands.main import main
os.mkdir("gone")
os.chdir("gone")
os.rmdir("../gone")
sys.exit(main(["train", "--cfg", "digits/vanilla/res8"]))
"""


def process(code, folder, **streams):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, text=True, check=False,
        **{"stderr": subprocess.PIPE, **streams},
    )  # fmt: skip


def test_output_to_a_full_disk_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = process(PRINTS, tmp_path, stdout=full)
    assert (done.returncode, done.stderr) == (3, "error: the output cannot be written (No space left on device)\n")


def test_output_to_a_closed_pipe_ends_as_by_its_signal(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = process(PRINTS, tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_messages_that_cannot_be_written_change_no_exit_code(tmp_path):
    with open("/dev/full", "w") as full:
        assert process(PRINTS, tmp_path, stdout=full, stderr=full).returncode == 3


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_no_file_takes_the_place_of_a_closed_stream(closed, tmp_path):
    done = process(WRITES, tmp_path, stderr=None, preexec_fn=lambda: [os.close(number) for number in closed])
    assert done.returncode == 0
    assert (tmp_path / "weights").read_bytes() == b""


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    done = process(GONE, tmp_path)
    message = "error: the working directory cannot be used (No such file or directory): change to another one\n"
    assert (done.returncode, done.stderr) == (2, message)


EXITS = """
import sys

from mdistiller_dfpt import SCHEDULES


@SCHEDULES.register("exits")
def exits(progress, plan):
    if progress >= 1:
        sys.exit(0)
    return plan.lr
"""


def test_a_plugin_that_exits_has_not_succeeded(tmp_path, capsys, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exits.py").write_text(EXITS)
    words = ["PLUGINS", "[exits.py]", "SOLVER.SCHEDULE", "exits", "LOG.TENSORBOARD", "False", "LOG.PREFIX", "out"]
    assert train.main(["--cfg", "digits/vanilla/res8", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "exits.py:10: SystemExit: 0" in error
    assert not list(tmp_path.rglob("results.json"))
