"""The dual-path teacher: the original path never changes, the prompt path is the formula of the paper."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.losses import LOGIT_LOSSES
from mdistiller_dfpt.losses.term import total as sum_of
from mdistiller_dfpt.models import MODELS, build_model
from mdistiller_dfpt.models.complexity import count_macs, total
from mdistiller_dfpt.models.output import as_output
from mdistiller_dfpt.teachers.dual_path import DualPath
from mdistiller_dfpt.testing import changed, snapshot, tiny_batch, tiny_networks, tiny_teacher

CIFAR = sorted(name.removeprefix("cifar/") for name in MODELS if name.startswith("cifar/"))
BATCH = tiny_batch(4)


def dual_path(network, **changes) -> DualPath:
    torch.manual_seed(3)
    return DualPath(network, **{**keywords(DualPath.config), **changes})


def tiny_dual(**changes) -> DualPath:
    return dual_path(tiny_networks()[1], **changes)


def logits(dual, image=BATCH.image):
    """The logits of the original path and of the prompt path."""
    paths = dual(Batch(image, BATCH.target, BATCH.index))
    return paths["teacher"].logits, paths["prompt"].logits


@pytest.mark.parametrize("finetune", [False, True])
@pytest.mark.parametrize("stages", [(1,), (2,), (1, 2)])
def test_with_running_statistics_and_teacher_init_both_paths_are_the_same_function(stages, finetune):
    dual = tiny_dual(stages=stages, finetune_backbone=finetune, bn="running", init="teacher").train()
    original, prompt = logits(dual)
    assert torch.equal(original, prompt)


@pytest.mark.parametrize("start", [{"init": "random", "bn": "running"}, {"init": "teacher", "bn": "batch"}])
def test_otherwise_they_differ(start):
    original, prompt = logits(tiny_dual(**start).train())
    assert not torch.allclose(original, prompt)


@pytest.mark.parametrize("fusion", [True, False])
def test_the_prompt_path_is_the_papers_formula(fusion):
    dual = tiny_dual(stages=(1, 2), bn="running", init="random", fusion=fusion).train()
    teacher = dual.network
    z, _ = teacher.stages()[0](BATCH.image)
    for i in (1, 2, 3):
        x, _ = teacher.stages()[i](z)
        z = x + dual.prompts[str(i)](x) if i < 3 else x
        z = dual.fusions[str(i)](z) if fusion and i < 3 else z
    expected = dual.own.fc(z.mean((2, 3)))
    torch.testing.assert_close(logits(dual)[1], expected)


@pytest.mark.parametrize("bn", ["batch", "running"])
@pytest.mark.parametrize("finetune", [False, True])
def test_training_leaves_every_tensor_and_output_of_the_original_path(finetune, bn):
    dual = tiny_dual(finetune_backbone=finetune, bn=bn, init="random").train()
    before, said = snapshot(dual.network), logits(dual)[0]
    optimizer = torch.optim.SGD([p for p in dual.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits(dual)[1].pow(2).sum().backward()
        optimizer.step()
    assert changed(before, dual.network.state_dict()) == []
    assert torch.equal(logits(dual)[0], said)
    assert all(p.grad is None for p in dual.network.parameters())


def test_frozen_stages_share_the_teachers_weights_and_only_new_parts_are_trained():
    dual = tiny_dual()
    trained = {n.split(".")[0] for n, p in dual.named_parameters() if p.requires_grad}
    assert trained == {"prompts", "fusions", "own"}
    assert {n for n, p in dual.own.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert dual.own.conv1.weight is dual.network.conv1.weight
    assert dual.own.fc.weight is not dual.network.fc.weight
    assert all(group["lr_factor"] == 1 for group in dual.parameter_groups() if group["params"])


def test_plus_trains_its_own_copy_of_all_stages():
    dual = tiny_dual(finetune_backbone=True)
    assert dual.own.conv1.weight is not dual.network.conv1.weight
    assert all(p.requires_grad for p in dual.own.parameters())
    slow = [p for group in dual.parameter_groups() if group["lr_factor"] != 1 for p in group["params"]]
    assert len(slow) == len(list(dual.own.parameters())) - 2


def test_batch_statistics_are_used_only_after_the_first_prompt():
    dual = tiny_dual(stages=(1,), bn="batch").train()
    before = snapshot(dual.own)
    logits(dual)
    moved = {k for k in changed(before, dual.own.state_dict()) if "running" in k}
    assert moved == {f"layer{i}.1.running_{what}" for i in (2, 3) for what in ("mean", "var")}


def test_running_statistics_stay_the_teachers():
    dual = tiny_dual(bn="running").train()
    before = snapshot(dual.own)
    logits(dual)
    assert changed(before, dual.own.state_dict()) == []


def test_evaluation_is_deterministic_and_changes_nothing():
    dual = tiny_dual(bn="batch", init="random").eval()
    before = snapshot(dual)
    first, second = logits(dual)[1], logits(dual)[1]
    assert torch.equal(first, second)
    assert changed(before, dual.state_dict()) == []
    torch.testing.assert_close(logits(dual, BATCH.image[:1])[1], first[:1])


@pytest.mark.parametrize("stages", [[0], [4], [1, 7]])
def test_stages_that_do_not_exist_are_refused(stages):
    with pytest.raises(ValueError, match=r"STAGES is .*; TinyNet has stages 1..3"):
        tiny_dual(stages=stages)


@pytest.mark.parametrize("name", CIFAR)
def test_every_network_can_be_prompted_after_any_subset_of_its_stages(name):
    """The two paths agree at initialisation, and a gradient reaches every prompt and no weight of the teacher."""
    teacher = build_model(name, num_classes=5).eval()
    count = len(teacher.stage_channels) - 1
    image = torch.randn(2, 3, 16, 16)
    for size in range(1, count + 1):
        for stages in itertools.combinations(range(1, count + 1), size):
            dual = dual_path(teacher, stages=stages, bn="running", init="teacher").train()
            original, prompt = logits(dual, image)
            torch.testing.assert_close(prompt, original, rtol=1e-4, atol=1e-4)
            prompt.square().sum().backward()
            assert all(dual.prompts[str(i)].up.weight.grad.abs().sum() > 0 for i in stages), stages
            assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("stages", [(1, 2, 3), (3,)])
def test_frozen_stages_before_the_first_prompt_are_computed_once(stages):
    """MACs per image: the original path once, the prompt path only after its first prompt."""
    teacher = build_model("resnet8", num_classes=10).eval()
    dual = dual_path(teacher, stages=stages)
    image = torch.zeros(1, 3, 32, 32)
    with torch.no_grad(), count_macs(teacher) as alone:
        teacher(image)
    with torch.no_grad(), count_macs(dual) as macs:
        logits(dual, image)
    skipped = [dual.own.conv1, *[getattr(dual.own, f"layer{i}") for i in range(1, stages[0] + 1)]]
    assert all(total(macs, module) == 0 for module in skipped)
    behind = sum(total(alone, getattr(teacher, f"layer{i}")) for i in range(stages[0] + 1, 4)) + total(
        alone, teacher.fc
    )
    blocks = total(macs, dual.prompts) + total(macs, dual.fusions)
    assert sum(macs.values()) == total(alone, teacher) + behind + blocks


def test_the_prompt_path_runs_only_when_used_and_once():
    """A method on the original path does not run it, except for the teacher's own terms."""
    dual, calls = tiny_dual().train(), []
    dual.own.fc.register_forward_hook(lambda *a: calls.append(1))
    paths = dual(BATCH)
    assert torch.equal(paths["teacher"].logits, dual.network(BATCH.image)[0])
    assert calls == []
    paths["prompt"], paths["prompt"]
    assert calls == [1]


def test_its_own_terms_are_those_of_the_paper_with_the_student_detached():
    dual, (student, _) = tiny_dual(prompt_student_weight=2.0).train(), tiny_networks()
    output = as_output(student(BATCH.image))
    terms = dual.losses(output, dual(BATCH), BATCH)
    assert {name: term.weight for name, term in terms.items()} == {
        "prompt_teacher": 1.0, "prompt_student": 2.0, "prompt_ce": 1.0,
    }  # fmt: skip
    sum_of(terms).backward()
    assert all(p.grad is None for p in student.parameters())
    p, t, s = dual(BATCH)["prompt"].logits, dual.network(BATCH.image)[0], output.logits
    expected = kd_loss(p, t, 4.0) + 2 * kd_loss(p, s.detach(), 4.0) + F.cross_entropy(p, BATCH.target)
    weight = dual.prompts["1"].up.weight
    torch.testing.assert_close(weight.grad, torch.autograd.grad(expected, weight)[0])
    accuracy = (dual(BATCH)["prompt"].logits.argmax(1) == BATCH.target).float().mean() * 100
    torch.testing.assert_close(dual.take_logged()["accuracy_prompt"], accuracy)


def test_a_coupled_logit_loss_couples_the_samples(monkeypatch):
    def coupled(student, teacher, target, temperature):
        return (student.mean() - teacher.mean()) ** 2

    coupled.couples_samples = True
    monkeypatch.setitem(LOGIT_LOSSES, "COUPLED", coupled)
    assert tiny_dual(logit_loss="COUPLED").couples_samples
    assert not tiny_dual().couples_samples


def test_stages_before_the_first_prompt_have_the_original_paths_preactivations():
    """Methods on preactivations see the same values on both paths where the paths share stages."""
    teacher = tiny_teacher(DualPath, stages=[2]).train()
    paths = teacher(tiny_batch())
    for key in ("feats", "preact_feats"):
        original, prompt = (paths[path].features[key] for path in ("teacher", "prompt"))
        assert torch.equal(original[0], prompt[0])
        assert torch.equal(original[1], prompt[1])
        assert not torch.equal(original[2], prompt[2])
    assert not torch.equal(paths["prompt"].features["feats"][1], paths["prompt"].features["preact_feats"][1])


def test_without_prompts_the_path_is_the_teacher_with_a_head_of_its_own():
    same = tiny_dual(stages=[], bn="running", init="teacher").train()
    assert torch.equal(*logits(same))
    assert len(same.prompts) == len(same.fusions) == 0
    head = tiny_dual(stages=[], bn="running", init="random").train()
    assert {n for n, p in head.named_parameters() if p.requires_grad} == {"own.fc.weight", "own.fc.bias"}
    pooled = head(BATCH)["teacher"].features["pooled_feat"]
    torch.testing.assert_close(logits(head)[1], head.own.fc(pooled))


def test_without_prompts_and_loss_only_the_statistics_differ():
    dual = tiny_dual(
        stages=[], bn="batch", init="teacher", prompt_teacher_weight=0, prompt_student_weight=0, prompt_ce_weight=0
    ).train()  # fmt: skip
    assert not [n for n, p in dual.named_parameters() if p.requires_grad]
    assert dual.losses(dual(BATCH)["teacher"], dual(BATCH), BATCH) == {}
    original, prompt = logits(dual)
    assert not torch.allclose(original, prompt)
    whole = dual.network.train()
    torch.testing.assert_close(prompt, whole(BATCH.image)[0])
    whole.eval()


def test_supervision_is_handed_from_the_student_to_the_teacher():
    dual = tiny_dual(prompt_hand_over_epochs=4, prompt_student_weight=2.0, prompt_teacher_weight=0.5).train()
    found = []
    for epoch in (1, 2, 4, 5, 9):
        batch = tiny_batch(4, epoch=epoch)
        terms = dual.losses(dual(batch)["teacher"], dual(batch), batch)
        found.append(tuple(terms[name].weight if name in terms else 0 for name in ("prompt_student", "prompt_teacher")))
    assert found == [(2.0, 0), (1.5, 0.125), (0.5, 0.375), (0, 0.5), (0, 0.5)]


def test_prompts_may_learn_at_another_rate():
    groups = tiny_dual(prompt_lr_factor=0.1, finetune_backbone=True, finetune_lr_factor=0.01).parameter_groups()
    assert [group["lr_factor"] for group in groups] == [0.1, 0.01]
    assert all(group["params"] for group in groups)
