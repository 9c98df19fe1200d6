"""Laws of OFD, and values of its authors' code (overhaul-distillation 76344a8, CIFAR-100/distiller.py)."""

import copy

import pytest
import torch

from mdistiller_dfpt.config.load import load_cfg
from mdistiller_dfpt.distillers.ofd import Margin, ofd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models.output import as_output
from mdistiller_dfpt.testing import changed, snapshot, tiny_batch, tiny_distiller

from ..golden import normal

SHAPES = [(8, 16, 16, 16), (8, 32, 8, 8), (8, 64, 4, 4)]
KINDS = {
    "frozen": (),
    "assistants": ("DISTILLER.TEACHER_KIND", "assistants", "DISTILLER.ASSISTANTS", "[resnet8]"),
    "in a list": (),
}


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_the_teacher_has_the_batchs_statistics_and_its_own_stay(kind):
    """As in the authors' loop, `t_net.train()`, but that its buffers do not change."""
    distiller = tiny_distiller("[OFD, KD]" if kind == "in a list" else "OFD", *KINDS[kind])
    batch, network = tiny_batch(), distiller.frozen()[-1]
    before = snapshot(network)
    _, terms = distiller(batch)
    member = distiller.members[0].distiller if kind == "in a list" else distiller
    for trained in (True, False):
        other = copy.deepcopy(network).train(trained)
        with torch.no_grad():
            student, teacher = member.forward_student(batch.image), as_output(other(batch.image))
            margins = [m.value for m in member.margins]
            for margin, value in zip(member.margins, margins, strict=True):
                margin.eval()
                assert torch.equal(margin.value, value)
            expected = member.feature_loss(student, teacher, batch)
        name = "OFD.feat" if kind == "in a list" else "feat"
        assert torch.allclose(terms[name].value, expected, rtol=1e-5) == trained
    assert changed(before, network.state_dict()) == []
    assert not any(m.training for m in network.modules())
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_other_methods_of_a_list_match_the_teacher_with_its_own_statistics():
    alone, listed = (tiny_distiller(name)(tiny_batch())[1] for name in ("KD", "[OFD, KD]"))
    torch.testing.assert_close(listed["KD.kd"].value, alone["kd"].value)


def test_a_path_that_is_trained_runs_once_with_the_statistics_that_its_kind_sets():
    words = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{prompt: 1.0}")
    distiller, calls = tiny_distiller("OFD", *words), []
    plain = distiller.teacher.prompt_path
    distiller.teacher.prompt_path = lambda *arguments: calls.append(1) or plain(*arguments)
    distiller(tiny_batch())
    assert calls == [1]


def test_in_evaluation_the_teacher_has_its_own_statistics():
    distiller, batch = tiny_distiller("OFD").eval(), tiny_batch()
    with torch.no_grad():
        paths = distiller.teacher(batch)
        found = distiller.matched_output(distiller.forward_student(batch.image), paths, batch)
    assert torch.equal(found.logits, paths["teacher"].logits)


def test_the_loss_is_zero_where_the_teacher_is_off_and_the_student_lower():
    teacher = torch.tensor([-2.0, -0.1, 1.0]).reshape(1, 3, 1, 1)
    margin = torch.full((3,), -0.5)
    assert ofd_loss(torch.tensor([-0.5, -0.1, 1.0]).reshape(1, 3, 1, 1), teacher, margin) == 0
    assert ofd_loss(torch.tensor([-9.0, -9.0, 1.0]).reshape(1, 3, 1, 1), teacher, margin) == 0
    above = ofd_loss(torch.tensor([0.5, -9.0, 1.0]).reshape(1, 3, 1, 1), teacher, margin)
    torch.testing.assert_close(above, torch.tensor(1.0))  # (0.5 - (-0.5))**2


def test_a_positive_response_is_matched_exactly():
    teacher = normal(1, (2, 3, 4, 4)).abs() + 0.1
    student = normal(2, (2, 3, 4, 4))
    expected = (student - teacher).pow(2).sum() / 2
    torch.testing.assert_close(ofd_loss(student, teacher, -torch.ones(3).double()), expected)


def test_the_margin_is_each_channels_mean_negative_response():
    batches = [normal(seed, (4, 3, 2, 2)) for seed in (1, 2)]
    batches[0][:, 2] = batches[0][:, 2].abs()
    batches[1][:, 2] = batches[1][:, 2].abs()
    margin = Margin(3)
    for batch in batches:
        margin.measure(batch)
    together = torch.cat(batches)
    expected = [together[:, c][together[:, c] < 0].mean().float() for c in range(2)]
    torch.testing.assert_close(margin.value, torch.stack([*expected, torch.tensor(0.0)]))


def test_margins_are_measured_only_in_training():
    distiller = tiny_distiller("OFD")
    batch = tiny_batch()
    distiller(batch)
    counts = [m.count.clone() for m in distiller.margins]
    assert all(c.sum() > 0 for c in counts)
    with torch.no_grad():
        distiller.eval()(batch)
    assert all(torch.equal(m.count, c) for m, c in zip(distiller.margins, counts, strict=True))


def test_an_even_connector_is_refused():
    with pytest.raises(ConfigError, match=r"OFD.CONNECTOR.KERNEL_SIZE is 2; it must be odd"):
        tiny_distiller("OFD", "OFD.CONNECTOR.KERNEL_SIZE", "2")


def test_the_released_recipe_is_a_config():
    """Overhaul-distillation's train_with_distillation.py:18-28, 135-146."""
    solver = load_cfg("cifar100/ofd/as_released").SOLVER
    assert (solver.LR, solver.BATCH_SIZE, solver.WEIGHT_DECAY, solver.EPOCHS) == (0.1, 128, 5e-4, 200)
    assert (list(solver.LR_DECAY_STAGES), solver.LR_DECAY_RATE, solver.NESTEROV) == ([100, 150], 0.1, True)
