"""The pages of the Python interface: which objects are on them, in what order; the texts are the docstrings."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPORTS = ROOT / "mdistiller_dfpt/__init__.pyi"
GROUPS = {
    "Run a config": ("load_cfg", "run", "build_teacher", "Trainer"),
    "Use a student": ("load_student", "Student", "Preprocessing"),
    "Parts of a run": ("build_data", "build_model", "build_distiller"),
    "A program of your own": ("adapt", "data_from_loaders", "prepare", "parameter_groups", "save_student"),
    "Terms of a loss": ("Term", "Terms", "label", "distillation", "own"),
    "Registries": (
        "DISTILLERS",
        "TEACHERS",
        "MODELS",
        "DATASETS",
        "AUGMENTATIONS",
        "LOGIT_LOSSES",
        "OPTIMIZERS",
        "SCHEDULES",
    ),
}  # fmt: skip
BASES = ("Method", "Distiller", "Teacher", "StagedModel", "Augmentation", "PictureAugmentation", "Output", "Batch")
TESTING = {
    "check_distiller": "distiller_laws", "check_teacher": "teacher_laws", "check_network": "network_laws",
    "check_augmentation": "augmentation_laws", "BrokenLaw": "laws",
    "tiny_distiller": "make", "tiny_method": "make", "tiny_teacher": "make", "tiny_cfg": "make",
    "tiny_others": "make", "tiny_batch": "tiny_data", "tiny_data": "tiny_data", "TinyNet": "tiny_networks",
    "tiny_networks": "tiny_networks", "fit_batch": "tiny_networks", "take_steps": "make", "prepare": "make",
    "snapshot": "make", "changed": "make",
}  # fmt: skip


def exports() -> dict[str, str]:
    """{name that `import mdistiller_dfpt` offers: the module that defines it or offers it}."""
    tree = ast.parse(EXPORTS.read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"mdistiller_dfpt.{node.module}" for node in imports for alias in node.names}


def entry(shown: str, path: str, level: int = 3) -> str:
    """The directive that puts an object's docstring on a page, under the heading `shown`."""
    options = {"heading_level": level, "heading": shown, "toc_label": shown}
    lines = [f"::: {path}", "    options:", *(f'      {key}: "{value}"' for key, value in options.items())]
    return "\n".join(lines).replace(f'"{level}"', str(level))


def pages() -> dict[str, str]:
    """{file: Markdown} of the interface."""
    where = exports()
    parts = ["# Python interface", "`import mdistiller_dfpt as md`; a name is imported when it is first used."]
    for title, names in GROUPS.items():
        parts += [f"## {title}", *(entry(f"md.{name}", f"{where[name]}.{name}") for name in names)]
    bases = [
        "# Base classes",
        "What methods, kinds of teacher, networks and augmentations are derived from, and what they are given."
        " [Extending the toolbox](../extend.md) shows one of each, and has a table of the attributes that a method may"
        " set.",
        *(entry(f"md.{name}", f"{where[name]}.{name}", 2) for name in BASES),
        entry("Hooked", "mdistiller_dfpt.teachers.hooked.Hooked", 2),
    ]
    kit = [
        "# mdistiller_dfpt.testing",
        "The laws that every method, kind of teacher, network and augmentation must obey, and tiny networks and data to"
        " try them on.",
        *(entry(f"testing.{name}", f"mdistiller_dfpt.testing.{module}.{name}", 2) for name, module in TESTING.items()),
    ]
    texts = {"api/index.md": parts, "api/base_classes.md": bases, "api/testing.md": kit}
    return {file: "\n\n".join(text) + "\n" for file, text in texts.items()}
