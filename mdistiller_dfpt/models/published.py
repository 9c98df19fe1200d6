"""Teachers on record: which accuracy the field's checkpoints have, so that a table is not built on another one."""

from typing import NamedTuple


class KnownTeacher(NamedTuple):
    """A checkpoint's top-1 on the test set in percent, who trained it, and its weights' SHA-256 once known here."""

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
"""By (DATASET.TYPE, network). Each is trained here by configs/<data set>/vanilla/<network>.yaml."""

TOLERANCE = 0.5


def compare_with_record(data: str, network: str, top1: float, sha256: str) -> str:
    """One line on how a measured accuracy stands to what is on record; empty where nothing is.

    A hash on record decides; else an accuracy within half a point does.
    """
    known = TEACHERS.get((data, network), [])
    for teacher in known:
        if sha256 == teacher.sha256 or (not teacher.sha256 and abs(top1 - teacher.top1) <= TOLERANCE):
            return f"on record: {teacher.top1:.2f} % ({teacher.origin})"
    if not known:
        return ""
    record = "; ".join(f"{t.top1:.2f} % ({t.origin})" for t in known)
    return f"warning: not a teacher of the published tables, on record: {record}"
