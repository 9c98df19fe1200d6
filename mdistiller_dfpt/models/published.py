"""Published teacher accuracies, used to detect a teacher other than the one behind the published tables."""

from typing import NamedTuple


class KnownTeacher(NamedTuple):
    """Top-1 of a checkpoint on the test set in percent, who trained it, and the SHA-256 of its weights if known."""

    top1: float
    origin: str
    sha256: str = ""


_CRD = "RepDistiller, the same as mdistiller's cifar_teachers.tar"

TEACHERS: dict[tuple[str, str], list[KnownTeacher]] = {
    ("cifar100", "resnet56"): [KnownTeacher(72.34, _CRD)],
    ("cifar100", "resnet110"): [KnownTeacher(74.31, _CRD)],
    ("cifar100", "resnet32x4"): [KnownTeacher(79.42, _CRD)],
    ("cifar100", "wrn_40_2"): [KnownTeacher(75.61, _CRD)],
    ("cifar100", "vgg13"): [KnownTeacher(74.64, _CRD)],
    ("cifar100", "ResNet50"): [KnownTeacher(79.34, _CRD)],
}
"""By (DATASET.TYPE, network). Each can be trained with configs/<dataset>/vanilla/<network>.yaml."""

TOLERANCE = 0.5


def compare_with_record(data: str, network: str, top1: float, sha256: str) -> str:
    """One line that compares a measured accuracy with the published ones; empty if there are none.

    A matching hash decides; otherwise an accuracy within half a point counts as a match.
    """
    known = TEACHERS.get((data, network), [])
    for teacher in known:
        if sha256 == teacher.sha256 or (not teacher.sha256 and abs(top1 - teacher.top1) <= TOLERANCE):
            return f"published: {teacher.top1:.2f} % ({teacher.origin})"
    if not known:
        return ""
    record = "; ".join(f"{t.top1:.2f} % ({t.origin})" for t in known)
    return f"warning: not a teacher of the published tables, which have: {record}"
