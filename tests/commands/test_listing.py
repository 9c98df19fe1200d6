"""`list` prints everything that a config can name, and runs with their states."""

import json

import pytest

from mdistiller_dfpt import AUGMENTATIONS, DATASETS, DISTILLERS, MODELS, OPTIMIZERS, SCHEDULES, TEACHERS
from mdistiller_dfpt.commands.listing import main
from mdistiller_dfpt.config.keys import KEYS

from ..tiny_runs import fit, run_of


def listed(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", DISTILLERS),
        ("teachers", TEACHERS),
        ("data", DATASETS),
        ("augmentations", AUGMENTATIONS),
        ("optimisers", OPTIMIZERS),
        ("schedules", SCHEDULES),
        ("keys", KEYS),
    ],
)
def test_all_names_are_listed_with_a_word_about_each(what, names, capsys):
    lines = listed(capsys, what)
    assert [line.split()[0] for line in lines] == (list(names) if what == "keys" else sorted(names))
    assert all(len(line.split()) > 1 for line in lines)


def test_networks_of_other_libraries_are_listed_too(capsys):
    names = listed(capsys, "networks")
    assert set(MODELS) < set(names)
    assert {"torchvision/resnet18", "timm/resnet18"} < set(names)


def test_a_key_has_its_default_its_limit_and_its_meaning(capsys):
    (line,) = listed(capsys, "keys", "solver.lr_decay_rate")
    assert line == "SOLVER.LR_DECAY_RATE  0.1 (in (0, 1])  the factor of each decay"


def test_names_are_restricted_by_a_part_or_a_pattern(capsys):
    assert listed(capsys, "configs", "digits/dfptkd/") == ["digits/dfptkd/res20_res8"]
    assert [line.split()[0] for line in listed(capsys, "methods", "deepkd*")] == ["DEEPKD", "DEEPKD_CRLD"]
    assert main(["methods", "none_such"]) == 2
    assert capsys.readouterr().err == "error: list methods none_such: nothing matches\n"


def test_runs_are_listed_with_their_states(tmp_path, capsys):
    fit(run_of("KD", tmp_path, "EXPERIMENT.NAME", "kd"))
    (tmp_path / "kd/seed2").mkdir()
    (tmp_path / "kd/seed2/status.json").write_text(json.dumps({"state": "failed", "epoch": 3, "reason": "the disk"}))
    capsys.readouterr()
    lines = listed(capsys, "runs", str(tmp_path))
    assert lines[0].startswith("kd/seed1: finished, KD, top-1 ")
    assert lines[1] == "kd/seed2: failed after epoch 3: the disk"


def test_a_folder_without_runs(tmp_path, capsys):
    assert listed(capsys, "runs", str(tmp_path)) == ["no runs"]
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
