"""The yaml files of a plan for images of one's own: a line for each value, with its reason."""

import json
from collections.abc import Sequence

from ..data.survey import Survey
from .own_photos import TEST_SHARE, VALIDATION, Plan


def teacher_yaml(plan: Plan, found: Survey, root: str, name: str) -> str:
    """The config that fine-tunes the teacher; `root`: the images, relative to it; `name`: of the student's run."""
    data: list[tuple[str, str]] = [
        ("TYPE: folder", ""),
        (f"ROOT: {json.dumps(root, ensure_ascii=False)}", "relative to this file"),
        ("DOWNLOAD: true", "of the published weights, once"),
    ]
    if not plan.has_test_set:
        data.append((f"TEST: {{SHARE: {TEST_SHARE}}}", "of each class, to measure the result once, at the end; always"
                     " the same images"))  # fmt: skip
    data += [
        (f"VALIDATION: {VALIDATION}", "of the rest of each class: the best epoch is chosen on it"),
        (f"SIZE: {plan.sizes[0]}", plan.why_size),
        (f"INTERPOLATION: {plan.pair.interpolation}", "as for the published weights"),
        ("UPRIGHT: true", "turned by their EXIF data, as viewers show them; those to be predicted, too"),
        ("CROP_SCALE: 0.35", "crops of at least a third of the image: in smaller ones the object is often missing"),
        (f"NUM_WORKERS: {plan.workers}", "cores of this machine, at most 8"),
    ]
    if plan.skips:
        data.append(("ON_ERROR: skip", f"{len(found.broken)} files cannot be read, the first {found.broken[0]}"))
    solver = [
        ("TYPE: AdamW", "better than SGD in the comparison of docs/photos.md"),
        (f"LR: {plan.pair.lr:g}", ""),
        ("WEIGHT_DECAY: 0.05", ""),
        ("SCHEDULE: cosine", "to zero, without stages to choose"),
        ("WARMUP_EPOCHS: 1", "the new classifier is random at first"),
        (f"EPOCHS: {plan.epochs[0]}", plan.why_epochs),
        (f"BATCH_SIZE: {plan.batch}", "small data need many steps"),
        (f"AMP: {plan.amp}", plan.why_amp),
    ]
    distiller = [
        ("TYPE: NONE", "without a teacher of its own"),
        (f"STUDENT: {plan.pair.teacher}", "a larger network of the student's family" if "lite" in plan.pair.teacher
         else plan.pair.why),
        (f"STUDENT_CKPT: {plan.pair.teacher_start}", "weights of ImageNet; a new classifier for the classes here"),
    ]  # fmt: skip
    head = [
        "The teacher of the config beside this one, fine-tuned on the same images.",
        f"{found.images} images of {len(found.classes)} classes, as found when this was written:",
        *(f"  {line}" for line in _counts(found)),
        *found.notes(),
    ]
    sections = {
        "EXPERIMENT": [(f"NAME: {name}-teacher", "")], "DATASET": data, "DISTILLER": distiller, "SOLVER": solver,
        "LOG": [("PREFIX: output", "beside this file; a run is in output/NAME/seed1")],
    }  # fmt: skip
    return _text(head, sections)


def student_yaml(plan: Plan, found: Survey, teacher_file: str, name: str, method: Sequence[tuple[str, str]]) -> str:
    """The config that trains the student, and its teacher first; `method`: lines that choose it, with their reasons."""
    distiller = [
        *method,
        (f"STUDENT: {plan.pair.student}", plan.pair.why),
        (f"STUDENT_CKPT: {plan.pair.student_start}", "weights of ImageNet; a new classifier for the classes here"),
        *([] if plan.sizes[0] == plan.sizes[1] else
          [(f"STUDENT_SIZE: {plan.sizes[1]}", "of its images, in training and in use; the teacher's are larger")]),
        (f"TEACHER: {plan.pair.teacher}", "the network that the next file trains"),
        (f"TEACHER_CFG: {teacher_file}", "fine-tuned first, by this config"),
        ("TEACHER_AUTO_TRAIN: true", "now, if it is not trained yet"),
    ]  # fmt: skip
    head = [
        f"A student for {len(found.classes)} classes, distilled from a teacher that is fine-tuned on the same images.",
        f"Data, precision and optimiser are those of {teacher_file}.",
    ]
    sections = {"EXPERIMENT": [(f"NAME: {name}", "")], "DISTILLER": distiller,
                "SOLVER": [(f"EPOCHS: {plan.epochs[1]}", plan.why_epochs)]}  # fmt: skip
    return f"{_text(head, {})}_BASE_: {teacher_file}\n{_text([], sections)}"


def _counts(found: Survey) -> list[str]:
    each = sorted(zip(found.classes, found.train, found.test, strict=True), key=lambda row: row[1] + row[2])
    rows = each if len(each) <= 6 else [*each[:3], *each[-3:]]
    what = "" if len(each) <= 6 else "smallest and largest classes: "
    return [what + ", ".join(f"{name} {train + test}" for name, train, test in rows)]


def _text(head: Sequence[str], sections: dict[str, list[tuple[str, str]]]) -> str:
    lines = [f"# {line}" for line in head]
    for section, entries in sections.items():
        lines.append(f"{section}:")
        width = max((len(entry) for entry, why in entries if why and len(entry) < 48), default=0)
        lines += [f"  {entry:<{width}}  # {why}" if why else f"  {entry}" for entry, why in entries]
    return "\n".join(lines) + "\n"
