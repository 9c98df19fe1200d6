"""The lane of random kills draws everything that there is, finds a planted loss, and repeats a case by its seed."""

import pytest
import torch

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.teachers import TEACHERS

from .cases import METHODS, OPTIONS, SIGNALS, Attempt, Case, draw
from .lane import Lane, another_run_began
from .processes import Fault

KILLED = (Attempt("none", 0, 1, (Fault("SIGKILL", "steps", 0.4),)), Attempt("auto", 0, 1))


def test_every_method_kind_of_teacher_option_and_signal_is_drawn():
    cases = [draw(seed) for seed in range(20 * len(METHODS))]
    assert cases == [draw(seed) for seed in range(20 * len(METHODS))]
    parts = {part for case in cases for part in case.parts}
    assert {case.method for case in cases} == set(DISTILLERS)
    assert {part[1] for part in parts if part[0] == "DISTILLER.TEACHER_KIND"} == set(TEACHERS)
    assert set(OPTIONS) <= parts
    attempts = [attempt for case in cases for attempt in case.attempts]
    assert {fault.signal for attempt in attempts for fault in attempt.faults} == set(SIGNALS)
    assert {attempt.resume for attempt in attempts} == {"none", "plain", "auto", "RUN"}


@pytest.mark.parametrize("saves", [True, False])
def test_a_state_that_a_method_forgets_to_save_is_a_loss(saves, registries, tmp_path):
    @DISTILLERS.register("FADING")
    class Fading(DISTILLERS["NONE"]):
        def __init__(self, student, **given):
            super().__init__(student, **given)
            self.register_buffer("weight", torch.ones(()), persistent=saves)

        def forward(self, batch):
            logits, terms = super().forward(batch)
            self.weight *= 0.5
            return logits, {name: term.times(self.weight.item()) for name, term in terms.items()}

    lane = Lane(tmp_path)
    _, wrong = lane.run(Case(0, "FADING", (), KILLED, in_files=False, trains_teacher=False))
    assert lane.report.faults == {"SIGKILL": 1}
    assert lane.report.count == {"cases": 1, "runs": 2, "losses or faults": int(not saves)}
    if saves:
        assert wrong == []
        return
    (line,) = wrong
    assert line.startswith("run/seed1 differs from the unbroken run in [")
    assert all(name in line for name in ("student.safetensors", "results.json", "state.pt: optimizer.state"))


def test_a_run_that_begins_behind_a_signal_is_told_from_the_one_that_it_stops():
    first = "speed: float32\nrun directory out/assistant\n"
    assert not another_run_began(f"{first}speed: float32\n", " after\nrun directory out/run\nerror: stopped")
    assert not another_run_began(first, " after\nerror: stopped")
    assert another_run_began(first, " after\nspeed: float32\nrun directory out/run\n")
