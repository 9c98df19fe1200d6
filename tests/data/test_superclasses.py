"""Classes joined to superclasses."""

import pytest
import torch

from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.in_memory import ImageSet
from mdistiller_dfpt.data.superclasses import joined
from mdistiller_dfpt.errors import ConfigError

CPU = torch.device("cpu")


def digits(*words):
    return build_data(load_cfg(None, ["DATASET.TYPE", "digits", *words]), CPU)


def test_a_list_is_repeated_and_a_full_one_names_each_class():
    split = ImageSet(torch.zeros(5, 2, 2, 3, dtype=torch.uint8), torch.tensor([4, 0, 1, 2, 3]), tuple("abcde"))
    assert joined(split, [0, 1]).labels.tolist() == [0, 0, 1, 0, 1]
    assert joined(split, [0, 1]).classes == ("a+c+e", "b+d")
    assert joined(split, [2, 0, 0, 1, 2]).labels.tolist() == [2, 2, 0, 0, 1]
    assert joined(split, [2, 0, 0, 1, 2]).classes == ("b+c", "d", "a+e")


def test_both_sets_of_a_run_are_joined_and_nothing_else_of_them_changes():
    plain, parity = digits(), digits("DATASET.SUPERCLASSES", "[0, 1]")
    assert (plain.num_classes, parity.num_classes) == (10, 2)
    for own, other in ((plain.train, parity.train), (plain.test, parity.test)):
        assert torch.equal(own.labels % 2, other.labels)
        assert torch.equal(own.padded, other.padded)
    assert plain.content["sha256"] != parity.content["sha256"]


@pytest.mark.parametrize("value", ["[0, 2]", "[0, 0]", "[]", "[1, 2]", "[0, 1.0]", "[0, -1]"])
def test_numbers_with_gaps_are_refused(value):
    with pytest.raises(ConfigError, match=r"DATASET.SUPERCLASSES"):
        digits("DATASET.SUPERCLASSES", value)


def test_a_list_longer_than_the_classes_is_refused():
    with pytest.raises(ConfigError, match="DATASET.SUPERCLASSES has 11 entries; there are 10 classes"):
        digits("DATASET.SUPERCLASSES", str([0, 1] * 5 + [0]))


def test_the_expected_number_is_that_of_the_dataset():
    assert digits("DATASET.SUPERCLASSES", "[0, 1]", "DATASET.CLASSES", "10").num_classes == 2
