"""Specialists: each sample is taught by the network that is responsible for its class, about its classes alone."""

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.specialists import Specialists, concentrated, owners, parse_classes
from mdistiller_dfpt.testing import CLASSES, check_teacher, tiny_batch, tiny_distiller, tiny_networks, tiny_others

from ..golden import labels, normal
from ..tiny_runs import continued, outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "specialists", "DISTILLER.OTHER_TEACHERS", "[resnet20]")
LOGITS = torch.stack([normal(2), normal(5)])
OWNER = owners(["0-29,60", "30-59,61-99"], 2, 100)


def test_classes_are_numbers_and_ranges():
    assert parse_classes("0-3,7, 9-9") == [0, 1, 2, 3, 7, 9]
    for wrong in ("", "a", "3-1", "-1", "1-", "1-b", "1,,2"):
        with pytest.raises(ValueError, match="CLASSES has .* write class numbers and ranges"):
            parse_classes(wrong)


def test_by_default_each_has_a_contiguous_part():
    assert owners([], 2, 6).tolist() == [0, 0, 0, 1, 1, 1]
    assert owners([], 3, 4).bincount().tolist() == [2, 1, 1]


@pytest.mark.parametrize(("classes", "message"), [
    (["0-4"], "CLASSES has 1 groups; there are 2 networks"),
    (["0-2", "2-4"], "exactly once; see class 2"),
    (["0-1", "3-4"], "exactly once; see class 2"),
    (["0-2", "3-5"], "exactly once; see class 5"),
])  # fmt: skip
def test_each_class_has_exactly_one_specialist(classes, message):
    with pytest.raises(ConfigError, match=f"SPECIALISTS.CLASSES.*{message.removeprefix('CLASSES')}"):
        tiny_distiller("KD", *KIND, "SPECIALISTS.CLASSES", str(classes))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_probabilities_are_the_specialists_over_its_classes_and_zero_elsewhere(temperature):
    found = (concentrated(LOGITS, OWNER, labels()) / temperature).softmax(1)
    for row, label in enumerate(labels()):
        own = OWNER[label] == OWNER
        expected = torch.zeros(100).double()
        expected[own] = (LOGITS[OWNER[label], row, own] / temperature).softmax(0)
        torch.testing.assert_close(found[row], expected)


def test_one_specialist_for_all_classes_is_the_network():
    assert torch.equal(concentrated(LOGITS[:1], owners([], 1, 100), labels()), LOGITS[0])


def test_what_a_specialist_says_of_other_classes_does_not_matter():
    other = LOGITS + 5 * torch.stack([OWNER != 0, OWNER != 1])[:, None]
    found, expected = (concentrated(x, OWNER, labels()).softmax(1) for x in (other, LOGITS))
    torch.testing.assert_close(found, expected)


def test_each_network_has_a_path_of_its_own():
    teacher, batch = Specialists(tiny_networks()[1], tiny_others(1), classes=[], num_classes=CLASSES), tiny_batch()
    assert list(teacher.path_names()) == ["teacher", "specialist1", "specialist2"]
    paths = teacher(batch)
    with torch.no_grad():
        for path, network in zip(("specialist1", "specialist2"), teacher.frozen(), strict=True):
            assert torch.equal(paths[path].logits, network(batch.image)[0])


def test_it_obeys_the_laws_with_classes_of_its_own():
    check_teacher(Specialists, classes=["0,2,4", "1,3"])


@pytest.mark.parametrize("name", ["KD", "DKD", "DIST"])
def test_it_teaches_and_resumes_to_the_bit(name, tmp_path):
    expected = outcome(run_of(name, tmp_path / "whole", *KIND, "SOLVER.EPOCHS", "3"))
    stopped_after(1, name, tmp_path, *KIND)
    assert continued(name, tmp_path, *KIND, "SOLVER.EPOCHS", "3") == expected


def test_features_and_soft_labels_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="has only logits: set DISTILLER.PATHS to paths that have them .specialist1"):
        tiny_distiller("AT", *KIND)
    with pytest.raises(ConfigError, match="a teacher of kind specialists takes labels as numbers"):
        run_of("KD", tmp_path, *KIND, "SOLVER.MIXUP", "0.8")
