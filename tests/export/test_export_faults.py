"""The command `export` on a full disk: one line that names what was asked for, and nothing is left."""

import contextlib
import io
import resource
import signal

import pytest

from mdistiller_dfpt.commands.export import main
from mdistiller_dfpt.export import FORMATS

from ..forks import forked
from ..launch.test_student import trained
from .test_export import library_run

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
