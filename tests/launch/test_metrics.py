"""Laws of the measures of a classifier."""

import pytest
import torch
from sklearn.metrics import log_loss

from mdistiller_dfpt.commands.evaluate import _lines as lines_of
from mdistiller_dfpt.launch.metrics import (
    FEW,
    agreement,
    best_temperature,
    calibration_error,
    measures,
    reliability,
    worst,
)

NAMES = ("a", "b", "c", "d")


def drawn(count=4000, temperature=1.0):
    """Logits whose softmax at `temperature` is the distribution that the labels are drawn from."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, len(NAMES), generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return temperature * logits, labels


def test_a_calibrated_classifier_has_no_calibration_error_and_one_that_is_sure_has():
    logits, labels = drawn()
    assert calibration_error(logits, labels) < 2.0
    wrong = 100 * (logits.argmax(1) != labels).double().mean().item()
    assert calibration_error(1e4 * logits, labels) == pytest.approx(wrong, abs=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found(temperature):
    assert best_temperature(*drawn(temperature=temperature)) == pytest.approx(temperature, rel=0.05)


def test_scaling_repairs_the_calibration_of_samples_it_was_not_fitted_on():
    found = measures(*drawn(temperature=4.0), NAMES)
    assert found["temperature"] == pytest.approx(4.0, rel=0.1)
    assert found["ece"] > 15
    assert found["ece_scaled"] < 3
    assert found["nll_scaled"] < found["nll"]


def test_measures_agree_with_scikit_learn_and_with_each_other():
    logits, labels = drawn(500)
    found = measures(logits, labels, NAMES)
    assert found["nll"] == pytest.approx(log_loss(labels, logits.softmax(1), labels=range(4)))
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum() == found["images"] == 500
    assert torch.equal(confusion.sum(1), labels.bincount(minlength=4))
    assert found["top1"] == pytest.approx(100 * confusion.diag().sum().item() / 500)
    assert found["per_class"]["b"] == pytest.approx(100 * confusion[1, 1].item() / confusion[1].sum().item())
    most = found["most_confused"][0]
    assert most["images"] == (confusion - confusion.diag().diag()).max()
    assert found["top5"] == 100


def test_a_class_without_images_has_no_accuracy_and_few_samples_no_temperature():
    logits, labels = drawn(FEW - 1)
    found = measures(logits[labels != 2], labels[labels != 2], NAMES)
    assert found["per_class"]["c"] is None
    assert found["temperature"] is found["nll_scaled"] is found["ece_scaled"] is None


def test_agreement_is_of_predictions_and_divergence_of_distributions():
    logits, _ = drawn(50)
    assert agreement(logits, logits) == {"agreement": 100.0, "kl": pytest.approx(0)}
    assert agreement(logits, 2 * logits)["agreement"] == 100
    assert agreement(logits, 2 * logits)["kl"] > 0.01
    assert agreement(logits, logits.roll(1, 1))["agreement"] == 0


def test_reliability_has_every_sample_once_and_gives_the_calibration_error():
    logits, labels = drawn(700, temperature=3.0)
    bins = reliability(logits, labels)
    assert sum(one["images"] for one in bins) == 700
    gap = sum(one["images"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / 700
    assert 100 * gap == pytest.approx(calibration_error(logits, labels))


def test_the_worst_are_wrong_and_the_surest_come_first():
    logits, labels = drawn(300)
    found = worst(logits, labels, NAMES)
    assert len(found) == 16
    p = logits.softmax(1)
    for one in found:
        assert one["label"] == NAMES[labels[one["index"]]] != one["predicted"]
        assert one["probability"] == pytest.approx(p[one["index"]].max().item())
    wrong = p.max(1).values[logits.argmax(1) != labels].sort(descending=True).values[:16]
    assert [one["probability"] for one in found] == pytest.approx(wrong.tolist())
    assert worst(logits, logits.argmax(1), NAMES) == []


@pytest.mark.parametrize(
    ("per_class", "line"),
    [
        ({"cat": 100.0, "dog": 50.0, "cow": None}, "lowest accuracies: dog (50.0 %)"),
        ({"cat": 100.0, "dog": 100.0}, None),
        ({"cat": 50.0}, None),
    ],
)
def test_a_class_without_mistakes_is_not_said_to_be_among_the_lowest(per_class, line):
    lines = lines_of({
        "student": "resnet8", "method": "KD", "file": "f", "on": "the test set", "images": 4, "top1": 75.0,
        "top5": 100.0, "nll": 0.5, "ece": 2.0, "temperature": None, "per_class": per_class, "most_confused": [],
    })  # fmt: skip
    assert [one for one in lines if one.startswith("lowest")] == ([line] if line else [])
