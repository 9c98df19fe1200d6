"""Laws of CRLD."""

import torch

from mdistiller_dfpt.distillers.crld import crld_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal

STUDENT, TEACHER = (normal(1), normal(80)), (normal(2), normal(81))


def test_without_thresholds_it_is_kd_of_all_pairs_of_views():
    within, across = crld_loss(STUDENT, TEACHER, 0.0, 0.0, 4.0)
    pairs = [[kd_loss(s, t, 4.0) for t in TEACHER] for s in STUDENT]
    torch.testing.assert_close(within, pairs[0][0] + pairs[1][1])
    torch.testing.assert_close(across, pairs[0][1] + pairs[1][0])


def test_without_a_sure_teacher_it_is_zero():
    assert [part.item() for part in crld_loss(STUDENT, TEACHER, 1.0, 1.0, 4.0)] == [0, 0]


def test_each_threshold_is_of_the_teachers_confidence_on_its_view():
    sure = torch.zeros(8, dtype=torch.bool)
    sure[:3] = True
    peaked = torch.where(sure[:, None], 20 * TEACHER[0], 0 * TEACHER[0])
    for part, teacher, thresholds in ((0, (peaked, TEACHER[1]), (0.9, 0.0)), (1, (TEACHER[0], peaked), (0.0, 0.9))):
        loss = crld_loss(STUDENT, teacher, *thresholds, 4.0)[part]
        some = crld_loss([s[:3] for s in STUDENT], [t[:3] for t in teacher], 0.0, 0.0, 4.0)[part]
        torch.testing.assert_close(loss, some * 3 / 8)


def test_both_views_are_trained_with_the_labels():
    terms = tiny_distiller("CRLD")(tiny_batch())[1]
    assert {name for name, term in terms.items() if term.kind == "label"} == {"ce", "ce_strong"}
    assert terms["ce"].value != terms["ce_strong"].value
