"""A model card: the header that model hubs read, and what a reader has to know of a student, from its own files."""

from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from ..distillers import DISTILLERS
from ..environment import for_reader
from ..escape import markdown_cell
from ..launch.student import Student
from ..registry import described
from ..runs.record import Record
from .logits_network import data_in_words, preprocessing_in_words
from .weights_file import module_of

FACTS = {
    "train_images": "training images", "test_images": "test images", "augmentation": "augmentation", "epochs": "epochs",
    "batch": "batch size", "optimizer": "optimizer", "lr": "learning rate", "schedule": "schedule",
    "warmup_epochs": "warm-up epochs", "precision": "mixed precision", "seed": "seed", "device": "device",
    "commit": "commit of mdistiller_dfpt",
}  # fmt: skip
"""What is shown of the protocol in results.json, and its name there."""
CLASSES = 100  # more are not written out


class _Yaml(str):
    """Text that is yaml already."""


def card(student: Student, results: Mapping[str, Any] | None, licence: str) -> str:
    """README.md of a student; `results`: those of its run, if they are there; `licence`: of its weights."""
    record = student.record
    protocol = for_reader(results) if results else None
    names = ", ".join(record.classes[:CLASSES]) + (", ..." if len(record.classes) > CLASSES else "")
    environment = Environment(
        loader=PackageLoader("mdistiller_dfpt.export"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_in_markdown,
    )  # fmt: skip
    return environment.get_template("card.md.j2").render(
        header=_Yaml(yaml.safe_dump(header(record, licence), sort_keys=False, allow_unicode=True).strip()),
        record=record,
        data=data_in_words(record),
        results=results,
        protocol=protocol,
        parameters=sum(p.numel() for p in student.parameters()),
        method=_description(record.method),
        teacher=_teacher(record, protocol),
        preprocessing=preprocessing_in_words(record.preprocessing),
        rows=_rows(record, results),
        facts=[(name, protocol[key]) for key, name in FACTS.items() if protocol.get(key)] if protocol else [],
        settings=_in_block(protocol["settings"]) if protocol else "",
        classes=names,
        module=module_of(record.student),
    )


def _in_block(settings: Mapping[str, Any]) -> _Yaml:
    """Settings as yaml in a block of code, which no text of theirs ends."""
    return _Yaml(yaml.safe_dump(dict(settings), sort_keys=False).strip().replace("```", "` ` `"))


def _in_markdown(value: Any) -> Any:
    """Names in a record are the text of others; yaml has its own escapes."""
    return markdown_cell(value) if isinstance(value, str) and not isinstance(value, _Yaml) else value


def header(record: Record, licence: str) -> dict[str, Any]:
    """The metadata at the top of a card, with the accuracies in the layout of a model index."""
    model: dict[str, Any] = {
        "license": licence,
        "library_name": "mdistiller_dfpt",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation", "pytorch", record.method.lower()],
        **({"datasets": [record.data]} if data_in_words(record) == record.data else {}),
        "metrics": ["accuracy"],
    }
    if record.accuracy:
        metrics = [
            {"type": "accuracy", "name": f"top-{key.removeprefix('top')} accuracy", "value": round(value / 100, 6)}
            for key, value in record.accuracy.items()
        ]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"type": record.data, "name": data_in_words(record), "split": "test"},
            "metrics": metrics,
        }
        model["model-index"] = [{"name": f"{record.student} {record.method}", "results": [result]}]
    return model


def _description(method: str) -> str:
    """What a method does, without its name; empty if several are combined, or if it is not registered here."""
    if method not in DISTILLERS:
        return ""
    line = described(DISTILLERS[method]).rstrip(".")
    return line.partition(": ")[2] or line


def _teacher(record: Record, protocol: Mapping[str, Any] | None) -> str:
    """What follows the teacher's name."""
    found = (protocol or {}).get("teacher") or {}
    accuracy = f", top-1 {found['top1']:.2f} %" if isinstance(found.get("top1"), float) else ""
    return f"{accuracy}; it is not needed for prediction"


def _rows(record: Record, results: Mapping[str, Any] | None) -> list[tuple[str, float | None, float | None]]:
    """(weights, top-1, top-5) of this file, of the last epoch of its run, and of its best; None is not known."""
    rows: list[tuple[str, float | None, float | None]] = []
    if of_file := record.accuracy:
        rows.append((f"this file: epoch {record.epoch}", of_file.get("top1"), of_file.get("top5")))
    if results:
        top1, top5, best = results["final"]["top1"], results["final"]["top5"], results["final"]["top1"]["best_epoch"]
        rows.append(("last epoch of the run", top1["last"], top5["last"]))
        # The highest top-5 may be that of another epoch; with a validation set, both are of the epoch that it chose
        evaluated = next((one["test"] for one in results["epochs"] if one["epoch"] == best and "test" in one), None)
        of_best = top5["best"] if evaluated is None else evaluated["student"]["top5"]
        rows.append((f"best epoch of the run ({best}, by top-1)", top1["best"], of_best))
    return rows
