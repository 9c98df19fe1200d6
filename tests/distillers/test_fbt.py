"""Laws of FBT."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.fbt import in_windows, info_nce
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import snapshot, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks

from ..golden import normal


def test_info_nce_is_log_b_without_knowledge_and_near_zero_with_it():
    one = torch.tensor(1.0).double()
    assert info_nce(normal(1, (8, 4)), torch.ones(8, 4).double(), one).item() == pytest.approx(math.log(8))
    apart = torch.eye(8).double()
    assert info_nce(apart, 3 * apart, 100 * one) < 1e-40
    x, y = normal(1, (8, 4)), normal(2, (8, 4))
    torch.testing.assert_close(info_nce(5 * x, y / 3, one), info_nce(x, y, one))


@pytest.mark.parametrize(("size", "window"), [((4, 4), 2), ((5, 3), 2), ((3, 5), 7), ((6, 6), 3)])
def test_windows_are_put_back_where_they_were(size, window):
    x = normal(1, (2, 3, *size))
    assert torch.equal(in_windows(nn.Identity(), x, window), x)


def test_a_window_sees_only_itself():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1, keepdim=True).expand_as(x)

    x = normal(1, (2, 3, 4, 4))
    means = in_windows(Mean(), x, 2)
    torch.testing.assert_close(means[:, :, ::2, ::2], torch.nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(means[:, :, 1::2, 1::2], torch.nn.functional.avg_pool2d(x, 2))


@pytest.mark.parametrize("first", ["student", "teacher"])
def test_the_fusion_ends_in_the_other_network(first):
    """Its stages before the last get no gradient from the fusion, nor the last one of the network that comes first."""
    method = tiny_distiller("FBT", "FBT.FIRST", first).eval()
    batch = tiny_batch()
    fusion = method.fuse(method.forward_student(batch.image), dict(method.teacher(batch))["teacher"], batch)
    second = method.teacher_network if first == "student" else method.student
    torch.testing.assert_close(second.fc(fusion.features["pooled_feat"]), fusion.logits)
    layers = [method.student.get_submodule(name).weight for name in ("layer2.0", "layer3.0", "fc")]
    gradients = torch.autograd.grad(fusion.logits.pow(2).sum(), layers, allow_unused=True)
    assert [g is not None for g in gradients] == ([True, False, False] if first == "student" else [False, True, True])


def test_a_detached_fusion_learns_nothing_from_the_students_pair():
    weight = {}
    for detach in ("True", "False"):
        method = tiny_distiller("FBT", "FBT.DETACH_FUSION", detach)
        loss = method(tiny_batch())[1]["logit"].value
        (weight[detach],) = torch.autograd.grad(loss, method.local_to_global.embed.weight)
    assert (weight["True"] - weight["False"]).abs().max() > 1e-7


def test_the_fusion_leaves_running_statistics_alone():
    for first in ("student", "teacher"):
        method, plain = tiny_distiller("FBT", "FBT.FIRST", first), tiny_distiller("KD")
        before = snapshot(method.teacher_network)
        for each in (method, plain):
            each(tiny_batch())
        assert all(torch.equal(method.student.state_dict()[k], v) for k, v in plain.student.state_dict().items())
        assert all(torch.equal(v, before[k]) for k, v in method.teacher_network.state_dict().items())


def build(student, teacher, *words, size=8):
    cfg = tiny_cfg("DISTILLER.TYPE", "FBT", *words)
    return build_distiller(cfg, student, teacher, 48, image_shape=(3, size, size))


def test_wrong_values_are_refused():
    student, teacher = tiny_networks()
    with pytest.raises(ConfigError, match="FBT.ATTENTION_HEADS is 5; it must divide 12"):
        build(student, teacher, "FBT.ATTENTION_HEADS", "5")
    with pytest.raises(ConfigError, match="FBT.PATCH is 9; the map that is embedded has size 4x4"):
        build(student, teacher, "FBT.PATCH", "9")
    words = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1.0}")
    with pytest.raises(ConfigError, match="the path 'prompt' is trained with the student: select a frozen path"):
        build(student, teacher, *words)


NETWORKS = {
    "own": ("resnet8", 32), "cnn": ("timm/resnet10t", 32), "vit": ("timm/test_vit", 64),
    "mixer": ("timm/mixer_s16_224", 64), "swin": ("timm/swin_tiny_patch4_window7_224", 32),
    "torchvision": ("torchvision/shufflenet_v2_x0_5", 64),
}  # fmt: skip


def network(kind, size):
    stages = tuple(f"blocks.{i}" for i in range(6)) if kind == "vit" else ()
    return build_model(NETWORKS[kind][0], num_classes=5, image_size=size, stages=stages)


@pytest.mark.parametrize(
    ("student", "teacher", "student_first"),
    [
        ("own", "vit", True), ("cnn", "swin", True), ("vit", "own", False), ("mixer", "cnn", False),
        ("own", "torchvision", True), ("torchvision", "mixer", True), ("vit", "mixer", True),
    ],
)  # fmt: skip
def test_any_architecture_teaches_any_other_and_a_cnn_comes_first(student, teacher, student_first):
    pytest.importorskip("timm")
    size = max(NETWORKS[student][1], NETWORKS[teacher][1])
    method = build(network(student, size), network(teacher, size), size=size).train()
    assert method.student_first == student_first
    loss = total(method(replace(tiny_batch(4), image=torch.randn(4, 3, size, size)))[1])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in method.local_to_global.parameters())
