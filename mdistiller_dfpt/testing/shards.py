"""Whether a loss is a mean over samples: processes that share a batch may only then compute it on their own samples."""

from collections.abc import Callable, Mapping

import torch

from ..data import Batch
from ..distillers import Distiller
from ..losses import Terms
from ..models.output import LazyFeatures, Output, as_output
from ..teachers import Teacher
from .tiny_data import tiny_batch
from .tiny_networks import tiny_networks

Paths = Mapping[str, Output]


def coupling_of(part: Distiller | Teacher) -> str:
    """How a method's or a teacher's terms show that they couple samples, in one sentence; empty where they do not.

    Empty too where the class declares it, by `couples_samples`. `part` is over networks that take `tiny_batch()`.
    """
    if part.couples_samples:
        return ""
    part.eval()
    return next(filter(None, (_difference_in(part, epoch) for epoch in (1, 2, 100))), "")


def _difference_in(part: Distiller | Teacher, epoch: int) -> str:
    batch = tiny_batch(epoch=epoch)
    # Noise alone gives outputs so alike that the mean of a shard is nearly that of the batch: images of rising
    # contrast are recognised with rising confidence
    contrast = torch.linspace(0.2, 8, len(batch.target))[:, None, None, None]
    batch = batch.replaced(image=batch.image * contrast)
    with torch.no_grad():
        if isinstance(part, Distiller):
            return _difference(part.terms, part.forward_student(batch.image), part.teacher(batch), batch)
        student = as_output(tiny_networks()[0].eval()(batch.image))
        return _difference(part.losses, student, part(batch), batch)


def _difference(terms_of: Callable[[Output, Paths, Batch], Terms], student: Output, paths: Paths, batch: Batch) -> str:
    """The first term whose mean over two unequal shards is another one than that of the batch; empty for none."""
    paths, size = dict(paths), len(batch.target) // 4
    whole = terms_of(student, paths, batch)
    shards = [slice(0, size), slice(size, None)]
    parts = [
        terms_of(_rows(student, rows), {path: _rows(o, rows) for path, o in paths.items()}, batch.rows(rows))
        for rows in shards
    ]
    for name, term in whole.items():
        weighted = [part[name].value.item() * len(batch.target[rows]) for part, rows in zip(parts, shards, strict=True)]
        mean, value = sum(weighted) / len(batch.target), term.value.item()
        if abs(mean - value) > 1e-4 * abs(mean) + 1e-7:
            return (
                f"the term {name!r} of two shards is {mean:.6g} on average and {value:.6g} on the batch: "
                "set `couples_samples = True` in the class, or take the mean over the batch if it is a sum"
            )
    return ""


def _rows(output: Output, rows: slice) -> Output:
    return Output(output.logits[rows], LazyFeatures(output.features, lambda x: x[rows]))
