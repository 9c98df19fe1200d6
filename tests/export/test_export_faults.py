"""The command `export` on a full disk and at a signal: one line, and nothing is left."""

import contextlib
import errno
import io
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt.commands import export
from mdistiller_dfpt.commands.export import main
from mdistiller_dfpt.errors import UserError
from mdistiller_dfpt.export import FORMATS, verify
from mdistiller_dfpt.export.verify import published

from ..forks import forked
from ..launch.test_student import trained
from .test_library_files import library_run

LIBRARIES = {
    "timm": ("timm/vit_tiny_patch16_224(depth=1, embed_dim=16, num_heads=2)",),
    "torchvision": ("torchvision/squeezenet1_1", "DATASET.SIZE", "64"),
}
NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "timm": ("timm",)}


def run_for(format_, folder):
    """The directory of a finished run on the digits, of a network that can be written in this format."""
    for name in NEEDED.get(format_, ()):
        pytest.importorskip(name)
    words = LIBRARIES.get(format_)
    return library_run(folder, *words) if words else trained(folder, "SOLVER.EPOCHS", "1")[1]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_full_disk_is_one_line_that_names_the_target_and_nothing_is_left(format_, tmp_path):
    run, place = run_for(format_, tmp_path / "runs"), tmp_path / "place"
    target = place / f"made{FORMATS[format_].ending}"

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            return main([str(run), "--to", format_, "-o", str(target)]), said.getvalue()

    ended, (code, said) = forked(full)
    assert (ended, code) == (0, 3), said
    assert said.startswith(f"error: {target}: cannot be written (")
    assert "ile too large" in said
    assert said.count("\n") == 1
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_for("safetensors", tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("format_", ["onnx", "torch-export", "hub-folder"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_is_one_line_and_leaves_nothing(number, format_, run, tmp_path, capsys, monkeypatch):
    """Also within PyTorch's exporters, which an exception would end with the process."""
    for name in NEEDED.get(format_, ()):
        pytest.importorskip(name)
    where, name = (export, "verified") if format_ == "hub-folder" else (torch.export, "export")
    plain = getattr(where, name)

    def signalled(*args, **kwargs):
        os.kill(os.getpid(), number)
        return plain(*args, **kwargs)

    monkeypatch.setattr(where, name, signalled)
    target = tmp_path / f"made{FORMATS[format_].ending}"
    assert main([str(run), "--to", format_, "-o", str(target)]) == 128 + number
    assert capsys.readouterr() == ("", "interrupted; repeat the same command to go on\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_weights_has_the_ending_by_which_it_is_read(run, tmp_path, capsys):
    assert main([str(run), "--to", "safetensors", "-o", str(tmp_path / "a.out")]) == 2
    assert "-o a.out: a file of weights is known by its ending: name it a.safetensors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


NAMES = ("README.md", "config.json", "model.safetensors")


def put(folder, text):
    """Publish a model of three files, each with this text, into a folder."""
    with published(folder) as part:
        part.mkdir()
        for name in NAMES:
            (part / name).write_text(text)


def exported(folder):
    """A folder with an earlier model and a file of the user's."""
    put(folder, "old")
    (folder / "own.txt").write_text("own")
    return folder


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def at_rename(number, act):
    """Call `act` before the given rename of this process."""
    rename, count = os.rename, []

    def counted(*paths):
        count.append(1)
        if len(count) == number:
            act()
        rename(*paths)

    os.rename = counted


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", range(1, 7))
def test_a_kill_within_the_replacement_of_a_folder_leaves_no_mix_of_two_models(number, tmp_path):
    folder = exported(tmp_path / "model")

    def killed():
        at_rename(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        put(folder, "new")

    assert forked(killed)[0] == signal.SIGKILL
    found = contents(folder)
    assert found.pop("own.txt") == "own"
    assert "config.json" not in found or set(found.values()) == {"old"}, "libraries know a model by its config"
    put(folder, "new")
    assert contents(folder) == dict.fromkeys(NAMES, "new") | {"own.txt": "own"}
    (left,) = (path for path in folder.iterdir() if path.is_dir())
    os.utime(left, (0, 0))
    put(folder, "new")
    assert not left.exists()


@pytest.mark.parametrize("number", range(1, 7))
def test_a_disk_that_fails_within_the_replacement_of_a_folder_leaves_the_earlier_model(number, tmp_path):
    folder = exported(tmp_path / "model")

    def failing():
        at_rename(number, full)
        try:
            put(folder, "new")
        except UserError as e:
            return str(e)

    ended, said = forked(failing)
    assert ended == 0
    assert said.startswith(f"{folder}: cannot be written (No space left on device")
    assert contents(folder) == dict.fromkeys(NAMES, "old") | {"own.txt": "own"}
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_a_signal_within_the_replacement_of_a_folder_is_heard_behind_it(tmp_path):
    folder = exported(tmp_path / "model")

    def interrupted():
        at_rename(4, lambda: signal.raise_signal(signal.SIGINT))
        with contextlib.suppress(KeyboardInterrupt):
            put(folder, "new")
            return "it was not heard"

    assert forked(interrupted) == (0, None)
    assert contents(folder) == dict.fromkeys(NAMES, "new") | {"own.txt": "own"}


def test_what_an_export_writes_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(verify, "flush", lambda path: done.append(("flush", path.name)))
    monkeypatch.setattr(Path, "replace", lambda self, path: done.append(("replace", path.name)))
    with published(tmp_path / "model.onnx") as part:
        part.write_bytes(b"")
    assert done == [("flush", "model.onnx"), ("replace", "model.onnx"), ("flush", tmp_path.name)]
