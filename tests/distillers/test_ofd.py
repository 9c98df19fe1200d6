"""Laws of OFD."""

import pytest
import torch

from mdistiller_dfpt.distillers.ofd import Margin, ofd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


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
