"""Laws of LELP."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.lelp import LELP, lelp_loss, null_space, principal_directions
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import (
    CLASSES,
    check_distiller,
    take_steps,
    tiny_batch,
    tiny_cfg,
    tiny_distiller,
    tiny_networks,
)
from mdistiller_dfpt.testing.make import prepare

from ..forks import in_processes
from ..golden import normal

T, BETA = 3.0, 0.7


def subclasses(seed, count=4):
    return normal(seed, (8, 5, count))


def test_one_subclass_is_kd():
    student, teacher = normal(1, (8, 5)), normal(2, (8, 5))
    torch.testing.assert_close(
        lelp_loss(student[:, :, None], teacher, subclasses(3, 1), T, BETA), kd_loss(student, teacher, T)
    )


def test_the_loss_is_kd_of_the_classes_and_the_divergence_within_each():
    """By the chain rule: the classes of the student have the summed probabilities of their subclasses."""
    student, teacher, coordinates = subclasses(1), normal(2, (8, 5)), subclasses(3)
    classes = T * (student / T).logsumexp(2)
    within = F.kl_div((student / T).log_softmax(2), (coordinates / BETA).softmax(2), reduction="none").sum(2)
    expected = kd_loss(classes, teacher, T) + T**2 * ((teacher / T).softmax(1) * within).sum(1).mean()
    torch.testing.assert_close(lelp_loss(student, teacher, coordinates, T, BETA), expected)


def test_it_is_zero_where_the_subclasses_agree_and_kd_where_they_are_alike():
    teacher, coordinates = normal(2, (8, 5)), subclasses(3)
    probabilities = (teacher / T).softmax(1)[:, :, None] * (coordinates / BETA).softmax(2)
    assert lelp_loss(T * probabilities.log(), teacher, coordinates, T, BETA).abs() < 1e-12
    student = normal(1, (8, 5))
    alike = student[:, :, None].expand(-1, -1, 4)
    torch.testing.assert_close(lelp_loss(alike, teacher, coordinates, T, 1e9), kd_loss(student, teacher, T))


def test_a_hand_computed_value():
    student = torch.zeros(1, 2, 2)  # 1/4 for each subclass
    teacher = torch.tensor([[3.0, 1.0]]).log()  # 3/4 and 1/4
    coordinates = torch.tensor([[[2.0, 1.0], [1.0, 1.0]]]).log()  # 2/3 and 1/3, 1/2 and 1/2
    # The teacher's are 1/2, 1/4, 1/8, 1/8: 1/2 log 2 + 0 + 2/8 log 1/2 = 1/4 log 2
    torch.testing.assert_close(lelp_loss(student, teacher, coordinates, 1.0, 1.0), torch.tensor(0.1732868))


def test_no_logit_depends_on_the_null_space_and_its_basis_is_complete():
    weight = normal(1, (3, 7))
    weight[2] = weight[0] - weight[1]  # rank 2
    basis = null_space(weight)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5).double())
    assert (weight @ basis).abs().max() < 1e-12


def test_directions_are_those_of_the_largest_variance():
    axes = torch.linalg.qr(normal(1, (2, 6, 6))).Q
    covariance = axes @ torch.diag(torch.tensor([9.0, 4.0, 1.0, 0.5, 0.1, 0.0]).double()) @ axes.mT
    found = principal_directions(covariance, 2)
    torch.testing.assert_close((found.mT @ axes).abs(), torch.eye(2, 6).double().expand(2, -1, -1))


def embeddings(method):
    with torch.no_grad():
        return method.teacher_network(tiny_batch(64).image)[1]["pooled_feat"].double()


@pytest.fixture
def measured():
    method = tiny_distiller("LELP", "LELP.SUBCLASSES", "3")
    prepare(method, tiny_batch(64))
    return method


def test_directions_are_orthonormal_and_unseen_by_the_classifier(measured):
    products = measured.directions.mT @ measured.directions
    torch.testing.assert_close(products, torch.eye(3).expand(CLASSES, -1, -1), atol=1e-5, rtol=0)
    seen = measured.teacher_network.classifier_layer.weight @ measured.directions
    assert seen.abs().max() < 1e-5


def test_they_span_the_principal_components_of_each_class_and_its_mean_is_the_origin(measured):
    x, target = embeddings(measured), tiny_batch(64).target
    unseen = null_space(measured.teacher_network.classifier_layer.weight.double())
    for own in range(CLASSES):
        rows = x[target == own]
        within = (rows - rows.mean(0)) @ unseen @ unseen.T
        largest = torch.linalg.svdvals(within)[:3].pow(2).sum()
        directions = measured.directions[own].double()
        torch.testing.assert_close((within @ directions).pow(2).sum(), largest, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(rows.mean(0) @ directions, measured.origins[own].double(), rtol=1e-4, atol=1e-5)


def test_the_deployed_network_sums_the_probabilities_of_the_subclasses():
    method = tiny_distiller("LELP")
    take_steps(method, 2)
    method.eval()
    image = tiny_batch().image
    with torch.no_grad():
        logits, features = method.deployed(image)
    probabilities = features["subclass_logits"].flatten(1).softmax(1).unflatten(1, (CLASSES, -1)).sum(2)
    torch.testing.assert_close(logits.softmax(1), probabilities)


def test_the_students_own_classifier_and_the_labels_are_not_used():
    method = tiny_distiller("LELP")
    assert not any(p.requires_grad for p in method.student.classifier_layer.parameters())
    assert list(method(tiny_batch())[1]) == ["kd"]


def test_other_values_obey_the_laws():
    check_distiller(LELP, ce_weight=0.5, subclasses=2, null_space=False, temperature=4.0)


def test_two_processes_measure_the_same_directions(tmp_path):
    def squares(rank=0):
        method = tiny_distiller("LELP", "LELP.SUBCLASSES", "3")
        prepare(method, tiny_batch(64))
        return [[x.double().pow(2).sum().item() for x in own] for own in (method.origins, method.directions)]

    whole, found = squares(), in_processes(squares, tmp_path)
    for own in found.values():
        torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-6)


def test_two_classes_are_divided():
    student, teacher = tiny_networks()
    for network in (student, teacher):
        network.fc = torch.nn.Linear(network.fc.in_features, 2)
    method = build_distiller(tiny_cfg("DISTILLER.TYPE", "LELP"), student, teacher, 48, image_shape=(3, 16, 16)).train()
    batch = tiny_batch(16)
    batch = replace(batch, target=batch.target % 2)
    prepare(method, batch)
    logits, terms = method(batch)
    assert logits.shape == (16, 2)
    assert terms["kd"].value.isfinite()


def test_a_class_that_is_absent_from_the_training_set_is_finite():
    method = tiny_distiller("LELP")
    batch = tiny_batch(16)
    prepare(method, batch.rows(batch.target != 0))
    assert method(batch)[1]["kd"].value.isfinite()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["LELP.SUBCLASSES", "99"], r"LELP.SUBCLASSES is 99; the teacher's embedding of .*or `LELP.NULL_SPACE False`"),
        (
            ["DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1}"],
            "LELP measures the subclasses of the path 'prompt' before the first step",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny_distiller("LELP", *words)
