"""docs/extend.md as printed: its files are written and its commands run; errors in user code name the user's file."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from mdistiller_dfpt.commands import train, trust

from .pages import files_of
from .test_house import ROOT

PAGE = (ROOT / "docs/extend.md").read_text()
FILES = files_of(PAGE)
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S) for line in block.splitlines()]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder, outside of any checkout, with the page's files in it."""
    folder = tmp_path_factory.mktemp("anywhere")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_page_needs_no_checkout():
    assert not re.search(r"\btools/|configs/", "\n".join([*COMMANDS, *FILES.values()]))


SHORT = ["SOLVER.EPOCHS", "1", "LOG.PREFIX", "out", "LOG.TENSORBOARD", "False", "EXPERIMENT.THREADS", "1"]


def test_the_page_shows_every_file_that_its_commands_name():
    assert len(COMMANDS) >= 9
    assert {name for line in COMMANDS for name in re.findall(r"mine/[\w.]+", line)} <= set(FILES)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_as_it_is_printed(command, root, monkeypatch, capsys, registries):
    monkeypatch.chdir(root)
    words = shlex.split(command)
    if words[0] == "mdistiller-dfpt":
        command, more = {"train": (train, SHORT), "trust": (trust, [])}[words[1]]
        assert command.main([*words[2:], *more]) == 0, capsys.readouterr().err
    else:
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr


def changed(root, name, old, new):
    """One of the page's files with an error in it, and the yaml file that names it."""
    source, stem = FILES[f"mine/{name}.py"], f"{name}_{abs(hash(new)) % 10**8}"
    assert old in source
    (root / "mine" / f"{stem}.py").write_text(source.replace(old, new))
    yaml = root / "mine" / f"{stem}.yaml"
    yaml.write_text(FILES[f"mine/{name}.yaml"].replace(f"./{name}.py", f"./{stem}.py"))
    return stem, yaml


MISTAKES = [
    ("my_kd", "F.mse_loss(student, teacher)", "student @ teacher", r":11: RuntimeError: .* \(an error in this file"),
    ("my_kd", "return F.mse_loss(student, teacher)", "raise ValueError('no')", r":11: ValueError: no"),
    ("my_kd", "*, weight)", "*, wait)",
     r":14: MyKD: its constructor and the keys of its config section do not match .*'weight'"),
    ("my_kd", "F.mse_loss(student, teacher)", "(student - teacher).pow(2)", r":14: MyKD: .*'mine'.*scalar"),
    ("my_kd", "distillation(my_loss(student.logits, teacher.logits), self.weight)", "student.logits.mean()",
     r":14: MyKD: the term 'mine' is a Tensor; write label"),
    ("my_kd", "    needs_teacher_maps = False", "    limits = {'WAIT': 0}", r"a limit is given for 'WAIT'; .*WEIGHT"),
    ("my_noisy", "return Paths({ORIGINAL: lambda: noisy})", "return noisy.logits",
     r":10: MyNoisy: `forward` returned Tensor; it must return"),
    ("my_noisy", "return Paths({ORIGINAL: lambda: noisy})", "return {ORIGINAL: noisy.logits}",
     r":10: MyNoisy: `forward` returned Tensor as 'teacher'; it must be an Output"),
    ("my_net", "return [lambda", "return None and [lambda", r"my_net cannot take images|TypeError"),
    ("my_net", "self.fc = nn.Linear(32, num_classes)", "self.fc = nn.Linear(32, 7)",
     r"my_net returns logits of shape \(1, 7\) for one image; it must return logits of shape \(1, 10\)"),
    ("my_data", "pixels[labels == 0, 4:12, 4:12] += 150", "pixels[99, 99, 99, 99, 99] = 1", r":14: IndexError"),
    ("my_augmentations", ".round().clamp(0, 255).to(torch.uint8)", "",
     r":10: MyShade: `augment` returned \(2, 3, 16, 16\) torch.float32 for images .* torch.uint8; it must return"),
    ("my_augmentations", "self.transform(picture)", "picture.resize((8, 8))",
     r":24: MyTrivial: `augment_picture` returned a picture of \(8, 8\) for a picture of \(16, 16\)"),
    ("my_augmentations", "numbers.uniform(2)", "numbers.unifrom(2)", r":19: AttributeError: .*unifrom"),
    ("my_augmentations", "*, probability, depth)", "*, probability)",
     r":10: MyShade: its constructor and the keys of its config section do not match .*'depth'"),
    ("my_solver", "return plan.lr * (1 - progress / plan.epochs)", "return 'slow'",
     r":14: my_linear: returned 'slow' after 0 epochs; a schedule must return a learning rate"),
    ("my_solver", "return torch.optim.RMSprop(", "torch.optim.RMSprop(",
     r":8: my_rmsprop: returned NoneType; it must return a torch.optim.Optimizer"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), MISTAKES, ids=lambda v: None)
def test_a_mistake_in_the_users_file_names_that_file_and_line(name, old, new, message, root, monkeypatch, capsys,
                                                              registries):  # fmt: skip
    monkeypatch.chdir(root)
    stem, yaml = changed(root, name, old, new)
    assert train.main(["--cfg", str(yaml), *SHORT]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert "bug" not in error
    if not message.startswith("my_net"):
        assert f"{stem}.py" in error
