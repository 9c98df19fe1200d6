"""Laws of WKD."""

from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.distillers.wkd import class_distances, gaussian_loss, target_loss, transport_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import labels, normal

NO_LOGIT = ("WKD.LOSS.WKD_LOGIT_WEIGHT", "0.0")
NO_FEAT = ("WKD.LOSS.WKD_FEAT_WEIGHT", "0.0")


def line_costs(classes=100):
    """The distance on a line, at most 1."""
    position = torch.linspace(0, 1, classes, dtype=torch.double)
    return (position[:, None] - position).abs()


def test_with_little_regularisation_it_is_the_distance_between_distributions_on_a_line():
    student, teacher, target = normal(1, (4, 6)), normal(2, (4, 6)), torch.zeros(4, dtype=torch.long)
    others = [(x[:, 1:] / 2).softmax(1) for x in (student, teacher)]
    exact = (others[0] - others[1]).cumsum(1).abs().sum(1).mean() / 5  # the earth mover's distance in one dimension
    mine = transport_loss(student, teacher, target, line_costs(6), 2.0, 0.05, 200)
    torch.testing.assert_close(mine, exact, rtol=1e-2, atol=0)


def test_the_targets_logits_do_not_matter_for_the_transport():
    student, teacher, target = normal(1), normal(2), labels()
    other = student.scatter(1, target[:, None], 30.0)
    for s in (student, other):
        s.requires_grad_()
    costs = [transport_loss(s, teacher, target, line_costs(), 4.0, 0.05, 10) for s in (student, other)]
    assert costs[0] == costs[1]
    assert torch.autograd.grad(costs[0], student)[0].gather(1, target[:, None]).abs().max() == 0


def test_mass_moved_to_a_near_class_costs_less_than_to_a_far_one():
    target, teacher = torch.tensor([0]), torch.zeros(1, 100).double()
    teacher[0, 10] = 9
    near, far = (torch.zeros(1, 100).double().index_fill(1, torch.tensor(c), 9) for c in (12, 90))
    costs = [transport_loss(s, teacher, target, line_costs(), 1.0, 0.05, 50) for s in (teacher, near, far)]
    assert costs[0] < costs[1] < 0.5 * costs[2]


def test_the_target_part_falls_with_the_students_probability_alone():
    student, teacher, target = normal(1).requires_grad_(), normal(2), labels()
    (gradient,) = torch.autograd.grad(target_loss(student, teacher, target), student)
    assert (gradient.gather(1, target[:, None]) < 0).all()
    torch.testing.assert_close(target_loss(student, teacher + 7, target), target_loss(student, teacher, target))


def test_the_gaussians_of_a_map_ignore_where_in_a_cell_a_response_is():
    student, teacher = normal(1, (2, 3, 4, 4)), normal(2, (2, 3, 4, 4))
    for grid, same in ((1, True), (2, False)):
        pairs = zip(gaussian_loss(student.flip(2), teacher, grid, 1e-5),
                    gaussian_loss(student, teacher, grid, 1e-5), strict=True)  # fmt: skip
        assert all(a.item() == pytest.approx(b.item()) for a, b in pairs) is same


def test_means_and_deviations_are_told_apart():
    x = normal(1, (2, 3, 4, 4))
    mean, deviation = gaussian_loss(x + 2, x, 1, 1e-5)
    assert mean.item() == pytest.approx(3 * 4)
    assert deviation.item() < 1e-12
    mean, deviation = gaussian_loss(3 * (x - x.mean((2, 3), keepdim=True)), x - x.mean((2, 3), keepdim=True), 1, 1e-12)
    assert mean.item() < 1e-12
    assert deviation.item() == pytest.approx(4 * x.var((2, 3)).sum().item() / 2, rel=1e-6)


def test_class_distances_ignore_rotation_and_scale_of_a_class():
    features = normal(5, (3, 12, 4))
    features[1] = 7 * features[0] @ torch.linalg.qr(normal(6, (4, 4))).Q + 3
    distances = class_distances(features)
    assert distances.diagonal().abs().max() < 1e-9
    assert distances[0, 1].abs() < 1e-9
    assert 0 < distances[0, 2] <= 1
    torch.testing.assert_close(distances, distances.T)


@pytest.mark.parametrize("features", ["map", "pooled", "logits"])
def test_costs_do_not_depend_on_the_order_of_the_batches(features):
    words = ("WKD.COST_FEATURES", features)
    whole, parts = tiny_distiller("WKD", *words), tiny_distiller("WKD", *words)
    batch = tiny_batch(40)
    whole.prepare([batch])
    parts.prepare([batch.rows(slice(24, 40)), batch.rows(slice(0, 24))])
    torch.testing.assert_close(parts.cost, whole.cost)
    assert whole.cost.diagonal().abs().max() < 1e-3
    assert whole.cost[~torch.eye(5).bool()].min() > 0.01


def test_a_class_without_images_is_far_from_all(capsys):
    distiller = tiny_distiller("WKD", "WKD.COST_MATRIX_SHARPEN", "0.0")
    capsys.readouterr()
    distiller.prepare([tiny_batch(4)])
    assert "1 classes have none" in capsys.readouterr().out
    assert distiller.cost[4].tolist() == [1, 1, 1, 1, 1]
    assert distiller.cost[:4, :4].max() < 0.99


def test_costs_of_the_classifier_are_cosines():
    distiller = tiny_distiller("WKD", "WKD.COST_MATRIX", "fc", "WKD.COST_MATRIX_SHARPEN", "0.0")
    weight = distiller.teacher_network.classifier_layer.weight
    torch.testing.assert_close(distiller.cost[0, 1], 1 - torch.cosine_similarity(weight[0], weight[1], 0))


def test_weights_fall_to_zero_in_the_last_epoch():
    distiller = tiny_distiller("WKD", "SOLVER.EPOCHS", "10", "WKD.LOSS.COSINE_DECAY_EPOCH", "4")
    weights = []
    for epoch in (1, 4, 7, 10):
        _, terms = distiller(replace(tiny_batch(), epoch=epoch))
        weights.append([terms[name].in_force for name in ("wkd_target", "wkd_logit", "wkd_feat")])
    expected = [[1, 200, 0.08], [1, 200, 0.08], [1, 100, 0.04], [1, 0, 0]]
    torch.testing.assert_close(torch.tensor(weights), torch.tensor(expected))


def test_a_weight_of_zero_omits_a_part():
    assert tiny_distiller("WKD", *NO_LOGIT)(tiny_batch())[1].keys() == {"ce", "wkd_feat"}
    assert tiny_distiller("WKD", *NO_FEAT)(tiny_batch())[1].keys() == {"ce", "wkd_target", "wkd_logit"}


@pytest.mark.parametrize("words", [("WKD.HINT_LAYER", "9"), ("WKD.SPATIAL_GRID", "64"), ("WKD.COST_FEATURES", "maps")])
def test_keys_that_do_not_fit_the_networks_are_refused(words):
    with pytest.raises(ConfigError, match=words[0]):
        tiny_distiller("WKD", *words)
