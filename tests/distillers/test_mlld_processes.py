"""MLLD's second view under a teacher that looks at the labels, shared by two processes."""

import torch

from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..forks import in_processes

ENSEMBLE = (
    "DISTILLER.TEACHER_KIND",
    "ensemble",
    "DISTILLER.OTHER_TEACHERS",
    "[resnet20]",
    "ENSEMBLE.WEIGHTS",
    "confidence",
)


def terms_of(rows, total):
    distiller = tiny_distiller("MLLD", *ENSEMBLE).eval()
    with torch.no_grad():
        _, terms = distiller(tiny_batch(8).rows(rows, total=total))
    return {name: term.weighted.item() for name, term in terms.items()}


def test_two_processes_compute_what_one_does(tmp_path):
    whole = terms_of(slice(None), None)
    found = in_processes(lambda rank: terms_of(slice(rank, None, 2), 8), tmp_path)
    for name, value in whole.items():
        assert abs(sum(found[rank][name] for rank in range(2)) / 2 - value) < 1e-4 * abs(value), name
