"""How two runs differ in what must be equal before their accuracies can be compared."""

from collections.abc import Mapping

from ..config.effect import differing
from ..environment import CHANGED
from .result import Result

COMMON = ("DATASET.", "MODEL.", "SOLVER.", "DISTILLER.LOGITS_CACHE")
"""Keys that are not of a method: two methods are compared under equal values of these."""
OF_STUDENT = ("DISTILLER.STUDENT", "DISTILLER.STUDENT_SIZE")
FACTS = ("augmentation", "precision")


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


def protocol_note(
    runs: Mapping[int, Result], reference: Mapping[int, Result], where: str, *, of_one_method: bool = False
) -> str:  # fmt: skip
    """How repetitions differ from those of a reference, and among themselves where they are averaged all the same."""
    first = next(iter(reference.values()))
    parts = [difference(run, first, where, of_one_method=of_one_method) for run in runs.values()]
    return "; ".join(dict.fromkeys(filter(None, [*parts, *_environments(runs, reference, where)])))


def _environments(runs: Mapping[int, Result], reference: Mapping[int, Result], where: str) -> list[str]:
    """One phrase for each fact of the environment that is not one and the same in all of these runs."""
    parts = []
    for fact in dict.fromkeys(fact for run in runs.values() for fact in run.environment):
        mine, others = _seeds_by(fact, runs), _seeds_by(fact, reference)
        but = f", but {_listed(others)} {where}" if others and set(others) != set(mine) else ""
        if but or len(mine) > 1 or any(CHANGED in value for value in mine):
            parts.append(f"{fact} {_listed(mine)}{but}")
    return parts


def _seeds_by(fact: str, runs: Mapping[int, Result]) -> dict[str, list[str]]:
    """The seeds of the runs by their value of a fact; an earlier version may not have recorded it."""
    seeds: dict[str, list[str]] = {}
    for seed, run in runs.items():
        if (value := run.environment.get(fact)) is not None:
            seeds.setdefault(value, []).append(str(seed))
    return seeds


def _listed(seeds: Mapping[str, list[str]]) -> str:
    """`1 (seeds 1, 3), 2 (seeds 2)`, or the only value."""
    return ", ".join(seeds if len(seeds) == 1 else [f"{value} (seeds {', '.join(s)})" for value, s in seeds.items()])


def _of_teachers(result: Result, reference: Result, where: str) -> list[str]:
    """How the networks that teach differ: their names, or the weights of those of one name."""
    mine, other = ([t["name"] for t in r.teachers] for r in (result, reference))
    if mine != other:
        return [f"taught by {', '.join(mine)}, {', '.join(other)} {where}"]
    changed = [a["name"] for a, b in zip(result.teachers, reference.teachers, strict=True) if a != b]
    first = result.data["protocol"].get("teacher")
    measured = {first["name"]: f" ({first['top1']:.2f} %)"} if first else {}
    return [f"taught by other weights of {name}{measured.get(name, '')}" for name in changed]
