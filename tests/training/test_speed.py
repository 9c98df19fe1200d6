"""SOLVER.SPEED auto and SOLVER.AMP fastest: what is faster here is chosen once, printed, and kept with the run."""

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config.effect import without_effect
from mdistiller_dfpt.distillers.choice import situation
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.evaluate_checkpoint import evaluate_checkpoint
from mdistiller_dfpt.launch.run import config_of, run
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller, tiny_networks
from mdistiller_dfpt.training import speed
from mdistiller_dfpt.training.speed import asked_for, fast_settings, speed_line

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
    monkeypatch.setattr(speed, "has_bfloat16", lambda: True)
    monkeypatch.setattr(speed, "_found", {})

    def say(teacher, student):
        asked = []
        speed._found.clear()

        def seconds(network, image, dtype, learns):
            asked.append(learns)
            return 0.01 if ("none" if dtype is None else "bf16") == (student if learns else teacher) else 0.02

        monkeypatch.setattr(speed, "_seconds", seconds)
        return asked

    return say


@pytest.mark.parametrize(("networks", "of_student", "teacher", "student", "expected"), CHOICES)
def test_each_network_gets_its_faster_precision(networks, of_student, teacher, student, expected, faster_in, capsys):
    asked = faster_in(teacher, student)
    cfg = tiny_cfg("SOLVER.AMP", networks, "SOLVER.AMP_STUDENT", of_student)
    chosen = fast_settings(cfg, *tiny_networks(), tiny_data()).SOLVER
    pair = (chosen.AMP, chosen.AMP_STUDENT)
    assert pair == expected
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(asked)), "one line per benchmarked network"
    assert all("a batch of 16 here: float32 " in line for line in lines)


def test_a_case_is_measured_once_in_a_process(faster_in, capsys):
    asked = faster_in("bf16", "none")
    for _ in range(2):
        fast_settings(tiny_cfg("SOLVER.AMP", "fastest"), *tiny_networks(), tiny_data())
    assert len(asked) == 2 * 2 * (speed.ROUNDS + 1), "once each"
    assert len(capsys.readouterr().out.splitlines()) == 2
    fast_settings(tiny_cfg("SOLVER.AMP", "fastest", "SOLVER.BATCH_SIZE", "8"), *tiny_networks(), tiny_data())
    assert len(asked) == 4 * 2 * (speed.ROUNDS + 1), "another batch is another case"


def test_what_is_measured_is_a_micro_batch(faster_in, capsys):
    faster_in("bf16", "bf16")
    words = ("SOLVER.AMP", "fastest", "SOLVER.ACCUMULATE", "4")
    fast_settings(tiny_cfg(*words), *tiny_networks(), tiny_data())
    assert "a batch of 4 here: " in capsys.readouterr().out


@pytest.mark.parametrize(("key", "value"), [("SPEED", "auto"), ("AMP", "fastest"), ("AMP_STUDENT", "fastest")])
def test_a_program_of_its_own_is_told_that_nothing_is_measured_there(key, value):
    with pytest.raises(ConfigError, match="measured by `train` and `md.run`; a program of its own sets SOLVER.AMP"):
        tiny_distiller("KD", f"SOLVER.{key}", value)


def test_a_choice_of_compilation_is_dropped_where_no_compiler_is(faster_in, monkeypatch, capsys):
    faster_in("bf16", "bf16")
    monkeypatch.setattr(speed, "cpp_compiler", lambda: None)
    monkeypatch.setattr(speed, "_chosen_before", lambda run: speed.Settings("bf16", None, True))
    cfg = fast_settings(tiny_cfg("SOLVER.SPEED", "auto"), *tiny_networks(), tiny_data(), before=ROOT)
    assert (cfg.SOLVER.AMP, cfg.SOLVER.COMPILE) == ("bf16", False)
    assert "SOLVER.COMPILE False from here on, as this machine has no C++ compiler" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, []),
        ({"SOLVER.AMP": "bf16"}, []),
        ({"SOLVER.AMP": "fastest"}, ["SOLVER.AMP", "fastest", "SOLVER.AMP_STUDENT", ""]),
        ({"SOLVER.AMP_STUDENT": "fastest"}, ["SOLVER.AMP", "none", "SOLVER.AMP_STUDENT", "fastest"]),
    ],
)
def test_what_was_chosen_for_a_run_is_not_what_it_was_asked_for(asked, words):
    assert asked_for(asked) == words


def test_without_a_teacher_the_student_decides(faster_in):
    faster_in("none", "bf16")
    chosen = fast_settings(tiny_cfg("SOLVER.AMP", "fastest"), tiny_networks()[0], None, tiny_data()).SOLVER
    assert (chosen.AMP, chosen.AMP_STUDENT) == ("bf16", None)


def test_on_a_cpu_without_bfloat16_only_float32_is_a_candidate(faster_in, monkeypatch, capsys):
    faster_in("bf16", "bf16")
    monkeypatch.setattr(speed, "has_bfloat16", lambda: False)
    chosen = fast_settings(tiny_cfg("SOLVER.AMP", "fastest"), *tiny_networks(), tiny_data()).SOLVER
    assert (chosen.AMP, chosen.AMP_STUDENT) == ("none", None)
    assert "as this CPU has no bfloat16 instructions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("epochs", "compiler", "compiled", "why"),
    [  # three steps an epoch; teacher and student take 0.01 s a step each
        (30_001, "g++", True, "as the steps of this run take 30 min 00 s or more"),
        (28_000, "g++", False, "28 min 00 s or more, too little for compilation to pay"),
        (30_001, None, False, "there is no C++ compiler"),
    ],
)
def test_speed_auto_sets_precision_and_compiles_a_run_that_is_long(
    epochs, compiler, compiled, why, faster_in, monkeypatch, capsys
):
    faster_in("bf16", "none")
    monkeypatch.setattr(speed, "cpp_compiler", lambda: compiler)
    cfg = tiny_cfg("SOLVER.SPEED", "auto", "SOLVER.EPOCHS", str(epochs))
    chosen = fast_settings(cfg, *tiny_networks(), tiny_data()).SOLVER
    assert (None, "bf16", "none", compiled) == (chosen.SPEED, chosen.AMP, chosen.AMP_STUDENT, chosen.COMPILE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"SOLVER.SPEED auto: SOLVER.COMPILE {compiled}, as ")
    assert lines[-1].endswith(why)


def test_keys_that_speed_auto_sets_have_no_effect_of_their_own():
    cfg = tiny_cfg("SOLVER.SPEED", "auto", "SOLVER.AMP", "bf16", "SOLVER.COMPILE", "True")
    assert without_effect(situation(cfg, in_files=False)) == [
        "SOLVER.AMP bf16 has no effect here: SOLVER.SPEED is auto",
        "SOLVER.COMPILE True has no effect here: SOLVER.SPEED is auto",
    ]


@pytest.mark.parametrize(
    ("words", "bfloat16", "line"),
    [
        ((), True, "float32, not compiled, 1 thread; faster here: SOLVER.AMP bf16, SOLVER.COMPILE True"),
        (("SOLVER.AMP", "bf16"), True, "bfloat16, not compiled, 1 thread; faster here: SOLVER.COMPILE True"),
        (("SOLVER.COMPILE", "True"), False, "float32, compiled, 1 thread"),
        (("SOLVER.AMP", "bf16", "SOLVER.AMP_STUDENT", "none", "SOLVER.COMPILE", "True"), True,
         "bfloat16 (student float32), compiled, 1 thread"),
    ],
)  # fmt: skip
def test_one_line_says_how_a_run_computes_and_what_is_faster(words, bfloat16, line, monkeypatch):
    monkeypatch.setattr(speed, "has_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(speed, "cpp_compiler", lambda: "g++")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cfg, cpu = tiny_cfg(*words), torch.device("cpu")
    assert speed_line(cfg, cpu, measured=True) == f"speed: {line.partition(';')[0]}"
    said = speed_line(cfg, cpu, measured=False)
    assert said == f"speed: {line}" + (" (SOLVER.SPEED auto measures it)" if ";" in line else "")


def test_measuring_leaves_networks_and_random_numbers_as_they_were():
    networks = tiny_networks()
    networks[0].train()
    before, state = [state_hash(n.state_dict()) for n in networks], torch.get_rng_state()
    chosen = fast_settings(tiny_cfg("SOLVER.AMP", "fastest"), *networks, tiny_data()).SOLVER
    assert chosen.AMP in ("none", "bf16")
    assert [state_hash(n.state_dict()) for n in networks] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in networks[0].parameters())
    assert (networks[0].training, networks[1].training) == (True, False)


@pytest.mark.parametrize("setting", [("SOLVER.AMP", "fastest"), ("SOLVER.SPEED", "auto")])
def test_a_resumed_run_and_an_evaluation_keep_what_was_chosen(setting, faster_in, tmp_path):
    words = ["LOG.PREFIX", str(tmp_path), "LOG.TENSORBOARD", "False", *setting, "EXPERIMENT.DEVICE", "cpu",
             "SOLVER.BATCH_SIZE", "256"]  # fmt: skip

    def digits(epochs):
        return load_cfg(ROOT / "configs/digits/vanilla/res8.yaml", [*words, "SOLVER.EPOCHS", str(epochs)])

    faster_in("bf16", "bf16")
    assert run(digits(1))["protocol"]["precision"] == "bf16"
    asked = faster_in("none", "none")
    folder = tmp_path / "digits/vanilla/res8/seed1"
    assert config_of(folder, []).SOLVER[setting[0].partition(".")[2]] == setting[1]
    resumed = run(digits(2), resume=folder)
    assert (resumed["protocol"]["precision"], len(resumed["epochs"])) == ("bf16", 2)
    found = evaluate_checkpoint(digits(2), "student", folder)
    assert found.top1 == resumed["final"]["top1"]["last"]
    assert asked == []
    (folder / "config.yaml").write_text("SOLVER: [", encoding="utf-8")
    evaluate_checkpoint(digits(2), "student", found.weights)
    assert asked, "an unreadable file of a run is ignored"
