"""The laws of all methods; every registered method is tested here."""

import copy

import pytest
import torch

from mdistiller_dfpt.distillers import DISTILLERS, build_distiller
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import DISTILLER_LAWS, take_steps, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks


@pytest.mark.parametrize("law", DISTILLER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", sorted(DISTILLERS))
def test_every_method_obeys_the_laws(name, law):
    law(DISTILLERS[name])


@pytest.mark.parametrize("change", ["missing", "unexpected", "of different shape"])
def test_a_training_state_of_something_else_is_refused(change):
    distiller = tiny_distiller("KD")
    take_steps(distiller, 1)
    state = copy.deepcopy(distiller.training_state())
    if change == "missing":
        del state["student.fc.bias"]
    elif change == "unexpected":
        state["nobody"] = torch.zeros(1)
    else:
        state["student.fc.bias"] = torch.zeros(99)
    with pytest.raises(RuntimeError, match=rf"{change} \['(student.fc.bias|nobody)'\]"):
        distiller.load_training_state(state)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SOLVER.AMP", "bf16", "SOLVER.AMP_STUDENT", "none"], (torch.float32, torch.bfloat16)),
        (["SOLVER.AMP_STUDENT", "bf16"], (torch.bfloat16, torch.float32)),
        (["SOLVER.AMP", "bf16"], (torch.bfloat16, torch.bfloat16)),
    ],
)
def test_the_student_has_a_precision_of_its_own(words, expected):
    distiller, seen = tiny_distiller("KD", *words), []
    for network in (distiller.student, distiller.teacher.network):
        network.conv1.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    distiller(tiny_batch())
    assert tuple(seen) == expected


def test_an_unknown_method_names_the_closest():
    with pytest.raises(ConfigError, match="unknown method 'DFTPKD'; did you mean DFPTKD"):
        DISTILLERS["DFTPKD"]


def test_a_method_that_needs_a_teacher_asks_for_one():
    with pytest.raises(ConfigError, match="DISTILLER.TYPE is KD; it needs a teacher: set DISTILLER.TEACHER"):
        build_distiller(tiny_cfg("DISTILLER.TYPE", "KD"), tiny_networks()[0], None, 48)
