"""DFPT-KD and DFPT-KD+: which terms train which networks, every switch, what changes and what does not."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import LOGIT_LOSSES
from mdistiller_dfpt.distillers.dfptkd import student_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.teachers.dual_path import prompt_loss
from mdistiller_dfpt.testing import changed, snapshot, take_steps, tiny_batch, tiny_distiller

from ..golden import labels, normal

PLUS = ("DFPTKD.FINETUNE_BACKBONE", "True")
STUDENT_TERMS, PROMPT_TERMS = ("ce", "kd_teacher", "kd_prompt"), ("prompt_teacher", "prompt_student", "prompt_ce")


def student_terms(student, teacher, prompt, ce=1.0, by_teacher=1.0, by_prompt=1.0):
    return student_loss(
        student, teacher, prompt, labels(), LOGIT_LOSSES["KD"], 4.0, ce_weight=ce, teacher_weight=by_teacher,
        prompt_weight=by_prompt,
    )  # fmt: skip


def prompt_terms(student, teacher, prompt, ce=1.0, by_teacher=1.0, by_student=1.0):
    return prompt_loss(
        prompt, teacher, student, labels(), LOGIT_LOSSES["KD"], 4.0, ce_weight=ce, teacher_weight=by_teacher,
        student_weight=by_student,
    )  # fmt: skip


def test_the_terms_are_the_papers():
    s, t, p, y = normal(1), normal(2), normal(5), labels()
    found = {**student_terms(s, t, p, 2.0, 3.0, 5.0), **prompt_terms(s, t, p, 13.0, 7.0, 11.0)}
    expected = {
        "ce": 2 * F.cross_entropy(s, y), "kd_teacher": 3 * kd_loss(s, t, 4.0), "kd_prompt": 5 * kd_loss(s, p, 4.0),
        "prompt_teacher": 7 * kd_loss(p, t, 4.0), "prompt_student": 11 * kd_loss(p, s, 4.0),
        "prompt_ce": 13 * F.cross_entropy(p, y),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name].weighted, value)


def test_a_step_has_the_terms_of_both_paths_each_with_its_kind():
    _, terms = tiny_distiller("DFPTKD")(tiny_batch())
    kinds = {name: term.kind for name, term in terms.items()}
    assert kinds == {
        "ce": "label", "kd_teacher": "distillation", "kd_prompt": "distillation",
        **dict.fromkeys(PROMPT_TERMS, "teacher"),
    }  # fmt: skip


def test_no_gradient_crosses_between_student_and_prompt_path():
    s, t, p = (normal(seed).requires_grad_() for seed in (1, 2, 5))
    apart = student_terms(s, t.detach(), p.detach()), prompt_terms(s.detach(), t.detach(), p)
    both = ((student_terms(s, t, p), s, (t, p)), (prompt_terms(s, t, p), p, (t, s)))
    for (terms, own, others), expected in zip(both, apart, strict=True):
        gradient = torch.autograd.grad(total(terms), own, retain_graph=True)[0]
        assert torch.equal(gradient, torch.autograd.grad(total(expected), own)[0])
        for other in others:
            assert torch.autograd.grad(total(terms), other, retain_graph=True, allow_unused=True) == (None,)


@pytest.mark.parametrize(("names", "moves"), [(STUDENT_TERMS, "student"), (PROMPT_TERMS, "prompt path")])
def test_in_a_step_the_students_terms_reach_the_student_alone_and_the_prompts_the_prompt_path_alone(names, moves):
    distiller = tiny_distiller("DFPTKD", *PLUS)
    _, terms = distiller(tiny_batch())
    total({name: terms[name] for name in names}).backward()
    reached = {name for name, p in distiller.named_parameters() if p.grad is not None}
    student = {name for name, _ in distiller.named_parameters() if name.startswith("student.")}
    trained = {name for name, p in distiller.named_parameters() if p.requires_grad}
    assert reached == (student if moves == "student" else trained - student)


def test_a_term_of_weight_zero_is_not_computed():
    s, t, p = normal(1), normal(2), normal(5)
    assert set(student_terms(s, t, p, by_prompt=0.0)) == {"ce", "kd_teacher"}
    assert set(prompt_terms(s, t, p, by_student=0.0)) == {"prompt_teacher", "prompt_ce"}


def test_without_prompt_terms_the_student_sees_plain_kd():
    """beta = 0 is KD, whatever the prompt path does: the same gradient on the student, bit for bit."""
    weights = ("DFPTKD.LOSS.PROMPT_WEIGHT", "0", "DFPTKD.LOSS.TEACHER_WEIGHT", "0.9", "DFPTKD.LOSS.CE_WEIGHT", "0.1")
    gradients = []
    for distiller in (tiny_distiller("DFPTKD", *weights), tiny_distiller("KD")):
        total(distiller(tiny_batch())[1]).backward()
        gradients.append([p.grad.clone() for p in distiller.student.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_dual_path_teacher_and_kd_from_both_paths_are_the_method_itself():
    """The method of the paper is a composition: the same steps, bit for bit."""
    whole = tiny_distiller("DFPTKD", "DFPTKD.LOSS.CE_WEIGHT", "0.1", "DFPTKD.LOSS.TEACHER_WEIGHT", "3.6",
                           "DFPTKD.LOSS.PROMPT_WEIGHT", "4.5")  # fmt: skip
    composed = tiny_distiller("KD", "DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 4, prompt: 5}")
    assert take_steps(whole, 3) == pytest.approx(take_steps(composed, 3), rel=1e-5)
    for a, b in zip(whole.student.parameters(), composed.student.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(whole.teacher.parameters(), composed.teacher.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_with_teacher_init_and_running_statistics_both_kd_terms_are_equal():
    distiller = tiny_distiller("DFPTKD", "DFPTKD.BN", "running", "DFPTKD.INIT", "teacher")
    _, terms = distiller(tiny_batch())
    torch.testing.assert_close(terms["kd_teacher"].value, terms["kd_prompt"].value)
    assert abs(terms["prompt_teacher"].value.item()) < 1e-6


@pytest.mark.parametrize("variant", [(), PLUS])
def test_only_student_prompts_fusions_head_and_in_plus_the_copied_stages_change(variant):
    distiller = tiny_distiller("DFPTKD", *variant)
    before = snapshot(distiller)
    take_steps(distiller, 3)
    moved = set(changed(before, distiller.state_dict()))
    assert not [k for k in moved if k.startswith("teacher.network.")]
    allowed = ("student.", "teacher.prompts.", "teacher.fusions.", "teacher.own.fc.")
    others = {k for k in moved if not k.startswith(allowed)}
    if variant:
        assert {k for k in before if k.startswith("teacher.own.") and k.endswith("weight")} <= moved
    else:
        assert all("running" in k or k.endswith("num_batches_tracked") for k in others), others
    for prefix in allowed:
        assert any(k.startswith(prefix) for k in moved), f"nothing below {prefix} was trained"


def test_the_copied_stages_learn_at_their_own_rate():
    groups = tiny_distiller("DFPTKD", *PLUS, "DFPTKD.FINETUNE_LR_FACTOR", "0.01").parameter_groups()
    slow = [p for g in groups if g["lr_factor"] == 0.01 for p in g["params"]]
    assert len(slow) == 12  # four convolutions and four BatchNorms of the copied stages
    assert {g["lr_factor"] for g in groups if g["params"]} == {1.0, 0.01}
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
    total(distiller(tiny_batch())[1]).backward()
    prompt = [p for p in distiller.teacher.parameters() if p.requires_grad]
    student = [p.grad.clone() for p in distiller.student.parameters()]
    before = torch.nn.utils.get_total_norm([p.grad for p in prompt])
    for part in distiller.hooked():
        part.before_step()
    after = torch.nn.utils.get_total_norm([p.grad for p in prompt])
    torch.testing.assert_close(after, before.clamp(max=clip) if clip else before)
    assert all(torch.equal(p.grad, g) for p, g in zip(distiller.student.parameters(), student, strict=True))


@pytest.mark.parametrize("init", ["teacher", "random"])
def test_a_run_at_four_times_the_usual_rate_is_stable(init):
    """With PROMPT.CLIP_NORM 0 the random initialisation reaches 1e24 here, as fusions and head amplify each other."""
    distiller = tiny_distiller("DFPTKD", "DFPTKD.INIT", init)
    with torch.no_grad():
        distiller.teacher.network.fc.weight *= 3  # a confident teacher, as after long training
    history = take_steps(distiller, 100, lr=0.2)
    assert max(history) < 10
    assert history[-1] < 0.75 * history[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("STAGES", "[9]", "DFPTKD.STAGES is [9]; TinyNet has stages 1..3"),
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


def test_both_paths_are_evaluated_and_the_overhead_is_reported():
    distiller = tiny_distiller("DFPTKD").eval()
    paths = distiller.evaluated_paths(tiny_batch().image)
    assert set(paths) == {"student", "teacher", "prompt"}
    line = distiller.overhead((3, 8, 8))
    assert "of the teacher's" in line
    assert "warning: above 10%" in line, "a teacher this thin is cheaper than its prompts"


def test_the_training_state_holds_the_prompt_path_but_not_the_teacher():
    state = tiny_distiller("DFPTKD").training_state()
    assert not [k for k in state if k.startswith("teacher.network.")]
    assert "teacher.own.conv1.weight" not in state, "frozen stages are the teacher's own storage"
    assert {"teacher.own.fc.weight", "teacher.own.bn1.running_mean", "teacher.prompts.1.up.weight"} <= set(state)
    assert "teacher.own.conv1.weight" in tiny_distiller("DFPTKD", *PLUS).training_state()


def test_the_weights_of_the_paths_are_its_own_keys():
    with pytest.raises(ConfigError, match="DISTILLER.PATHS is set; DFPTKD has its own keys for path weights"):
        tiny_distiller("DFPTKD", "DISTILLER.PATHS", "{prompt: 1.0}")
