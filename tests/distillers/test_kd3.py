"""Laws of KD3."""

import math
from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.distillers.kd3 import contrast, drawn, mixed_statistics, selected
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_data, tiny_distiller

from ..golden import normal
from ..tiny_runs import continued, outcome, run_of, stopped_after

WITHOUT_LABELS = ("KD3.LOSS.CE_WEIGHT", "0.0")
ALL = ("KD3.THRESHOLD", "0.0")


def test_both_predictions_select_as_computed_by_hand():
    student = torch.tensor([[0.0, 0.0], [0.0, math.log(9.0)]])  # 1/2, 1/2; 1/10, 9/10
    teacher = torch.tensor([[math.log(3.0), 0.0], [math.log(4.0), 0.0]])  # 3/4, 1/4; 4/5, 1/5
    used, confidence = selected(student, teacher, 0.5, 0.6)
    torch.testing.assert_close(confidence, torch.tensor([0.625, 0.55]))  # they disagree on the second sample
    assert used.tolist() == [True, False]
    _, of_teacher = selected(student, teacher, 0.0, 0.6)
    torch.testing.assert_close(of_teacher, torch.tensor([0.75, 0.8]))


def test_a_perturbed_image_keeps_its_pattern_and_takes_statistics_of_another():
    image = normal(1, (4, 3, 6, 6)) * torch.tensor([1.0, 2.0, 3.0, 4.0]).double()[:, None, None, None] + 5
    own, others = (mixed_statistics(image, torch.full((4,), kept).double()) for kept in (1.0, 0.0))
    torch.testing.assert_close(own, image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(others.mean((2, 3)), image.flip(0).mean((2, 3)))
    torch.testing.assert_close(others.std((2, 3)), image.flip(0).std((2, 3)), rtol=1e-5, atol=1e-5)
    for a, b in zip(image.flatten(2).flatten(0, 1), others.flatten(2).flatten(0, 1), strict=True):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].item() == pytest.approx(1.0)


def test_shares_are_a_function_of_the_seed_and_of_the_right_distribution():
    shares = drawn(20_000, 0.1, seed=3)
    assert torch.equal(shares, drawn(20_000, 0.1, seed=3))
    assert not torch.equal(shares, drawn(20_000, 0.1, seed=4))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(0.25 / 1.2, abs=0.005)  # 1 / (4 (2 alpha + 1))


def test_the_contrast_is_least_where_each_sample_is_nearest_to_itself():
    x = torch.eye(3).double()
    expected = math.log(1 + 2 * math.exp(-2))  # cosines 1, 0, 0 at temperature 0.5
    torch.testing.assert_close(contrast(x, 7 * x, 0.5), torch.full((3,), expected).double())
    assert (contrast(x, x.roll(1, 0), 0.5) > expected).all()


def test_images_below_the_threshold_teach_nothing():
    batch = tiny_batch()
    terms = tiny_distiller("KD3", "KD3.THRESHOLD", "1.0")(batch)[1]
    assert [terms[name].value.item() for name in ("kd", "feat", "contrast")] == [0.0, 0.0, 0.0]
    terms = tiny_distiller("KD3", *ALL)(batch)[1]
    assert all(terms[name].value > 0 for name in ("kd", "feat", "contrast"))


def test_only_the_last_epochs_ask_the_student():
    distiller, batch = tiny_distiller("KD3", "SOLVER.EPOCHS", "3", "KD3.STUDENT_SHARE", "1.0"), tiny_batch()
    shares = []
    for epoch in (1, 2, 3):
        distiller.web_losses = lambda student, teacher, perturbed, share: shares.append(share) or {}
        distiller.extra_terms(replace(batch, epoch=epoch))
    assert shares == [0.0, 0.5, 1.0]


def test_without_labels_labelled_images_leave_no_trace():
    """Weights and running statistics after a step are the same whatever the labelled images are."""
    states = []
    for seed in (1, 2):
        distiller, batch = tiny_distiller("KD3", *WITHOUT_LABELS, *ALL), tiny_batch()
        optimizer = torch.optim.SGD(distiller.parameter_groups(), lr=0.1)
        logits, terms = distiller(replace(batch, image=tiny_batch(seed=seed).image))
        assert set(terms) == {"kd", "feat", "contrast"}
        assert not logits.requires_grad
        total(terms).backward()
        optimizer.step()
        states.append(distiller.state_dict())
        assert distiller.reused.training
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_without_labels_it_learns_and_resumes_to_the_bit(tmp_path):
    whole = run_of("KD3", tmp_path / "whole", "SOLVER.EPOCHS", "3", *WITHOUT_LABELS, *ALL)
    expected = outcome(whole)
    kd = [epoch["train"]["kd"] for epoch in whole.epochs]
    assert kd[-1] < kd[0]
    stopped_after(1, "KD3", tmp_path, *WITHOUT_LABELS, *ALL)
    assert continued("KD3", tmp_path, "SOLVER.EPOCHS", "3", *WITHOUT_LABELS, *ALL) == expected


def test_without_a_pool_it_says_what_to_set(tmp_path):
    with pytest.raises(ConfigError, match="KD3 uses unlabelled images beside the training set: set DATASET.EXTRA.TYPE"):
        run_of("KD3", tmp_path, make_data=lambda cfg: tiny_data())


def test_the_share_of_an_images_own_statistics_depends_on_the_seed(monkeypatch):
    seeds = []
    monkeypatch.setattr("mdistiller_dfpt.distillers.kd3.drawn", lambda n, a, s: seeds.append(s) or torch.ones(n))
    for seed in (0, 1, 0):
        tiny_distiller("KD3", seed=seed)(tiny_batch())
    assert seeds[0] == seeds[2] != seeds[1]
