"""The line that is printed for an epoch."""

import pytest

from mdistiller_dfpt.runs.log import epoch_line

STUDENT, TEACHER = {"student": {"top1": 61.5}}, {"teacher": {"top1": 74.25}, "kl": {"teacher||student": 0.3}}


@pytest.mark.parametrize(("evaluated", "words"), [
    ({"test": STUDENT}, "train 50.00  test 61.50  (best 62.00)"),  # also of a teacher that is trained
    ({"validation": STUDENT}, "train 50.00  validation 61.50  (best 62.00 on the validation set)"),
    ({"test": TEACHER | STUDENT}, "train 50.00  teacher 74.25  student 61.50  (best 62.00)"),
    ({}, "train 50.00"),
])  # fmt: skip
def test_accuracies_are_those_of_the_paths_or_of_the_only_network_by_its_set(evaluated, words):
    record = {"epoch": 2, "lr": 0.1, "train": {"loss": 1.5, "top1": 50.0}, "images_per_second": 99.6, **evaluated}
    line = epoch_line(record, 4, 62.0, 61.0)
    assert line == f"epoch 2/4  lr 0.1  loss 1.500  {words}  100 img/s  1 min 01 s left"
