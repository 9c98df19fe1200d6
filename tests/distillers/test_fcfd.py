"""Laws of FCFD."""

import pytest
import torch

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.fcfd import FCFD, Mixed, bridge, map_loss, mixed_paths
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import TinyNet, snapshot, tiny_batch, tiny_cfg, tiny_distiller

from ..golden import normal


def test_mixed_paths_change_the_network_once_behind_a_stage_and_before_the_last():
    assert mixed_paths(4) == [Mixed(False, 1), Mixed(False, 2), Mixed(True, 1), Mixed(True, 2)]
    assert len(mixed_paths(5)) == 6


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_bridge_ends_in_the_targets_shape(side):
    assert bridge((3, side, side), (5, 8, 8))(torch.randn(2, 3, side, side)).shape == (2, 5, 8, 8)


def test_a_bridge_over_another_ratio_is_refused():
    with pytest.raises(ValueError, match="here 6x6 and 8x8: choose other networks"):
        bridge((3, 6, 6), (5, 8, 8))


def test_the_last_map_counts_also_as_the_classifier_takes_it():
    a, b = normal(1, (2, 3, 4, 4)), normal(2, (2, 3, 4, 4))
    assert map_loss(a, a, True) == 0
    pooled = torch.nn.functional.mse_loss(a.relu().mean((2, 3)), b.relu().mean((2, 3)))
    torch.testing.assert_close(map_loss(a, b, True), map_loss(a, b, False) + pooled)


def test_without_mixed_paths_there_are_no_bridges_to_the_student():
    method = tiny_distiller("FCFD", "FCFD.PATHS", "0")
    assert list(method(tiny_batch())[1]) == ["ce", "kd", "feat"]
    assert len(method.to_student) == 0


def test_a_mixed_path_through_equal_networks_and_an_identity_is_the_network_itself():
    torch.manual_seed(0)
    network = TinyNet(4)
    weights = {"ce_weight": 1.0, "kd_weight": 1.0, "mixed_weight": 1.0, "feat_weight": 1.0}
    method = FCFD(network, TinyNet(4), temperature=4.0, paths=4, warmup_epochs=0, **weights).eval()
    image = tiny_batch().image
    logits, features = network(image)
    for last in (1, 2):
        maps, found = method._run_from(network, last, features["feats"][last])
        torch.testing.assert_close(found, logits)
        for i, x in maps.items():
            torch.testing.assert_close(x, features["feats"][i])


def test_mixed_paths_leave_running_statistics_alone():
    """They are those of the student's own path, as with KD alone."""
    method, plain = tiny_distiller("FCFD"), tiny_distiller("KD")
    before = snapshot(method.teacher_network)
    for each in (method, plain):
        each(tiny_batch())
    mine, expected = method.student.state_dict(), plain.student.state_dict()
    assert all(torch.equal(mine[key], value) for key, value in expected.items())
    assert all(torch.equal(value, before[key]) for key, value in method.teacher_network.state_dict().items())


def test_the_students_gradient_passes_through_the_teachers_last_stages():
    method = tiny_distiller("FCFD", "FCFD.PATHS", "4")
    term = method(tiny_batch())[1]["mixed"].value
    early, late = torch.autograd.grad(term, [method.student.layer1[0].weight, method.student.layer3[0].weight])
    assert early.abs().max() > 0
    assert late.abs().max() > 0


def build(student, teacher, *words):
    return build_distiller(tiny_cfg("DISTILLER.TYPE", "FCFD", *words), student, teacher, 48, image_shape=(3, 32, 32))


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ConfigError, match="equally many stages; the student has 3 and the teacher 4"):
        build(build_model("resnet8"), build_model("vgg8"))
    with pytest.raises(ConfigError, match="FCFD.PATHS is 5; between these networks there are 4 mixed paths"):
        build(build_model("resnet8"), build_model("resnet14"), "FCFD.PATHS", "5")
    with pytest.raises(ConfigError, match="network of another library is always run in full"):
        build(build_model("resnet8"), build_model("torchvision/resnet18", image_size=32))
    words = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1.0}")
    with pytest.raises(ConfigError, match="the path 'prompt' is trained with the student: select a frozen path"):
        build(build_model("resnet8"), build_model("resnet14"), *words)


@pytest.mark.parametrize(("student", "teacher"), [("wrn_16_2", "wrn_16_1"), ("ShuffleV1", "resnet8x4")])
def test_running_single_stages_leaves_the_maps_as_they_are(student, teacher):
    """Stages work in place on their own tensors only."""
    method = build(build_model(student), build_model(teacher)).train()
    batch = tiny_batch(4)
    output, paths = method.forward_student(batch.image), dict(method.teacher(batch))
    maps = output.features["feats"] + paths["teacher"].features["feats"]
    before = [x.detach().clone() for x in maps]
    for step in range(6):
        method.terms(output, paths, tiny_batch(4, step=step))
    assert all(torch.equal(x, old) for x, old in zip(maps, before, strict=True))
