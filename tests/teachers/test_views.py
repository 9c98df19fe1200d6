"""Heads on one teacher: their terms, their mean, their training before and beside the student's."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.teachers.views import (
    Views,
    contrast,
    diversity,
    feature_inter_loss,
    intra_view_loss,
    logit_inter_loss,
    spread_rows,
    weighted_mean,
)
from mdistiller_dfpt.testing import (
    changed,
    check_teacher,
    snapshot,
    take_steps,
    tiny_batch,
    tiny_distiller,
    tiny_teacher,
)

from ..golden import normal
from ..tiny_runs import outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "views")


def unit_rows(seed, *shape):
    return F.normalize(normal(seed, shape, 1.0), dim=-1)


def test_a_view_within_the_margin_of_its_own_anchor_is_not_drawn_closer():
    anchor = unit_rows(1, 6, 32)
    views = F.normalize(anchor[:, None] + 0.01 * normal(2, (6, 3, 32), 1.0), dim=2).requires_grad_()
    at_anchor = anchor[:, None].expand(-1, 3, -1)
    scores = (anchor @ anchor.T).fill_diagonal_(1.0) / 0.07
    torch.testing.assert_close(contrast(anchor, at_anchor), F.cross_entropy(scores, torch.arange(6)) / 3)
    # Nothing pulls to the own anchor: the gradient is what the other anchors push
    gradient = torch.autograd.grad(contrast(anchor, views), views)[0]
    pushed = scores.softmax(1).fill_diagonal_(0.0) @ anchor / (0.07 * 6 * 3 * 3)
    torch.testing.assert_close(gradient, pushed[:, None].expand(-1, 3, -1), rtol=0.3, atol=1e-5)


def test_views_of_other_samples_are_told_apart():
    anchor = torch.eye(5, 16).double()
    views = anchor[:, None].expand(-1, 2, -1)
    assert contrast(anchor, views) < 1e-4
    assert contrast(anchor, views.roll(1, 0)) > 5


def test_diversity_counts_only_samples_whose_views_are_all_close_to_the_anchor():
    anchor = torch.eye(2, 8).double()
    near, far = anchor[:1, None].expand(-1, 3, -1), -anchor[1:, None].expand(-1, 3, -1)
    assert diversity(anchor, torch.cat([near, far])).item() == pytest.approx(math.log(1 + math.e) / 2)
    one_far = torch.cat([near[:, :2], far[:, :1]], 1)
    assert diversity(anchor, torch.cat([one_far, far])) == 0


def test_the_intra_view_term_is_least_where_directions_are_opposite():
    anchor, offset = normal(1, (4, 16), 1.0), normal(2, (4, 16), 1.0)
    opposite = torch.stack([anchor + offset, anchor - 2 * offset], 1)
    equal = torch.stack([anchor + offset, anchor + 2 * offset], 1)
    assert intra_view_loss(anchor, opposite).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert intra_view_loss(anchor, equal).item() == pytest.approx(math.log(1 + math.e))


def test_feature_terms_ignore_the_scale_of_features_and_all_terms_the_order_of_views():
    anchor, views = normal(1, (6, 16), 1.0), normal(2, (6, 4, 16), 1.0)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(feature_inter_loss(3 * anchor, 3 * views), feature_inter_loss(anchor, views))
    torch.testing.assert_close(intra_view_loss(3 * anchor, 3 * views), intra_view_loss(anchor, views))
    for loss in (feature_inter_loss, intra_view_loss, lambda a, v: logit_inter_loss(a, v, 4.0)):
        torch.testing.assert_close(loss(anchor, views[:, order]), loss(anchor, views))


def test_the_mean_has_the_weighted_mean_of_probabilities():
    logits, weights = torch.stack([normal(seed) for seed in (1, 2, 3)]), torch.tensor([1.0, 0.8, 0.8]).double()
    expected = sum(w * (x / 4).softmax(1) for w, x in zip(weights, logits, strict=True)) / weights.sum()
    torch.testing.assert_close((weighted_mean(logits, weights, 4.0) / 4).softmax(1), expected)


def test_the_same_row_of_all_heads_is_orthonormal():
    rows = spread_rows(32, 5).transpose(0, 1)  # (row, head, width)
    torch.testing.assert_close(rows @ rows.mT, torch.eye(5).expand(32, 5, 5), atol=1e-5, rtol=0)


def test_heads_drop_in_training_alone_and_the_maps_are_the_teachers():
    teacher, batch = tiny_teacher(Views), tiny_batch()
    for training in (True, False):
        paths = teacher.train(training)(batch)
        plain = paths["teacher"].features["pooled_feat"]
        with torch.no_grad():
            kept = [head(plain, None)[1] for head in teacher.heads]
        same = [torch.allclose(a, b) for a, b in zip(kept, paths["views"].features["view_feats"], strict=True)]
        assert same == [not training] * 5
    torch.testing.assert_close(paths["views"].features["feats"], paths["teacher"].features["feats"])


def test_the_students_terms_do_not_train_the_heads_nor_theirs_the_student():
    distiller = tiny_distiller("[KD, CRD]", *KIND)
    heads = {id(p) for p in distiller.teacher.heads.parameters()}
    for kind in ("student", "teacher"):
        distiller.zero_grad(set_to_none=True)
        _, terms = distiller(tiny_batch())
        total({k: t for k, t in terms.items() if (t.kind == "teacher") == (kind == "teacher")}).backward()
        reached = {id(p) for p in distiller.parameters() if p.grad is not None}
        assert reached == heads if kind == "teacher" else not reached & heads


def test_the_heads_own_training_lowers_their_loss_and_changes_no_other_module():
    teacher = tiny_teacher(Views, init_epochs=6, init_lr=0.05)
    batches, before = [tiny_batch(16, seed) for seed in range(4)], snapshot(teacher)
    outputs = teacher.train()(batches[0])
    first = total(teacher.losses(outputs["teacher"], outputs, batches[0])).item()
    for epoch in range(-5, 1):
        teacher.prepare([replace(batch, epoch=epoch) for batch in batches])
    outputs = teacher(batches[0])
    assert total(teacher.losses(outputs["teacher"], outputs, batches[0])).item() < first - 0.2
    assert {key.split(".")[0] for key in changed(before, teacher.state_dict())} == {"heads", "momenta"}


def test_without_epochs_of_their_own_the_heads_wait_for_the_student():
    teacher = tiny_teacher(Views)
    before = snapshot(teacher)
    teacher.prepare([tiny_batch()])
    assert changed(before, teacher.state_dict()) == []
    assert len(teacher.momenta) == 0


@pytest.mark.parametrize("values", [{"augnum": 2, "weight": 0.5}, {"init_epochs": 2, "temperature": 1.0}])
def test_the_laws_hold_for_other_values(values):
    check_teacher(Views, **values)


@pytest.mark.parametrize("words", [("KD",), ("REVIEWKD", "VIEWS.INIT_EPOCHS", "2")])
def test_a_resumed_run_equals_an_unbroken_one(words, tmp_path):
    name, *more = words
    expected = outcome(run_of(name, tmp_path / "whole", "SOLVER.EPOCHS", "3", *KIND, *more))
    stopped_after(1, name, tmp_path / "again", *KIND, *more)
    resumed = run_of(name, tmp_path / "again", "SOLVER.EPOCHS", "3", *KIND, *more)
    assert outcome(resumed, resume=True) == expected


def test_both_paths_are_evaluated():
    distiller = tiny_distiller("KD", *KIND)
    take_steps(distiller, 2)
    assert set(distiller.eval().evaluated_paths(tiny_batch().image)) == {"teacher", "views", "student"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("KDPP", *KIND), "KDPP takes class means of the path 'views' before the first step, and the path is trained"),
        (("KD", *KIND, "VIEWS.AUGNUM", "7"), "VIEWS.AUGNUM is 7; it must be in 2 .. 6"),
    ],
)
def test_what_does_not_fit_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        tiny_distiller(*words)


def test_a_logits_cache_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="uses more of the teacher than the logits"):
        run_of("KD", tmp_path, *KIND, "DISTILLER.LOGITS_CACHE", str(tmp_path))
