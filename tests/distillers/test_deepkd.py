"""Laws of DeepKD: its losses, and its trainer with a method."""

import pytest
import torch

from mdistiller_dfpt.distillers.crld import crld_loss
from mdistiller_dfpt.distillers.deepkd import classes_at, deepkd_loss
from mdistiller_dfpt.distillers.dkd import dkd_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import distillation, label, own
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import check_distiller, tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.several_momenta import backward_by_group
from mdistiller_dfpt.training.three_momenta import ThreeMomentaSGD
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import forked
from ..golden import labels, normal
from ..tiny_runs import continued, fit, outcome, run_of, stopped_after

TRAINER = ("SOLVER.TRAINER", "deepkd")


def test_its_parts_are_those_of_dkd():
    student, teacher = normal(1), normal(2)
    tckd, nckd = deepkd_loss(student, teacher, labels(), 4.0)
    torch.testing.assert_close(2 * tckd + 3 * nckd, dkd_loss(student, teacher, labels(), 2.0, 3.0, 4.0))


@pytest.mark.parametrize("k", [100, 1000])
def test_a_mask_of_all_classes_is_none(k):
    plain, masked = (deepkd_loss(normal(1), normal(2), labels(), 4.0, k) for k in (None, k))
    torch.testing.assert_close(plain, masked)


def test_classes_behind_the_teachers_first_have_no_effect_and_get_no_gradient():
    student, teacher = normal(1).requires_grad_(), normal(2)
    first = teacher.topk(20).indices
    behind = torch.ones_like(teacher).scatter(1, first, 0).bool()
    behind.scatter_(1, labels()[:, None], True)
    value = deepkd_loss(student, teacher, labels(), 4.0, 20)[1]
    gradient = torch.autograd.grad(value, student)[0]
    assert (gradient[behind] == 0).all()
    assert (gradient[~behind] != 0).all()
    changed = torch.where(behind, student + 5 * normal(7), student)
    torch.testing.assert_close(deepkd_loss(changed, teacher, labels(), 4.0, 20)[1], value)


def test_the_parts_by_hand():
    """Probabilities (1/2, 1/4, 1/8, 1/8) and (1/4, 1/4, 1/4, 1/4) of teacher and student; class 0 is right."""
    student, teacher = torch.zeros(1, 4).double(), torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log().double()
    tckd, nckd = deepkd_loss(student, teacher, torch.tensor([0]), 1.0)
    assert tckd.item() == pytest.approx(0.1438410362)  # 1/2 log 2 + 1/2 log 2/3
    assert nckd.item() == pytest.approx(0.0588915178)  # log 3 - 3/2 log 2
    # The first three are the target, class 1 and one of the others: (2/3, 1/3) against (1/2, 1/2)
    assert deepkd_loss(student, teacher, torch.tensor([0]), 1.0, 3)[1].item() == pytest.approx(0.0566330123)


def test_equal_logits_and_two_classes_give_zero_and_no_nan():
    student = normal(1).requires_grad_()
    for k in (None, 2, 20):
        parts = deepkd_loss(student, student.detach() + 3, labels(), 4.0, k)
        assert max(part.abs() for part in parts) < 1e-12
        assert torch.autograd.grad(sum(parts), student)[0].abs().max() < 1e-12
    two = normal(1, (8, 2)).requires_grad_()
    for k in (None, 2):
        nckd = deepkd_loss(two, normal(2, (8, 2)), labels() % 2, 4.0, k)[1]
        assert nckd == 0
        assert (torch.autograd.grad(nckd, two)[0] == 0).all()


def test_the_number_of_classes_follows_its_schedule():
    found = [classes_at(epoch, [5, 25, 25, 100], [1, 11, 21, 31]) for epoch in (1, 6, 11, 15, 21, 26, 31, 240)]
    assert found == [5, 15, 25, 25, 25, 62, 100, 100]
    assert [classes_at(epoch, [20], []) for epoch in (1, 99)] == [20, 20]
    assert classes_at(3, [], []) is None


def test_several_numbers_need_their_epochs():
    with pytest.raises(ConfigError, match=r"DEEPKD.TOPK has 2 numbers and DEEPKD.TOPK_EPOCHS 1: give each its epoch"):
        tiny_distiller("DEEPKD", "DEEPKD.TOPK", "[5, 9]", "DEEPKD.TOPK_EPOCHS", "[1]")


def test_coupled_it_is_kd_if_the_teacher_is_as_sure_of_all_samples():
    student, target = normal(1, (4, 10)), torch.arange(4)
    teacher = normal(2, (1, 10)).expand(4, 10).clone()
    for row in range(4):  # equal logits, but for the order of the classes
        teacher[row] = teacher[0].roll(row)
    distiller = tiny_distiller("DEEPKD", "DEEPKD.COUPLED", "True", "DEEPKD.BETA", "1.0", "DEEPKD.WARMUP", "0")
    output, batch = type(distiller.forward_student(tiny_batch().image)), tiny_batch(4)
    batch = type(batch)(batch.image, target, batch.index, epoch=1)
    terms = distiller.losses(output(student, {}), output(teacher, {}), batch)
    torch.testing.assert_close((terms["tckd"].weighted + terms["nckd"].weighted), kd_loss(student, teacher, 4.0))


@pytest.mark.parametrize("values", [{"coupled": True}, {"topk": [3]}, {"topk": [2, 9], "topk_epochs": [1, 2]}], ids=str)
def test_it_keeps_the_laws_with_other_values(values):
    check_distiller(type(tiny_distiller("DEEPKD")), **values)


def test_on_two_views_it_is_crld_where_the_teacher_is_sure_of_all_samples():
    """With the parts of KD: beta 1 - p_target of each sample, which all samples have in common here."""
    student = (normal(1, (4, 10)), normal(80, (4, 10)))
    base = normal(2, (10,))
    teacher = [torch.stack([(f * base).roll(row) for row in range(4)]) for f in (1.0, 1.0)]
    rest = 1 - (teacher[0] / 4).softmax(1)[0, 0]
    distiller = tiny_distiller(
        "DEEPKD_CRLD", *("DEEPKD_CRLD.TAU_W", "0.0", "DEEPKD_CRLD.TAU_S", "0.0", "DEEPKD_CRLD.WARMUP", "0")
    )
    output, batch = type(distiller.forward_student(tiny_batch().image)), tiny_batch(4)
    batch = type(batch)(batch.image, torch.arange(4), batch.index, epoch=1)
    views = {"teacher": teacher[0], "student_strong": student[1], "teacher_strong": teacher[1]}
    terms = distiller.both_views(output(student[0], {}), {n: output(v, {}) for n, v in views.items()}, batch)
    within, across = crld_loss(student, tuple(teacher), 0.0, 0.0, 4.0)
    torch.testing.assert_close(terms["tckd"].value + rest * terms["nckd"].value, 2 * within + 0.5 * across)


def one_step(terms, **options):
    w = torch.nn.Parameter(torch.zeros(()))
    optimizer = ThreeMomentaSGD([w], 1.0, 0.5, (0.3, -0.25, 0.25), 0.0, **options)
    for _ in range(2):
        optimizer.zero_grad()
        backward_by_group(terms(w), optimizer, lambda: None, lambda: None)
        optimizer.step()
    return w.item()


@pytest.mark.parametrize(("released", "task"), [(True, 0.25), (False, 0.8)])
def test_each_part_has_its_momentum(released, task):
    """Two steps of constant gradients: 1 of labels and the teacher's own, 10 of the target, 100 of the others."""

    def terms(w):
        parts = {"t": distillation(w, 10.0, part="target"), "o": distillation(w, 100.0, part="others")}
        return {"ce": label(w, 0.5), "own": own(w, 0.5), **parts}

    assert one_step(terms, released=released) == pytest.approx(-(2 + task) - 10 * 2.25 - 100 * 2.75)


def test_a_parameter_that_the_labels_alone_reach_has_the_mean_momentum():
    assert one_step(lambda w: {"ce": label(w)}, released=True) == pytest.approx(-(2 + 0.6))


def test_a_momentum_outside_zero_to_one_names_its_key():
    with pytest.raises(ConfigError, match=r"SOLVER.DEEPKD.DELTA_NCG is 0.2; with SOLVER.MOMENTUM 0.9"):
        Trainer(
            tiny_cfg("DISTILLER.TYPE", "DEEPKD", *TRAINER, "SOLVER.DEEPKD.DELTA_NCG", "0.2"),
            tiny_distiller("DEEPKD"), tiny_data(),
        )  # fmt: skip


def test_a_method_whose_parts_are_one_term_is_refused(tmp_path):
    message = r"SOLVER.TRAINER is deepkd; KD matches the target and the other classes at once"
    with pytest.raises(ConfigError, match=message):
        run_of("KD", tmp_path, *TRAINER)
    with pytest.raises(ConfigError, match=r"DEEPKD\+KD matches"):
        run_of("DEEPKD+KD", tmp_path, *TRAINER)
    assert run_of("NONE", tmp_path, *TRAINER).distiller.has_parts, "without distillation there is nothing to divide"


@pytest.mark.parametrize("name", ["DEEPKD", "DEEPKD_CRLD"])
def test_with_equal_momenta_a_run_is_the_base_trainers(name, tmp_path):
    def student(folder, *words):
        run = run_of(name, tmp_path / folder, *words, "SOLVER.WEIGHT_DECAY", "0.0")
        fit(run)
        return run.distiller.student.state_dict()

    equal = [word for part in ("TOG", "TCG", "NCG") for word in (f"SOLVER.DEEPKD.DELTA_{part}", "0.0")]
    base, deepkd = student("base"), student("deepkd", *TRAINER, *equal)
    for key, value in base.items():
        torch.testing.assert_close(deepkd[key], value, rtol=1e-3, atol=1e-5)


PROMPTED = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 1, prompt: 2}")


@pytest.mark.parametrize("words", [TRAINER, (*TRAINER, *PROMPTED)], ids=["frozen", "dual path"])
def test_a_stopped_run_goes_on_bit_for_bit(words, tmp_path):
    _, whole = forked(lambda: outcome(run_of("DEEPKD", tmp_path / "whole", "SOLVER.EPOCHS", "3", *words)))
    stopped_after(1, "DEEPKD", tmp_path / "stopped", *words)
    again = forked(lambda: continued("DEEPKD", tmp_path / "stopped", "SOLVER.EPOCHS", "3", *words))
    assert again == (0, whole)


def test_the_parts_reach_the_whole_student():
    distiller = tiny_distiller("DEEPKD")
    terms = distiller(tiny_batch())[1]
    for name in ("ce", "tckd", "nckd"):
        total({name: terms[name]}).backward(retain_graph=True)
        assert all(p.grad is not None for p in distiller.student.parameters())
        distiller.zero_grad()
