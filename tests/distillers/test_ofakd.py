"""Laws of OFA-KD."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.ofakd import MapHead, TokenHead, ofakd_loss
from mdistiller_dfpt.distillers.token_block import AttentionBlock, PatchMerging
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import TinyNet, tiny_batch, tiny_cfg, tiny_networks

from ..golden import labels, normal


def test_with_eps_one_it_is_the_cross_entropy_with_the_teachers_probabilities():
    student, teacher = normal(1), normal(2)
    expected = F.cross_entropy(student / 3, (teacher / 3).softmax(1))
    torch.testing.assert_close(ofakd_loss(student, teacher, labels(), 1.0, 3.0), expected)


def test_a_larger_eps_weights_the_target_more_and_the_others_less():
    """By hand: probabilities 0.5 and 0.25 of two classes, the first the target, against a uniform student."""
    teacher = torch.tensor([[0.5, 0.25, 0.25]]).double().log()
    student, target = torch.zeros(1, 3).double(), torch.tensor([0])
    for eps in (1.0, 2.0):
        weights = (1.5**eps - 1) + 2 * 0.25**eps
        expected = weights * torch.tensor(3.0).double().log()
        torch.testing.assert_close(ofakd_loss(student, teacher, target, eps), expected)


def test_attention_mixes_tokens_and_does_not_know_their_order():
    block = AttentionBlock(8, 2).double()
    x = normal(1, (2, 5, 8))
    torch.testing.assert_close(block(x.flip(1)), block(x).flip(1))
    changed = x.clone()
    changed[:, 0] *= -1
    assert (block(changed) - block(x))[:, 1:].abs().max() > 1e-6


@pytest.mark.parametrize(("side", "expected"), [(8, 4), (7, 4)])
def test_merged_patches_are_four_neighbours(side, expected):
    merging = PatchMerging(3, 5).double()
    x = normal(1, (2, 3, side, side))
    out = merging(x)
    assert out.shape == (2, 5, expected, expected)
    changed = x.clone()
    changed[:, :, 2:4, 4:6] += 1
    moved = (merging(changed) - out).abs().sum((0, 1)) > 0
    assert moved.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("later", [0, 1, 3])
def test_a_head_takes_maps_of_any_size(later):
    for side in (1, 4, 9):
        assert MapHead(3, later, 6, 5)(torch.randn(2, 3, side, side)).shape == (2, 5)
        head = TokenHead((3, side, side), later, 8, 5, grid=2, heads=4)
        assert head(torch.randn(2, 3, side, side)).shape == (2, 5)
        assert len(head.blocks) == max(later, 1)


def build(student, teacher, *words, size=8):
    cfg = tiny_cfg("DISTILLER.TYPE", "OFAKD", *words)
    return build_distiller(cfg, student, teacher, 48, image_shape=(3, size, size))


def test_mixed_labels_count_by_their_larger_part():
    method = build(*tiny_networks()).eval()
    batch = tiny_batch()
    soft = 0.7 * F.one_hot(batch.target, 5) + 0.3 / 5
    terms, mixed = (method(b)[1] for b in (batch, replace(batch, soft=soft.float(), target=batch.target.flip(0))))
    for name in ("kd", "stages"):
        torch.testing.assert_close(mixed[name].value, terms[name].value)
    assert mixed["ce"].value != terms["ce"].value


def test_each_stage_and_the_logits_have_their_eps():
    student, teacher = tiny_networks()
    batch = tiny_batch()
    with torch.no_grad():
        torch.manual_seed(0)
        one = build(student, teacher, "OFAKD.EPS", "[1.0, 1.5, 2.0, 2.5]").eval()
        terms = one(batch)[1]
        logits, features = student(batch.image)
        given = teacher(batch.image)[0]
        stages = [
            ofakd_loss(head(features["feats"][i]), given, batch.target, eps)
            for i, head, eps in zip((1, 2, 3), one.heads, (1.0, 1.5, 2.0), strict=True)
        ]
        torch.testing.assert_close(terms["stages"].value, sum(stages))
        torch.testing.assert_close(terms["kd"].value, ofakd_loss(logits, given, batch.target, 2.5))


def test_wrong_values_are_refused():
    student, teacher = tiny_networks()
    with pytest.raises(ConfigError, match=r"OFAKD.STAGES is \[4\]; the student has the stages 1 to 3"):
        build(student, teacher, "OFAKD.STAGES", "[4]")
    with pytest.raises(ConfigError, match=r"OFAKD.EPS is \[1.0, 2.0\]; it must be one number, or 4"):
        build(student, teacher, "OFAKD.EPS", "[1.0, 2.0]")
    with pytest.raises(ConfigError, match="OFAKD.ATTENTION_HEADS is 3; it must divide the student's 8"):
        build(student, teacher, "OFAKD.HEADS", "tokens", "OFAKD.ATTENTION_HEADS", "3")


NETWORKS = {
    "own": ("resnet8", 32), "cnn": ("timm/resnet10t", 32), "vit": ("timm/test_vit", 64),
    "swin": ("timm/swin_tiny_patch4_window7_224", 32),
}  # fmt: skip


def network(kind, size):
    stages = tuple(f"blocks.{i}" for i in range(6)) if kind == "vit" else ()
    return build_model(NETWORKS[kind][0], num_classes=5, image_size=size, stages=stages)


@pytest.mark.parametrize(
    ("student", "teacher"), [("own", "vit"), ("cnn", "vit"), ("vit", "own"), ("swin", "cnn"), ("own", "cnn")]
)
def test_any_architecture_teaches_any_other(student, teacher):
    pytest.importorskip("timm")
    size = max(NETWORKS[student][1], NETWORKS[teacher][1])
    method = build(network(student, size), network(teacher, size), size=size).train()
    kinds = {type(head) for head in method.heads}
    assert kinds == {TokenHead if student in ("vit", "swin") else MapHead}
    loss = total(method(replace(tiny_batch(4), image=torch.randn(4, 3, size, size)))[1])
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in method.heads.parameters())


def test_a_student_without_maps_is_refused():
    class Bare(TinyNet):
        def __init__(self):
            super().__init__()
            self.stage_channels = ()

    with pytest.raises(ConfigError, match="OFAKD uses the student's feature maps, and it has none"):
        build(Bare(), tiny_networks()[1])
