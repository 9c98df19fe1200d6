"""Methods that take labels as distributions: with certain ones they compute what they do with numbers."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.testing.make import tiny_method
from mdistiller_dfpt.testing.tiny_data import tiny_batch
from mdistiller_dfpt.testing.tiny_networks import CLASSES

TAKE_THEM = sorted(name for name in DISTILLERS if tiny_method(DISTILLERS[name]).takes_soft_labels)


def test_the_class_of_a_mixed_image_is_that_of_its_larger_part():
    batch = tiny_batch()
    assert torch.equal(batch.classes, batch.target)
    soft = 0.6 * F.one_hot(batch.target.flip(0), CLASSES) + 0.4 * F.one_hot(batch.target, CLASSES)
    assert torch.equal(replace(batch, soft=soft).classes, batch.target.flip(0))


@pytest.mark.parametrize("name", TAKE_THEM)
def test_certain_labels_are_their_numbers(name):
    batch = tiny_batch()
    certain = replace(batch, soft=F.one_hot(batch.target, CLASSES).float())
    found = []
    for each in (batch, certain):
        torch.manual_seed(0)
        method = tiny_method(DISTILLERS[name]).train()
        torch.manual_seed(0)
        found.append({key: term.value for key, term in method(each)[1].items()})
    torch.testing.assert_close(found[1], found[0])


def test_the_methods_of_the_heterogeneous_tables_take_them():
    assert {"NONE", "KD", "FITNET", "CRD", "OFAKD", "FBT", "PAT", "DFPTKD"} <= set(TAKE_THEM)
