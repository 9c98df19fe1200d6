"""Accuracy on the full test set, each sample counted once, with a single device-to-host read at the end."""

import contextlib
from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.loader import Loader
from ..distillers import Method
from ..distributed import all_reduce
from ..errors import DataError
from .signals import Meetings


def places(logits: Tensor, target: Tensor) -> Tensor:
    """How many of the logits (B, C) are predicted before those of the targets (B,), of equal ones the first; (B,).

    So the first prediction is that of `argmax`, also in bfloat16, where logits are often equal; `topk` takes any of
    them. All that are compared with what is not a number come before it.
    """
    own, numbers = logits.gather(1, target[:, None]), torch.arange(logits.shape[1], device=logits.device)
    return (~(logits <= own) | ((logits == own) & (numbers < target[:, None]))).sum(1)


def ranking(logits: Tensor, k: int) -> Tensor:
    """The classes of the k largest logits (B, C), the largest first and of equal ones the first; (B, min(k, C))."""
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :k]


def correct_at(logits: Tensor, target: Tensor, k: int) -> Tensor:
    """The number of targets (B,) among the k largest logits (B, C), all of them if C <= k; see `places`. Shape ()."""
    return (places(logits, target) < k).sum()


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Sum over the batch of KL(softmax(p) || softmax(q)), in nats; (B, C), (B, C) -> ()."""
    return F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="sum", log_target=True)


BINS, DIGITS = 15, 6


def bin_of(confidence: Tensor) -> Tensor:
    """The number 0 .. 14 of the bin of each confidence in (0, 1]; of the same shape."""
    return (confidence * BINS).ceil().long().clamp(1, BINS) - 1


def calibration_gaps(logits: Tensor, target: Tensor) -> Tensor:
    """The number of correct predictions less the sum of their confidence, in each of 15 equal bins of the confidence.

    (B, C), (B,) -> (15,) float64. Over a test set of N samples, the sum of their absolute values / N is the expected
    calibration error (Guo et al., 2017, arXiv:1706.04599, eq. 3).
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    gaps = (predicted == target).double() - confidence
    return torch.zeros(BINS, dtype=torch.float64, device=logits.device).index_add_(0, bin_of(confidence), gaps)


def accuracy(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """{"top1": %, "top5": %} of the logits (B, C) and labels (B,) of a batch."""
    found = places(logits, target)
    return {f"top{k}": (found < k).sum() * (100 / len(target)) for k in (1, 5)}


def evaluate_method(method: Method, loader: Loader, meetings: Meetings | None = None) -> dict[str, dict[str, float]]:
    """`evaluate` for the paths of a method, in eval mode."""
    was_training = method.training
    method.eval()
    try:
        return evaluate(method.evaluated_paths, loader, meetings)
    finally:
        method.train(was_training)


@torch.no_grad()
def evaluate(
    paths_of: Callable[[Tensor], Mapping[str, Tensor]],
    loader: Loader,
    meetings: Meetings | None = None,
) -> dict[str, dict[str, float]]:
    """{path: {"top1": %, "top5": %, "nll": nats, "ece": %}} for the logits of each path.

    Also {"kl": {"a||b": nats}} for each pair of paths.

    `predicted_classes`, beside the accuracies, is how many classes are predicted at all; 1: the network has collapsed;
    `most_predicted` is the share of the images, in per cent, for which the most frequent prediction is made.

    `paths_of`: images (B, 3, H, W) -> logits (B, C) by name. `a` is the path returned first: KL(teacher || student) if
    the teacher comes first. With `meetings`, it is left at a signal, and where a process has an error.
    """
    sums: dict[tuple[str, str], Tensor] = {}
    predicted: dict[str, Tensor] = {}  # of each class, by path
    gaps: dict[str, Tensor] = {}  # of each bin of the calibration error, by path
    count = 0

    def add(key: tuple[str, str], value: Tensor) -> None:
        sums[key] = sums[key] + value if key in sums else value

    with contextlib.nullcontext() if meetings is None else meetings.over(len(loader)):
        for batch in loader.epoch():
            if meetings is not None:
                meetings.between(batch.step)
            count += len(batch.target)
            paths = paths_of(batch.image)
            for name, logits in paths.items():
                add((name, "top1"), correct_at(logits, batch.target, 1))
                add((name, "top5"), correct_at(logits, batch.target, 5))
                add((name, "nll"), F.cross_entropy(logits.double(), batch.target, reduction="sum"))
                of_bins = calibration_gaps(logits, batch.target)
                gaps[name] = gaps[name] + of_bins if name in gaps else of_bins
                ones = F.one_hot(logits.argmax(1), logits.shape[1]).sum(0)
                predicted[name] = predicted[name] + ones if name in predicted else ones
            for a, b in combinations(paths, 2):
                add(("kl", f"{a}||{b}"), kl_divergence(paths[a], paths[b]))
    # The samples that could be read, over all processes
    counted = torch.tensor(float(count), dtype=torch.float64, device=loader.device)
    *totals, seen = all_reduce(torch.stack([*(s.double() for s in sums.values()), counted])).tolist()
    if not seen:
        raise DataError("no image of the test set could be read")
    result: dict[str, dict[str, float]] = {}
    for (group, name), value in zip(sums, totals, strict=True):
        percent = 1.0 if group == "kl" or name == "nll" else 100.0
        number = percent * value / seen
        # Likelihoods are rounded, as the order of a sum, which the size of the batches decides, changes its last digits
        result.setdefault(group, {})[name] = round(number, DIGITS) if name == "nll" else number
    for name, ones in predicted.items():
        result[name]["ece"] = round(100 * all_reduce(gaps[name]).abs().sum().item() / seen, DIGITS)
        ones = all_reduce(ones)
        result[name]["predicted_classes"] = int((ones > 0).sum())
        result[name]["most_predicted"] = 100 * ones.max().item() / seen
    return result
