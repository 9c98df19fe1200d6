"""docs/reproduce.md and the Python of README.md as printed; what needs CIFAR-100 is not run."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from .pages import checkout
from .test_house import ROOT

PAGE = (ROOT / "docs/reproduce.md").read_text()
BLOCKS = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S)).replace("\\\n", " ")
COMMANDS = [line.partition("   #")[0] for line in BLOCKS.splitlines() if line.strip()]
SHORT = "SOLVER.EPOCHS 1 LOG.TENSORBOARD False EXPERIMENT.THREADS 1 --seeds 1 --rows dfptkd"
FAMILY = "python tools/table.py --table configs/tables/cifar100_same_family.yaml --rows kd"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkout with the page's table in it."""
    return checkout(tmp_path_factory.mktemp("checkout"), PAGE, ("configs", "tools", "results"))


def printed(words, root):
    """What a Python command prints; it must succeed."""
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("start", "more", "expected"),
    [
        ("python tools/table.py --table configs/tables/study.yaml", "", r"DFPT-KD, 1 / 4 \+ 4 \|.*52\.88 ± 0\.07"),
        (f"{FAMILY} dkd", "", r"Missing \(3 of 3 cells\)"),
        (f"{FAMILY} dfptkd", "", r"\[2/2\] .* ok"),
        ("python tools/table.py --table mine/digits.yaml --run", SHORT, r"DFPT-KD, 1 / 4 \+ 4 \| 8 \|"),
    ],
)
def test_a_command_runs_as_it_is_printed(start, more, expected, root):
    command = next(line for line in COMMANDS if line.startswith(start))
    assert re.search(expected, printed([*shlex.split(command)[1:], *more.split()], root))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert "top-1 %" in printed(["-c", f"{code}\nassert results['final']['top1']['last'] > 0"], tmp_path)
