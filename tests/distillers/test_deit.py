"""Laws of DeiT."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.deit import deit_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import take_steps, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks

from ..golden import normal


def test_a_hard_target_is_the_teachers_class_and_ignores_its_confidence():
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(deit_loss(student, 9 * teacher, "hard", 1.0), deit_loss(student, teacher, "hard", 4.0))
    assert deit_loss(1e6 * teacher, teacher, "hard", 1.0) < 1e-9


def test_a_soft_target_is_that_of_kd_over_the_number_of_classes():
    student, teacher = normal(1), normal(2)
    torch.testing.assert_close(100 * deit_loss(student, teacher, "soft", 3.0), kd_loss(student, teacher, 3.0))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_each_head_has_its_own_term(kind):
    method = tiny_distiller("DEIT", "DEIT.KIND", kind)
    terms = method(tiny_batch())[1]
    heads = [method.student.fc.weight, method.two_heads.added.weight]
    for name, expected in (("ce", [True, False]), ("kd", [False, True])):
        gradients = torch.autograd.grad(terms[name].value, heads, allow_unused=True, retain_graph=True)
        assert [g is not None for g in gradients] == expected


def test_what_is_deployed_predicts_the_mean_of_both_heads():
    method = tiny_distiller("DEIT")
    take_steps(method, 2)
    method.eval()
    image = tiny_batch().image
    with torch.no_grad():
        logits, features = method.student(image)
        mean = (logits + method.two_heads.added(features["pooled_feat"])) / 2
        torch.testing.assert_close(method.evaluated_paths(image)["student"], mean)


def test_in_a_list_of_methods_the_heads_are_those_of_the_deployed_network():
    terms = tiny_distiller("[DEIT, FITNET]")(tiny_batch())[1]
    assert {"DEIT.ce", "DEIT.kd", "FITNET.feat"} <= terms.keys()


def test_a_distillation_token_of_timm_is_used():
    pytest.importorskip("timm")
    student = build_model("timm/deit_tiny_distilled_patch16_224", num_classes=5, image_size=32)
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "DEIT"), student, tiny_networks()[1], 48).train()
    assert method.two_heads.added is None
    image = torch.randn(2, 3, 32, 32)
    method.eval()
    output = method.forward_student(image)
    both = [output.features[name] for name in ("head_logits", "distilled_logits")]
    torch.testing.assert_close(output.logits, sum(both) / 2)
    tokens = student.network.forward_features(image)
    torch.testing.assert_close(both[0], student.network.head(tokens[:, 0]))
    torch.testing.assert_close(both[1], student.network.head_dist(tokens[:, 1]))
    heads = [student.network.head.weight, student.network.head_dist.weight]
    loss = F.cross_entropy(both[1], torch.tensor([0, 1]))
    assert [g is not None for g in torch.autograd.grad(loss, heads, allow_unused=True)] == [False, True]
