"""MCMI: the teacher's run before the student's, and what its loss measures."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import build_distiller, load_cfg
from mdistiller_dfpt.distillers.mcmi import conditional_information
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.testing import CLASSES, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks
from mdistiller_dfpt.testing.make import prepare, snapshot, take_steps

from ..forks import in_processes
from ..golden import normal
from ..tiny_runs import continued, outcome, run_of, stopped_after


def test_predictions_equal_to_their_centroid_carry_no_information_and_others_carry_some():
    logits = normal(1)
    assert conditional_information(logits, logits.softmax(1)).abs() < 1e-12
    assert conditional_information(logits, normal(2).softmax(1)) > 0


def test_it_is_the_divergence_of_each_prediction_from_the_centroid():
    logits, centroids = normal(1), normal(2).softmax(1)
    p = logits.softmax(1)
    expected = (p * (p.log() - centroids.log())).sum(1).mean()
    torch.testing.assert_close(conditional_information(logits, centroids), expected)


def test_over_a_whole_class_it_is_the_mutual_information():
    """H(mean p) - mean H(p), where the centroid is the mean of the predictions of the class."""
    p = normal(1).softmax(1)
    mean = p.mean(0, keepdim=True)
    expected = -(mean * mean.log()).sum() + (p * p.log()).sum(1).mean()
    torch.testing.assert_close(conditional_information(normal(1), mean.expand_as(p)), expected)


def test_the_centroids_are_the_mean_predictions_of_the_classes_with_the_statistics_of_the_batch():
    method, batch = tiny_distiller("MCMI"), tiny_batch()
    before = snapshot(method.student)
    p = method.student.train()(batch.image)[0].softmax(1)
    method.student.load_state_dict(before)
    prepare(method)
    for label in range(CLASSES):
        torch.testing.assert_close(method.centroids[label], p[batch.target == label].mean(0))
    assert all(torch.equal(value, method.student.state_dict()[key]) for key, value in before.items())
    prepare(method, replace(batch, target=torch.zeros_like(batch.target)))
    assert method.centroids.isfinite().all()


def test_the_weight_spreads_the_predictions_within_a_class():
    spread = {}
    for weight in ("0.0", "2.0"):
        method, batch = tiny_distiller("MCMI", "MCMI.LOSS.CMI_WEIGHT", weight), tiny_batch()
        take_steps(method, 20)
        spread[weight] = conditional_information(method.student(batch.image)[0], method.centroids[batch.target]).item()
    assert spread["2.0"] > spread["0.0"]


def test_without_the_weight_it_is_cross_entropy():
    method, batch = tiny_distiller("MCMI", "MCMI.LOSS.CMI_WEIGHT", "0.0"), tiny_batch()
    logits, terms = method(batch)
    torch.testing.assert_close(sum(t.weighted for t in terms.values()), F.cross_entropy(logits, batch.target))


def test_its_teacher_is_the_frozen_network():
    with pytest.raises(ConfigError, match="MCMI requires a teacher of kind frozen"):
        tiny_distiller("MCMI", "DISTILLER.TEACHER_KIND", "smoothed")


@pytest.mark.parametrize("name", ["MCMI", "AID"])
def test_the_student_starts_as_the_teacher_and_another_network_is_refused(name):
    method = tiny_distiller(name)
    for key, value in method.teacher.network.state_dict().items():
        assert torch.equal(value, method.student.state_dict()[key]), key
    others = [tiny_networks(1)[0]]
    with pytest.raises(ConfigError, match=f"DISTILLER.STUDENT: {name} fine-tunes a trained teacher, so DISTILLER.STU"):
        build_distiller(tiny_cfg("DISTILLER.TYPE", name), *tiny_networks(), 48, image_shape=(3, 8, 8), others=others)


def test_a_resumed_run_is_an_unbroken_one_to_the_bit(tmp_path):
    expected = outcome(run_of("MCMI", tmp_path / "whole", "SOLVER.EPOCHS", "3"))
    stopped_after(1, "MCMI", tmp_path)
    assert continued("MCMI", tmp_path, "SOLVER.EPOCHS", "3") == expected


def test_two_processes_measure_the_centroids_of_one(tmp_path):
    def of_shard(rank):
        method = tiny_distiller("MCMI")
        method.forward_student = lambda image: type("Output", (), {"logits": image.flatten(1)[:, :CLASSES]})
        prepare(method)
        return method.centroids.tolist()

    found = in_processes(of_shard, tmp_path)
    for centroids in found.values():
        torch.testing.assert_close(torch.tensor(centroids), torch.tensor(of_shard(0)))


@pytest.mark.parametrize("method", ["mcmi_teacher", "mcmi"])
@pytest.mark.parametrize("pair", ["res56_res20", "vgg13_mv2", "res32x4_shuv1", "wrn40_2_wrn16_2"])
def test_configs_run_on_pairs_of_several_families(method, pair):
    assert {"ce"} < smoke(load_cfg(f"cifar100/{method}/{pair}")).keys()
