"""How two runs differ in what must be equal before their accuracies can be compared."""

from collections.abc import Mapping

from ..config.effect import differing
from .files import Result

COMMON = ("DATASET.", "MODEL.", "SOLVER.", "DISTILLER.LOGITS_CACHE")
"""Keys that are not of a method: two methods are compared under equal values of these."""
OF_STUDENT = ("DISTILLER.STUDENT", "DISTILLER.STUDENT_SIZE")
FACTS = ("augmentation", "world_size", "precision")


def difference(result: Result, reference: Result, where: str, *, of_one_method: bool = False) -> str:
    """How a result differs from the reference: keys (also those of methods, if both are of one), dataset, teacher.

    `where`: what the reference is called, as in `10 in the reference`.
    """
    mine, other = result.config, reference.config
    if not of_one_method:
        mine, other = ({k: v for k, v in values.items() if k.startswith(COMMON) or k in OF_STUDENT}
                       for values in (mine, other))  # fmt: skip
    parts = differing(mine, other, "", where)
    mine, other = result.data["protocol"], reference.data["protocol"]
    for fact in FACTS:
        if fact in mine and fact in other and mine[fact] != other[fact]:
            parts.append(f"{fact} {mine[fact]}, but {other[fact]} {where}")
    if result.code != reference.code and (of_one_method or (result.code and reference.code)):
        parts.append("other code of its plugins")
    if result.earlier_code != reference.earlier_code:
        parts.append("one was begun with other code of its plugins")
    length = "SOLVER.EPOCHS"
    if result.config.get(length) == reference.config.get(length) and result.evaluations != reference.evaluations:
        mine_, others = len(result.evaluations), len(reference.evaluations)
        parts.append(f"evaluated {mine_} times, {others} {where}" + (", after other epochs" if mine_ == others else ""))
    if result.continued != reference.continued:
        epochs = result.continued or reference.continued
        parts.append(f"one was continued after a schedule for {', '.join(map(str, epochs))} epochs")
    if result.normalisation.get("student") != reference.normalisation.get("student"):
        parts.append("the images of the student are normalised otherwise")
    if result.start != reference.start:
        parts.append("they started from other weights")
    # As a method without such images has none, of two methods only those of both are compared
    if result.extra != reference.extra and (of_one_method or (result.extra and reference.extra)):
        parts.append("the unlabelled images are others")
    # Dataset: what an earlier version did not record is unknown
    if (result.content is None) != (reference.content is None):
        parts.append("the content of one dataset is unknown: an earlier version did not record it")
    elif result.content != reference.content:
        parts.append("another dataset, or other images or labels")
    # Teachers are compared only if both runs have one
    if result.teachers and reference.teachers:
        parts += _of_teachers(result, reference, where)
    return "; ".join(parts)


def versions_among(runs: Mapping[int, Result]) -> str:
    """Which repetitions, by seed, ran with which version of torch; empty if all did with one, as far as is known."""
    seeds: dict[str, list[str]] = {}
    for seed, run in runs.items():
        if version := run.data["protocol"].get("versions", {}).get("torch"):
            seeds.setdefault(str(version), []).append(str(seed))
    parts = [f"{version} (seeds {', '.join(some)})" for version, some in seeds.items()]
    return f"repeated with other versions of torch: {', '.join(parts)}" if len(parts) > 1 else ""


def _of_teachers(result: Result, reference: Result, where: str) -> list[str]:
    """How the networks that teach differ: their names, or the weights of those of one name."""
    mine, other = ([t["name"] for t in r.teachers] for r in (result, reference))
    if mine != other:
        return [f"taught by {', '.join(mine)}, {', '.join(other)} {where}"]
    changed = [a["name"] for a, b in zip(result.teachers, reference.teachers, strict=True) if a != b]
    first = result.data["protocol"].get("teacher")
    measured = {first["name"]: f" ({first['top1']:.2f} %)"} if first else {}
    return [f"taught by other weights of {name}{measured.get(name, '')}" for name in changed]
