"""Prompts before the stages of a teacher, and the feedback that they get."""

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.prompted import Gate, Prompt, Prompted
from mdistiller_dfpt.testing import (
    changed,
    check_teacher,
    snapshot,
    take_steps,
    tiny_batch,
    tiny_distiller,
    tiny_teacher,
)

from ..tiny_runs import outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "prompted")
SHAPES = [(6, 8, 8), (12, 4, 4), (12, 2, 2)]


def awake(teacher):
    """The teacher, with prompts that change its maps: their scale is zero at first, and a narrow gate may be shut."""
    for prompt in teacher.prompts:
        torch.nn.init.constant_(prompt.beta, 0.5)
        for gate in (m for m in prompt.modules() if isinstance(m, Gate)):
            torch.nn.init.constant_(gate.compress.bias, 2.0)
    return teacher


def test_at_first_the_prompted_path_is_the_teacher():
    paths = tiny_teacher(Prompted)(tiny_batch())
    for key in ("feats", "pooled_feat"):
        torch.testing.assert_close(paths["prompted"].features[key], paths["teacher"].features[key])
    assert torch.equal(paths["prompted"].logits, paths["teacher"].logits)


def test_a_prompt_is_one_number_per_sample_and_channel():
    torch.manual_seed(0)
    prompt, x = Prompt(8, 0), torch.randn(4, 8, 5, 5)
    torch.nn.init.ones_(prompt.beta)
    added = prompt(x, None) - x
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(x), atol=1e-6, rtol=1e-4)
    assert added.std() > 0


def test_maps_are_those_of_the_stages_before_the_next_prompt():
    """The stem has no prompt before it, and its map is the teacher's."""
    teacher = awake(tiny_teacher(Prompted))
    paths = teacher(tiny_batch())
    plain, prompted = (paths[path].features["feats"] for path in ("teacher", "prompted"))
    assert torch.equal(prompted[0], plain[0])
    layer = teacher.network.stages()[1]
    torch.testing.assert_close(prompted[1], layer(teacher.prompts[0](plain[0], None))[0])
    assert not torch.allclose(prompted[3], plain[3])


def test_feedback_arrives_in_the_next_step_and_is_in_the_state():
    teacher, batch = awake(tiny_teacher(Prompted, feedback=SHAPES, rows=16)), tiny_batch()
    first = teacher(batch)["prompted"].logits
    given = [torch.randn(8, *shape) for shape in SHAPES]
    teacher.give_feedback(given, 8)
    assert torch.equal(teacher(batch)["prompted"].logits, first)
    teacher.after_step(batch)
    second = teacher(batch)["prompted"].logits
    assert not torch.equal(second, first)
    assert torch.equal(teacher.feedback1[:8], given[1])
    assert (teacher.feedback1[8:] == 0).all()
    resumed = tiny_teacher(Prompted, feedback=SHAPES, rows=16)
    resumed.load_state_dict(teacher.state_dict())
    # BatchNorm over the feedback has running statistics, which each call moves, but uses those of the batch
    torch.testing.assert_close(resumed(batch)["prompted"].logits, second)


def test_beside_other_methods_the_prompts_learn_from_the_students_logits():
    distiller = tiny_distiller("KD", *KIND)
    before = snapshot(distiller.teacher)
    terms = distiller(tiny_batch())[1]
    assert {name for name, term in terms.items() if term.kind == "teacher"} == {"prompt_reg", "prompt_student"}
    take_steps(distiller, 3)
    moved = {key.split(".")[0] for key in changed(before, distiller.teacher.state_dict())}
    assert moved == {"prompts"}


@pytest.mark.parametrize("values", [{"reg_weight": 0.0}, {"logit_loss": "DIST", "temperature": 4.0}])
def test_the_laws_hold_for_other_values(values):
    check_teacher(Prompted, **values)


@pytest.mark.parametrize("words", [("KD", *KIND), ("AT", *KIND), ("PAT",), ("[PAT, SP]",)])
def test_a_resumed_run_equals_an_unbroken_one(words, tmp_path):
    name, *more = words
    name = name.strip("[]").replace(", ", "+")
    expected = outcome(run_of(name, tmp_path / "whole", "SOLVER.EPOCHS", "3", *more))
    stopped_after(1, name, tmp_path / "again", *more)
    assert outcome(run_of(name, tmp_path / "again", "SOLVER.EPOCHS", "3", *more), resume=True) == expected


def test_what_cannot_be_trained_or_measured_is_refused():
    with pytest.raises(ConfigError, match="PROMPTED.LOSS.REG_WEIGHT and LOSS.STUDENT_WEIGHT are 0"):
        tiny_distiller("KD", *KIND, "PROMPTED.LOSS.REG_WEIGHT", "0.0", "PROMPTED.LOSS.STUDENT_WEIGHT", "0.0")
    with pytest.raises(ConfigError, match="FT trains its paraphraser on the path 'prompted' before the first step"):
        tiny_distiller("FT", *KIND)
