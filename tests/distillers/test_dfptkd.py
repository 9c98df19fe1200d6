"""DFPT-KD and DFPT-KD+: which terms reach which networks, every switch, what changes and what does not."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.dfptkd import dfptkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import changed, snapshot, take_steps, tiny_batch, tiny_distiller

from ..golden import labels, normal

PLUS = ("DFPTKD.FINETUNE_BACKBONE", "True")
ONES = {
    "ce": 1.0, "teacher_kd": 1.0, "prompt_kd": 1.0, "prompt_from_teacher": 1.0, "prompt_from_student": 1.0,
    "prompt_ce": 1.0,
}  # fmt: skip
STUDENT_TERMS, PROMPT_TERMS = ("ce", "kd_teacher", "kd_prompt"), ("prompt_teacher", "prompt_student", "prompt_ce")


def terms(student, teacher, prompt, **weights):
    return dfptkd_loss(student, teacher, prompt, labels(), LOGIT_LOSSES["KD"], 4.0, **{**ONES, **weights})


def test_the_terms_are_the_papers():
    s, t, p, y = normal(1), normal(2), normal(5), labels()
    found = terms(s, t, p, ce=2.0, teacher_kd=3.0, prompt_kd=5.0, prompt_from_teacher=7.0, prompt_from_student=11.0,
                  prompt_ce=13.0)  # fmt: skip
    expected = {
        "ce": 2 * F.cross_entropy(s, y), "kd_teacher": 3 * kd_loss(s, t, 4.0), "kd_prompt": 5 * kd_loss(s, p, 4.0),
        "prompt_teacher": 7 * kd_loss(p, t, 4.0), "prompt_student": 11 * kd_loss(p, s, 4.0),
        "prompt_ce": 13 * F.cross_entropy(p, y),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_no_gradient_crosses_between_student_and_prompt_path():
    s, t, p = (normal(seed).requires_grad_() for seed in (1, 2, 5))
    found = terms(s, t, p)

    def gradient(names, of):
        return torch.autograd.grad(sum(found[n] for n in names), of, retain_graph=True, allow_unused=True)[0]

    for names, own, others in ((STUDENT_TERMS, s, (t, p)), (PROMPT_TERMS, p, (t, s))):
        assert gradient(names, own).abs().sum() > 0
        assert all(gradient(names, other) is None for other in others)


def test_a_term_of_weight_zero_is_not_computed():
    assert set(terms(normal(1), normal(2), normal(5), prompt_kd=0.0, prompt_from_student=0.0)) == {
        "ce", "kd_teacher", "prompt_teacher", "prompt_ce",
    }  # fmt: skip


def test_without_prompt_terms_the_student_sees_plain_kd():
    """beta = 0 is KD, whatever the prompt path does: the same gradient on the student, bit for bit."""
    weights = ("DFPTKD.LOSS.PROMPT_WEIGHT", "0", "DFPTKD.LOSS.TEACHER_WEIGHT", "0.9", "DFPTKD.LOSS.CE_WEIGHT", "0.1")
    gradients = []
    for distiller in (tiny_distiller("DFPTKD", *weights), tiny_distiller("KD")):
        _, losses = distiller(tiny_batch())
        sum(losses.values()).backward()
        gradients.append([p.grad.clone() for p in distiller.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_at_the_teacher_start_with_running_statistics_both_kd_terms_are_equal():
    distiller = tiny_distiller("DFPTKD", "DFPTKD.BN", "running", "DFPTKD.INIT", "teacher")
    _, losses = distiller(tiny_batch())
    torch.testing.assert_close(losses["kd_teacher"], losses["kd_prompt"])
    assert abs(losses["prompt_teacher"].item()) < 1e-6


@pytest.mark.parametrize("variant", [(), PLUS])
def test_only_student_prompts_fusions_head_and_in_plus_the_copied_stages_change(variant):
    distiller = tiny_distiller("DFPTKD", *variant)
    before = snapshot(distiller)
    take_steps(distiller, 3)
    moved = set(changed(before, distiller.state_dict()))
    assert not [k for k in moved if k.startswith(("teacher.", "dual.teacher."))]
    allowed = ("student.", "dual.prompts.", "dual.fusions.", "dual.own.fc.")
    others = {k for k in moved if not k.startswith(allowed)}
    if variant:
        assert {k for k in before if k.startswith("dual.own.") and k.endswith("weight")} <= moved
    else:
        assert all("running" in k or k.endswith("num_batches_tracked") for k in others), others
    for prefix in allowed:
        assert any(k.startswith(prefix) for k in moved), f"nothing below {prefix} was trained"


def test_the_copied_stages_learn_at_their_own_rate():
    groups = tiny_distiller("DFPTKD", *PLUS, "DFPTKD.FINETUNE_LR_FACTOR", "0.01").parameter_groups()
    assert [g["lr_factor"] for g in groups] == [1.0, 0.01]
    assert len(groups[1]["params"]) == 9  # three convolutions and three BatchNorms of the copied stages
    together = [id(p) for g in groups for p in g["params"]]
    assert len(together) == len(set(together))


@pytest.mark.parametrize(
    "switch",
    [
        ("STAGES", "[2]"), ("INIT", "random"), ("BN", "running"), ("FUSION", "False"), ("PROMPT.BLOCK", "parallel"),
        ("PROMPT.BLOCK", "conv"), ("PROMPT.R1", "1"), ("PROMPT.R2", "1.0"), ("PROMPT.KERNELS", "[3]"),
        ("PROMPT.NORM", "False"), ("PROMPT.LOSS.TEACHER_WEIGHT", "0"), ("PROMPT.LOSS.STUDENT_WEIGHT", "0"),
        ("PROMPT.LOSS.CE_WEIGHT", "0"), ("LOSS.TEACHER_WEIGHT", "0"), ("LOSS.PROMPT_WEIGHT", "0"),
    ],
    ids="=".join,
)  # fmt: skip
@pytest.mark.parametrize("variant", [(), PLUS], ids=["frozen", "plus"])
def test_every_switch_trains(switch, variant):
    distiller = tiny_distiller("DFPTKD", f"DFPTKD.{switch[0]}", switch[1], *variant)
    history = take_steps(distiller, 12, lr=0.02)
    assert history[-1] < history[0]


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_prompt_paths_gradient_is_bounded_and_the_students_is_not(clip):
    distiller = tiny_distiller("DFPTKD", "DFPTKD.PROMPT.CLIP_NORM", str(clip))
    _, losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    prompt = [p for p in distiller.dual.parameters() if p.requires_grad]
    student = [p.grad.clone() for p in distiller.student.parameters()]
    before = torch.nn.utils.get_total_norm([p.grad for p in prompt])
    distiller.before_step()
    after = torch.nn.utils.get_total_norm([p.grad for p in prompt])
    torch.testing.assert_close(after, before.clamp(max=clip) if clip else before)
    assert all(torch.equal(p.grad, g) for p, g in zip(distiller.student.parameters(), student, strict=True))


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_a_run_at_four_times_the_usual_rate_is_stable(init):
    """With PROMPT.CLIP_NORM 0 the random start reaches 1e24 here, as fusions and head blow each other up."""
    distiller = tiny_distiller("DFPTKD", "DFPTKD.INIT", init)
    with torch.no_grad():
        distiller.teacher.fc.weight *= 3  # a confident teacher, as after long training
    history = take_steps(distiller, 100, lr=0.2)
    assert max(history) < 10
    assert history[-1] < 0.75 * history[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("STAGES", "[9]", "DFPTKD.STAGES is [9]; TinyNet has stages 1..2"),
        ("STAGES", "[]", "DFPTKD.STAGES is []"),
        ("STAGES", "some", "DFPTKD.STAGES is 'some'"),
        ("PROMPT.KERNELS", "[4]", "DFPTKD.PROMPT.KERNELS is [4]; it must be odd sizes"),
        ("PROMPT.R2", "0", "DFPTKD.PROMPT.R2 is 0.0"),
        ("PROMPT.BLOCK", "sequense", "unknown prompt block 'sequense'; did you mean sequence"),
        ("LOGIT_LOSS", "KDD", "unknown logit loss 'KDD'; did you mean KD"),
        ("INIT", "zero", "DFPTKD.INIT is 'zero'; it must be one of teacher, random"),
    ],
)
def test_bad_values_are_named(key, value, message):
    with pytest.raises(ConfigError) as info:
        tiny_distiller("DFPTKD", f"DFPTKD.{key}", value)
    assert message in str(info.value)


def test_both_paths_are_evaluated_and_the_overhead_is_said():
    distiller = tiny_distiller("DFPTKD").eval()
    paths = distiller.forward_paths(tiny_batch().image)
    assert set(paths) == {"student", "teacher", "prompt"}
    line = distiller.overhead((3, 8, 8))
    assert "of the teacher's" in line
    assert "warning: above 10%" in line, "a teacher this thin is cheaper than its prompts"


def test_memory_of_a_resume_holds_the_prompt_path_but_not_the_teacher():
    state = tiny_distiller("DFPTKD").training_state()
    assert not [k for k in state if k.startswith(("teacher.", "dual.teacher."))]
    assert "dual.own.conv1.weight" not in state, "frozen stages are the teacher's own storage"
    assert {"dual.own.fc.weight", "dual.own.bn1.running_mean", "dual.prompts.1.up.weight"} <= set(state)
    assert "dual.own.conv1.weight" in tiny_distiller("DFPTKD", *PLUS).training_state()
