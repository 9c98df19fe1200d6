"""Measures of a classifier from its logits on a test set: accuracy, calibration, confusion, agreement."""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from ..training.evaluate import bin_of, calibration_gaps, correct_at, kl_divergence

MOST_CONFUSED, MOST_WRONG = 10, 16
FEW = 100


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """The expected calibration error of logits (N, C) for labels (N,), in per cent; see `calibration_gaps`."""
    return 100 * calibration_gaps(logits, labels).abs().sum().item() / len(labels)


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature between 1/20 and 20 by which the logits have the smallest negative log-likelihood."""

    def nll(log_temperature: float) -> float:
        return F.cross_entropy(logits / torch.tensor(log_temperature).exp(), labels).item()

    found = minimize_scalar(nll, bounds=(-3.0, 3.0), method="bounded")
    return float(torch.tensor(found.x).exp())


def measures(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """The measures of logits (N, C) for labels (N,), as plain values; accuracies in per cent, likelihoods in nats.

    The temperature is fitted on one half of the samples, drawn at random, and judged on the other, as one would fit it
    on samples of their own: `nll_half` and `ece_half` are of that half as it is, `nll_scaled` and `ece_scaled` with the
    temperature. None of fewer than FEW samples.
    """
    logits, count = logits.double(), len(labels)
    cells = len(classes) * labels + logits.argmax(1)
    confusion = cells.bincount(minlength=len(classes) ** 2).reshape(len(classes), -1).tolist()
    rows = dict(zip(classes, confusion, strict=True))
    right = {name: 100 * row[i] / sum(row) if sum(row) else None for i, (name, row) in enumerate(rows.items())}
    confused = [(n, name, other) for name, row in rows.items() for other, n in zip(classes, row, strict=True)
                if n and other != name]  # fmt: skip
    most = sorted(confused, key=lambda c: -c[0])[:MOST_CONFUSED]
    return {
        "images": count,
        "top1": 100 * correct_at(logits, labels, 1).item() / count,
        "top5": 100 * correct_at(logits, labels, 5).item() / count,
        "nll": F.cross_entropy(logits, labels).item(),
        "ece": calibration_error(logits, labels),
        **_scaled(logits, labels),
        "per_class": right,
        "most_confused": [{"class": one, "predicted": other, "images": n} for n, one, other in most],
        "confusion": confusion,
        "reliability": reliability(logits, labels),
        "worst": worst(logits, labels, classes),
    }


def reliability(logits: Tensor, labels: Tensor) -> list[dict[str, float]]:
    """For each of 15 equal bins of the confidence that has samples: mean confidence, accuracy, number of samples."""
    confidence, predicted = logits.softmax(1).max(1)
    numbers = bin_of(confidence)
    found = []
    for number in numbers.unique().tolist():
        inside = numbers == number
        accuracy = (predicted == labels)[inside].double().mean().item()
        mean = confidence[inside].mean().item()
        found.append({"confidence": mean, "accuracy": accuracy, "images": int(inside.sum())})
    return found


def worst(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The wrong predictions with the highest confidence: number of the image, label, prediction, probability."""
    confidence, predicted = logits.softmax(1).max(1)
    order = (confidence * (predicted != labels)).argsort(descending=True, stable=True)[:MOST_WRONG].tolist()
    right, said, sure = labels.tolist(), predicted.tolist(), confidence.tolist()
    return [
        {"index": i, "label": classes[right[i]], "predicted": classes[said[i]], "probability": sure[i]}
        for i in order if said[i] != right[i]
    ]  # fmt: skip


def _scaled(logits: Tensor, labels: Tensor) -> dict[str, float | None]:
    """The temperature that fits one half of the samples, and the likelihood and calibration of the other with it."""
    if len(labels) < FEW:
        return dict.fromkeys(("temperature", "nll_half", "ece_half", "nll_scaled", "ece_scaled"))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fit, judged = order[: len(labels) // 2], order[len(labels) // 2 :]
    temperature = best_temperature(logits[fit], labels[fit])
    scaled = logits[judged] / temperature
    return {
        "temperature": temperature,
        "nll_half": F.cross_entropy(logits[judged], labels[judged]).item(),
        "ece_half": calibration_error(logits[judged], labels[judged]),
        "nll_scaled": F.cross_entropy(scaled, labels[judged]).item(),
        "ece_scaled": calibration_error(scaled, labels[judged]),
    }


def agreement(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How far a student predicts as its teacher: equal predictions in per cent, and KL(teacher || student) in nats."""
    same = (student.argmax(1) == teacher.argmax(1)).double().mean().item()
    return {"agreement": 100 * same, "kl": kl_divergence(teacher.double(), student.double()).item() / len(student)}
