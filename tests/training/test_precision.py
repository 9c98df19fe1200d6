"""SOLVER.AMP fastest: each network runs in its faster precision, chosen once, printed, and kept with the run."""

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.launch.evaluate_checkpoint import evaluate_checkpoint
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_networks
from mdistiller_dfpt.training import precision
from mdistiller_dfpt.training.precision import measured_precision

from ..test_house import ROOT

CHOICES = [
    # SOLVER.AMP, SOLVER.AMP_STUDENT, the faster precision of teacher and student, the resulting values of the two keys
    ("fastest", "", "bf16", "none", ("bf16", "none")),
    ("fastest", "", "none", "bf16", ("none", "bf16")),
    ("fastest", "", "bf16", "bf16", ("bf16", None)),
    ("fastest", "fastest", "bf16", "none", ("bf16", "none")),
    ("fastest", "bf16", "none", "none", ("none", "bf16")),
    ("bf16", "fastest", "none", "none", ("bf16", "none")),
    ("bf16", "fastest", "none", "bf16", ("bf16", None)),
    ("none", "", "bf16", "bf16", ("none", None)),
]


@pytest.fixture
def faster_in(monkeypatch):
    """Sets the faster precision of each network, identified by whether it is trained."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_found", {})

    def say(teacher, student):
        asked = []
        precision._found.clear()

        def seconds(network, image, dtype, learns):
            asked.append(learns)
            return 0.01 if ("none" if dtype is None else "bf16") == (student if learns else teacher) else 0.02

        monkeypatch.setattr(precision, "_seconds", seconds)
        return asked

    return say


@pytest.mark.parametrize(("networks", "of_student", "teacher", "student", "expected"), CHOICES)
def test_each_network_gets_its_faster_precision(networks, of_student, teacher, student, expected, faster_in, capsys):
    asked = faster_in(teacher, student)
    cfg = tiny_cfg("SOLVER.AMP", networks, "SOLVER.AMP_STUDENT", of_student)
    chosen = measured_precision(cfg, *tiny_networks(), tiny_data()).SOLVER
    pair = (chosen.AMP, chosen.AMP_STUDENT)
    assert pair == expected
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(asked)), "one line per benchmarked network"
    assert all("a batch of 16 here: float32 " in line for line in lines)


def test_a_case_is_measured_once_in_a_process(faster_in, capsys):
    asked = faster_in("bf16", "none")
    for _ in range(2):
        measured_precision(tiny_cfg("SOLVER.AMP", "fastest"), *tiny_networks(), tiny_data())
    assert len(asked) == 2 * 2 * (precision.ROUNDS + 1), "once each"
    assert len(capsys.readouterr().out.splitlines()) == 2
    measured_precision(tiny_cfg("SOLVER.AMP", "fastest", "SOLVER.BATCH_SIZE", "8"), *tiny_networks(), tiny_data())
    assert len(asked) == 4 * 2 * (precision.ROUNDS + 1), "another batch is another case"


def test_without_a_teacher_the_student_decides(faster_in):
    faster_in("none", "bf16")
    chosen = measured_precision(tiny_cfg("SOLVER.AMP", "fastest"), tiny_networks()[0], None, tiny_data()).SOLVER
    assert (chosen.AMP, chosen.AMP_STUDENT) == ("bf16", None)


def test_a_cpu_without_bfloat16_is_not_benchmarked(monkeypatch, capsys):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    monkeypatch.setattr(precision, "_seconds", None)
    chosen = measured_precision(tiny_cfg("SOLVER.AMP", "fastest"), *tiny_networks(), tiny_data()).SOLVER
    assert (chosen.AMP, chosen.AMP_STUDENT) == ("none", None)
    assert "as this CPU has no bfloat16 instructions" in capsys.readouterr().out


def test_measuring_leaves_networks_and_random_numbers_as_they_were():
    networks = tiny_networks()
    networks[0].train()
    before, state = [state_hash(n.state_dict()) for n in networks], torch.get_rng_state()
    chosen = measured_precision(tiny_cfg("SOLVER.AMP", "fastest"), *networks, tiny_data()).SOLVER
    assert chosen.AMP in ("none", "bf16")
    assert [state_hash(n.state_dict()) for n in networks] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in networks[0].parameters())
    assert (networks[0].training, networks[1].training) == (True, False)


def test_a_resumed_run_and_an_evaluation_keep_what_was_chosen(faster_in, tmp_path, capsys):
    words = ["LOG.PREFIX", str(tmp_path), "LOG.TENSORBOARD", "False", "SOLVER.AMP", "fastest", "EXPERIMENT.DEVICE",
             "cpu", "SOLVER.BATCH_SIZE", "256"]  # fmt: skip

    def digits(epochs):
        return load_cfg(ROOT / "configs/digits/vanilla/res8.yaml", [*words, "SOLVER.EPOCHS", str(epochs)])

    faster_in("bf16", "bf16")
    assert run(digits(1))["protocol"]["precision"] == "bf16"
    asked = faster_in("none", "none")
    folder = tmp_path / "digits/vanilla/res8/seed1"
    resumed = run(digits(2), resume=folder)
    assert (resumed["protocol"]["precision"], len(resumed["epochs"])) == ("bf16", 2)
    found = evaluate_checkpoint(digits(2), "student", folder)
    assert found.top1 == resumed["final"]["top1"]["last"]
    assert asked == []
    (folder / "config.yaml").write_text("SOLVER: [", encoding="utf-8")
    evaluate_checkpoint(digits(2), "student", found.weights)
    assert asked, "an unreadable file of a run is ignored"
