"""What a run computed: every part that decides a result is in its identity."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt import DATASETS, OPTIMIZERS, SCHEDULES
from mdistiller_dfpt.config.keys import KEYS
from mdistiller_dfpt.data.content import content_of
from mdistiller_dfpt.data.image_files import FileSet
from mdistiller_dfpt.data.in_memory import ImageSet
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.interop import plugins
from mdistiller_dfpt.launch.run import config_of
from mdistiller_dfpt.runs.continuing import continued
from mdistiller_dfpt.runs.identity import differences, fingerprint, identity_of, read_identity
from mdistiller_dfpt.teachers import TEACHERS
from mdistiller_dfpt.testing import tiny_cfg, tiny_data
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import end_after, fit, run_of, stopped_after

# Another value of each key that decides a result, and what must be set for it to have an effect
OTHERS = {
    "DATASET.TYPE": "digits", "DATASET.SIZE": 64, "DATASET.SEED": 5, "DATASET.ON_ERROR": "skip",
    "MODEL.FAMILY": "imagenet", "DISTILLER.TYPE": "DKD", "DISTILLER.TEACHER": "resnet56",
    "DISTILLER.STUDENT": "resnet8", "DISTILLER.TEACHER_KIND": "dual_path", "DISTILLER.PATHS": "{teacher: 2.0}",
    "DISTILLER.ASSISTANTS": "[resnet8]", "DISTILLER.OTHER_TEACHERS": "[resnet8]", "DISTILLER.LOGITS_CACHE": "cache",
    "DATASET.MEAN": "[0.4, 0.4, 0.4]", "DATASET.STD": "[0.4, 0.4, 0.4]", "DISTILLER.TEACHER_MEAN": "[0.4, 0.4, 0.4]",
    "DISTILLER.TEACHER_STD": "[0.4, 0.4, 0.4]", "DISTILLER.STUDENT_MEAN": "[0.4, 0.4, 0.4]",
    "DISTILLER.STUDENT_STD": "[0.4, 0.4, 0.4]",
    "DISTILLER.TEACHER_STAGES": "[a]", "DISTILLER.STUDENT_STAGES": "[a]", "SOLVER.TRAINER": "dot",
    "SOLVER.BATCH_SIZE": 17, "SOLVER.ACCUMULATE": 2, "SOLVER.SYNC_BN": True, "SOLVER.EPOCHS": 7, "SOLVER.LR": 0.3,
    "SOLVER.SCHEDULE": "cosine", "SOLVER.LR_DECAY_STAGES": "[1]", "SOLVER.LR_DECAY_RATE": 0.5,
    "SOLVER.WARMUP_EPOCHS": 1.0, "SOLVER.WEIGHT_DECAY": 0.5, "SOLVER.MOMENTUM": 0.5, "SOLVER.NESTEROV": True,
    "SOLVER.CLIP_NORM": 1.0, "SOLVER.LABEL_SMOOTHING": 0.1, "SOLVER.MIXUP": 0.1, "SOLVER.CUTMIX": 0.1,
    "SOLVER.EMA": 0.9, "SOLVER.TYPE": "AdamW", "SOLVER.AMP": "bf16", "SOLVER.AMP_STUDENT": "bf16",
    "SOLVER.SPEED": "auto", "SOLVER.CHANNELS_LAST": False, "SOLVER.COMPILE": True, "SOLVER.SEED": 9,
    "SOLVER.DOT.DELTA": 0.01,
    "DISTILLER.MATCH_WEIGHT": 2.0,
    "SOLVER.DEEPKD.DELTA_TOG": 0.01, "SOLVER.DEEPKD.DELTA_TCG": 0.01, "SOLVER.DEEPKD.DELTA_NCG": 0.01,
    "SOLVER.DEEPKD.AS_RELEASED": False,
    "DATASET.EXTRA.TYPE": "images", "DATASET.EXTRA.BATCH_SIZE": 17, "DATASET.EXTRA.RESIZE": True,
    "DATASET.SUPERCLASSES": "[0, 1]", "DATASET.RECIPE": "imagenet", "DATASET.AUTO_AUGMENT": "rand-m9",
    "DATASET.ERASING": 0.25, "DATASET.AUGMENT": "[fixmatch]", "DISTILLER.STUDENT_CKPT": "pretrained",
    "SOLVER.LR_MIN": 0.01,
    "DATASET.VALIDATION": 0.1, "DATASET.TEST.SHARE": 0.1, "DATASET.INTERPOLATION": "bicubic",
    "DATASET.CROP_SCALE": 0.5, "DATASET.UPRIGHT": True, "DISTILLER.TEACHER_SIZE": 64, "DISTILLER.STUDENT_SIZE": 64,
    "DATASET.DECODE": "fast",
    "SOLVER.REMEASURE_BN": "last",
}  # fmt: skip
NEEDED = {
    "DISTILLER.ASSISTANTS": ("DISTILLER.TEACHER_KIND", "assistants"), "SOLVER.DOT.DELTA": ("SOLVER.TRAINER", "dot"),
    "DISTILLER.OTHER_TEACHERS": ("DISTILLER.TEACHER_KIND", "ensemble"),
    "SOLVER.DEEPKD.DELTA_TOG": ("SOLVER.TRAINER", "deepkd", "SOLVER.DEEPKD.AS_RELEASED", "False"),
    **{f"SOLVER.DEEPKD.{key}": ("SOLVER.TRAINER", "deepkd") for key in ("DELTA_TCG", "DELTA_NCG", "AS_RELEASED")},
    "DATASET.EXTRA.BATCH_SIZE": ("DATASET.EXTRA.TYPE", "images"),
    "DATASET.EXTRA.RESIZE": ("DATASET.EXTRA.TYPE", "images"),
    "SOLVER.LR_MIN": ("SOLVER.SCHEDULE", "cosine"), "DATASET.TEST.SHARE": ("DATASET.TYPE", "folder"),
}  # fmt: skip


class FileData:
    """What an identity takes from a dataset of files."""

    in_files, content, extra = True, tiny_data().content, None


class MemoryData(FileData):
    """The same of a dataset in memory."""

    in_files = False


def print_of(*words):
    data = MemoryData if "DATASET.EXTRA.RESIZE" in words else FileData
    return fingerprint(identity_of(tiny_cfg("DISTILLER.TYPE", "KD", *words), data, []))


def test_every_key_that_decides_a_result_changes_the_fingerprint():
    common = {"DATASET", "MODEL", "DISTILLER", "SOLVER"}
    deciding = {full for full, key in KEYS.items() if key.decides and full.partition(".")[0] in common}
    assert deciding == OTHERS.keys(), "each has its value above"
    for full, value in OTHERS.items():
        needed = NEEDED.get(full, ())
        assert print_of(*needed) != print_of(*needed, full, str(value)), full


LISTS_AND_TEXTS = {
    "BLOCK": "parallel", "CLASSES": "[0-4]", "ENTROPIES": "[2.0]", "EPS": "[2.0]", "GRIDS": "[1]",
    "IN_CHANNELS": "[8]", "INPUT_SIZE": "[8]", "KERNELS": "[5]", "LOGIT_LOSS": "DKD", "OUT_CHANNELS": "[8]",
    "OUT_SHAPES": "[8]", "SHAPES": "[8]", "STAGES": "[1]", "STRONG_TEMPERATURES": "[2.0]", "TEMPERATURES": "[2.0]",
    "TOPK": "[5]", "TOPK_EPOCHS": "[1]",
}  # fmt: skip
"""Another value of keys of methods and kinds of teacher, by the last part of their names."""


def another_value(full):
    key, limit = KEYS[full], KEYS[full].limit
    if isinstance(key.default, bool):
        return not key.default
    if isinstance(key.default, int | float):
        others = [type(key.default)(other) for other in (key.default + 1, key.default / 2)]
        return next(other for other in others if limit is None or limit.test(other))
    if limit is not None and limit.words.startswith("one of "):
        return next(word for word in limit.words.removeprefix("one of ").split(", ") if word != key.default)
    return LISTS_AND_TEXTS[full.rpartition(".")[2]]


WITH_KEYS = [(registry, name) for registry in (DISTILLERS, TEACHERS) for name in sorted(registry)
             if registry[name].config]  # fmt: skip


@pytest.mark.parametrize(("registry", "name"), WITH_KEYS, ids=lambda value: getattr(value, "key", value))
def test_every_key_of_the_sections_in_use_changes_the_fingerprint(registry, name):
    section = registry.node_of(name)
    needed = {
        "FINETUNE_LR_FACTOR": (f"{section}.FINETUNE_BACKBONE", "True"), "INIT_LR": (f"{section}.INIT_EPOCHS", "1"),
        "DEIT.TEMPERATURE": ("DEIT.KIND", "soft"), "TOPK_EPOCHS": (f"{section}.TOPK", "[5, 6]"),
    }  # fmt: skip
    prints = {}
    for full in (full for full in KEYS if full.startswith(f"{section}.")):
        words = (registry.key, name, *needed.get(full, needed.get(full.rpartition(".")[2], ())))
        plain = prints.get(words) or prints.setdefault(words, print_of(*words))
        assert print_of(*words, full, str(another_value(full))) != plain, full


def test_schedules_and_optimisers_of_a_users_get_all_values(registries):
    SCHEDULES.register("mine")(lambda progress, plan: plan.lr * plan.lr_decay_rate)
    OPTIMIZERS.register("Mine")(lambda groups, plan: torch.optim.SGD(groups, lr=plan.lr))
    mine = ["SOLVER.SCHEDULE", "mine"]
    assert print_of(*mine) != print_of(*mine, "SOLVER.LR_DECAY_RATE", "0.5")
    assert print_of(*mine) != print_of(*mine, "SOLVER.LR_DECAY_STAGES", "[1]")
    mine = ["SOLVER.TYPE", "Mine"]
    for key, value in (("DOT.DELTA", "0.01"), ("MOMENTUM", "0.5"), ("NESTEROV", "True")):
        assert print_of(*mine) != print_of(*mine, f"SOLVER.{key}", value), key


def images(**change):
    pixels = torch.arange(4 * 12).reshape(4, 2, 2, 3).to(torch.uint8)
    return ImageSet(**{"images": pixels, "labels": torch.tensor([0, 1, 0, 1]), "classes": ("a", "b"), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"images": images().images.flip(0)},
        {"images": images().images.reshape(4, 4, 1, 3)},
        {"labels": torch.tensor([1, 0, 0, 1])},
        {"classes": ("b", "a")},
    ],
)
def test_the_content_of_a_dataset_in_memory_has_pixels_shape_labels_and_names(change):
    plain = content_of(images(), images())
    assert content_of(images(), images()) == plain
    assert content_of(images(**change), images()) != plain
    assert content_of(images(), images(**change)) != plain or "classes" in change


def test_the_content_of_files_has_names_labels_sizes_and_their_beginning(tmp_path):
    def written(colours):
        for name, colour in colours.items():
            Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(tmp_path / f"{name}.bmp")
        return [str(tmp_path / f"{name}.bmp") for name in colours]

    def content(paths, labels=(0, 1), classes=("a", "b")):
        files = FileSet(paths, torch.tensor(labels), classes)
        return content_of(files, files)

    paths = written({"one": 10, "two": 20})
    plain = content(paths)
    assert content(paths[::-1]) != plain
    assert content(paths, (1, 0)) != plain
    assert content(paths, classes=("a", "c")) != plain
    written({"one": 20, "two": 10})  # of equal names and sizes
    assert os.path.getsize(paths[0]) == os.path.getsize(paths[1])
    assert content(paths) != plain


def test_what_is_unknown_differs_from_all_else():
    known = identity_of(tiny_cfg(), tiny_data(), [])
    unknown = {**known, "data": None}
    assert differences(unknown, unknown) == ["the content of a dataset is unknown"]
    unknown = {**known, "teachers": None}
    assert differences(unknown, unknown) == ["the weights of a teacher are unknown"]


def test_a_run_that_is_continued_under_another_schedule_is_not_the_run_of_that_length(tmp_path):
    cosine = ("SOLVER.SCHEDULE", "cosine")
    fit(run_of("NONE", tmp_path / "a", *cosine))
    longer = run_of("NONE", tmp_path / "a", *cosine, "SOLVER.EPOCHS", "3")
    fit(longer, resume=True)
    straight = run_of("NONE", tmp_path / "b", *cosine, "SOLVER.EPOCHS", "3")
    fit(straight)
    mine, its = read_identity(longer.run), read_identity(straight.run)
    assert mine["continued"] == [2]
    assert differences(mine, {**its, "start": mine["start"]}) == ["one was continued after a schedule for 2 epochs"]
    # Under steps it is: the rates of the first epochs are the same
    fit(run_of("NONE", tmp_path / "c"))
    steps = run_of("NONE", tmp_path / "c", "SOLVER.EPOCHS", "3")
    fit(steps, resume=True)
    assert "continued" not in read_identity(steps.run)


def test_a_run_that_ends_after_fewer_epochs_than_its_schedule_is_for_is_not_the_run_of_that_length(tmp_path):
    cosine = ("SOLVER.SCHEDULE", "cosine")
    stopped_after(2, "NONE", tmp_path / "a", *cosine)
    shorter, straight = (run_of("NONE", tmp_path / name, *cosine, "SOLVER.EPOCHS", "2") for name in ("a", "b"))
    ended, whole = fit(shorter, resume=True), fit(straight)
    assert ended["student_sha256"] != whole["student_sha256"]
    assert ended["identity"]["continued"] == read_identity(shorter.run)["continued"] == [3]
    assert "continued" not in whole["identity"]


@pytest.mark.parametrize(
    ("words", "depends"),
    [(("WKD",), True), (("KD",), False), (("KD", "DISTILLER.TEACHER_KIND", "previous_epoch"), True)],
)
def test_a_method_of_the_number_of_epochs_makes_a_continued_run_another_one(words, depends, tmp_path):
    cfg = tiny_cfg("DISTILLER.TYPE", *words, "SOLVER.EPOCHS", "3")
    now = identity_of(cfg, tiny_data(), [])
    then = {**now, "config": {**now["config"], "SOLVER.EPOCHS": 2}}
    assert continued(tmp_path, {"identity": then}, now, cfg).get("continued") == ([2] if depends else None)


def test_a_run_goes_on_only_with_its_own_unlabelled_images_and_initial_weights(tmp_path):
    cfg = tiny_cfg()
    plain, of_program = identity_of(cfg, tiny_data(), []), {"start": "0" * 64}
    extra, other = ({"extra": identity_of(cfg, tiny_data(extra=n), [])["extra"]} for n in (16, 32))
    first, second = {"start": "file 1"}, {"start": "file 2"}

    def resumed(written, now):
        return continued(tmp_path, {"identity": {**plain, **written}}, {**plain, **now}, cfg)

    for written, now in ((extra, other), (extra, {}), ({}, extra)):
        with pytest.raises(CheckpointError, match="another run: the unlabelled images are others"):
            resumed(written, now)
    for written, now in ((first, second), ({}, first)):
        with pytest.raises(CheckpointError, match="another run: it started from other weights"):
            resumed(written, now)
    for own in (extra, first):
        assert resumed(own, own) == {**plain, **own}
    # Of a program's weights only the checkpoint knows
    assert resumed(of_program, {}) == {**plain, **of_program}


def test_a_finished_run_stays_what_it_is_until_a_longer_one_has_a_checkpoint(tmp_path):
    first = run_of("NONE", tmp_path)
    fit(first)
    before = read_identity(first.run)
    longer = run_of("NONE", tmp_path, "SOLVER.EPOCHS", "3")

    def fail(*args, **kwargs):
        raise InterruptedError

    longer.optimizer.step = fail
    with pytest.raises(InterruptedError):
        fit(longer, resume=True)
    assert read_identity(first.run) == before


def test_a_library_run_says_that_its_initial_weights_are_its_own(tmp_path):
    run = run_of("NONE", tmp_path)
    fit(run)
    by_command = Trainer(run.cfg, run.distiller, run.data, identity_of(run.cfg, run.data, []))
    assert "start" not in by_command.identity
    assert differences(run.identity, by_command.identity) == ["they started from other weights"]


def test_the_config_of_a_run_is_the_one_that_was_asked_for(tmp_path):
    measured = run_of("NONE", tmp_path, "SOLVER.EPOCHS", "3")
    measured.identity["config"]["SOLVER.AMP"] = "fastest"
    end_after(1, measured)
    assert config_of(measured.run, []).SOLVER.AMP == "fastest"
    with pytest.raises(CheckpointError, match="not the directory of a run"):
        config_of(tmp_path, [])


def test_plugins_of_one_name_in_two_folders_are_told_apart(tmp_path, registries):
    for folder in ("pa", "pb"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.py").write_text(f"NAME = '{folder}'\n")
    names = [str(tmp_path / folder / "my.py") for folder in ("pa", "pb")]
    found = plugins.sources(plugins.load_cfg(None, {"PLUGINS": names}))
    assert list(found) == ["pa/my.py", "pb/my.py"]
    assert found["pa/my.py"] != found["pb/my.py"]


def test_a_run_is_resumed_with_the_values_that_it_began_with(tmp_path):
    stopped_after(1, "NONE", tmp_path)
    with pytest.raises(CheckpointError, match=r"SOLVER.EMA 0.9 now, None then; a run goes on with the values"):
        fit(run_of("NONE", tmp_path, "SOLVER.EPOCHS", "3", "SOLVER.EMA", "0.9"), resume=True)


def test_the_content_of_the_digits_is_that_of_their_images():
    source = DATASETS["digits"](tiny_cfg("DATASET.TYPE", "digits"))
    assert content_of(*source[:2])["train_images"] == len(source.train.images) == 1433


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    one = {"config": {"A.X": 1, "B.Y": [2]}, "data": None, "teachers": None}
    other = {"teachers": None, "data": None, "config": {"B.Y": [2], "A.X": 1}}
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint({**one, "config": {"A.X": 1, "B.Y": [3]}})


def test_a_method_that_computes_something_else_under_equal_keys_is_another_run(monkeypatch):
    cfg = tiny_cfg("DISTILLER.TYPE", "KD")
    before = identity_of(cfg, FileData, [])
    monkeypatch.setattr(DISTILLERS["KD"], "revision", 2)
    after = identity_of(cfg, FileData, [])
    assert fingerprint(before) != fingerprint(after)
    assert differences(after, before) == ["KD.revision 2 in this command, 1 in that run"]
    assert identity_of(tiny_cfg("DISTILLER.TYPE", "DKD"), FileData, [])["config"].keys().isdisjoint({"KD.revision"})


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("SOLVER.TYPE", "AdamW"), "AdamW"), (("SOLVER.TRAINER", "dot"), "dot"), (("DISTILLER.TYPE", "DIST"), "DIST"),
        (("DISTILLER.TYPE", "DFPTKD", "DFPTKD.LOGIT_LOSS", "DIST"), "DIST"),
        (("DISTILLER.TYPE", "[CRLD, DEIT]"), "CRLD"), (("DISTILLER.TYPE", "[MCMI, DEIT]"), "MCMI"),
    ],
)  # fmt: skip
def test_what_has_changed_under_equal_keys_has_its_revision_in_the_identity(words, name):
    assert revisions_of(words) == {f"{name}.revision": 2}


def revisions_of(words):
    config = identity_of(tiny_cfg(*words), FileData, [])["config"]
    return {key: value for key, value in config.items() if key.endswith(".revision")}


def test_what_has_changed_in_some_lists_alone_has_its_revision_there():
    """A second view of the images goes through the modules that another method adds: earlier, it did not."""
    assert revisions_of(("DISTILLER.TYPE", "CRLD")) == revisions_of(("DISTILLER.TYPE", "[CRLD, KD]")) == {}
    assert revisions_of(("DISTILLER.TYPE", "[KD, DEIT]")) == {}
    both = revisions_of(("DISTILLER.TYPE", "[MLLD, SIMKD]"))
    assert both == {"MLLD.revision": 3, "SIMKD.revision": 2}, "each has changed by itself as well"


def test_the_file_of_a_users_network_is_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "a_net_of_mine.py"
    file.write_text("def build(num_classes):\n    return None\n")
    cfg = tiny_cfg("DISTILLER.STUDENT", "a_net_of_mine:build")
    before = plugins.sources(cfg)
    assert list(before) == ["a_net_of_mine.py"]
    file.write_text("def build(num_classes):\n    return 1\n")
    assert plugins.sources(cfg) != before


def test_what_a_users_network_imports_from_its_folder_is_part_of_the_identity(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "nets_of_mine"
    (package / "parts").mkdir(parents=True)
    for name, text in (
        ("__init__.py", ""), ("net.py", "from .parts import block\nfrom math import pi\ndef build(num_classes): ...\n"),
        ("parts/__init__.py", ""), ("parts/block.py", "from ..width import WIDTH\n"), ("width.py", "WIDTH = 8\n"),
        ("unused.py", ""),
    ):  # fmt: skip
        (package / name).write_text(text)
    cfg = tiny_cfg("DISTILLER.STUDENT", "nets_of_mine.net:build")
    before = plugins.sources(cfg)
    names = {"net.py", "block.py", "width.py", "nets_of_mine/__init__.py", "parts/__init__.py"}
    assert set(before) == names
    (package / "width.py").write_text("WIDTH = 16\n")
    after = plugins.sources(cfg)
    assert [name for name in names if after[name] != before[name]] == ["width.py"]


def test_a_module_of_two_plugins_belongs_to_both_whichever_is_first(tmp_path, monkeypatch, registries):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shared_by_two.py").write_text("A = 1\n")
    for name in ("one_of_two", "other_of_two"):
        (tmp_path / f"{name}.py").write_text("import shared_by_two\n")
        found = plugins.sources(plugins.load_cfg(None, {"PLUGINS": [str(tmp_path / f"{name}.py")]}))
        assert set(found) == {f"{name}.py", "shared_by_two.py"}


def test_images_that_are_normalised_otherwise_make_another_run_and_are_refused_at_a_resume(tmp_path):
    cfg = tiny_cfg("DISTILLER.TYPE", "KD")
    one = identity_of(cfg, FileData, [])
    other = {**one, "normalisation": {"student": "mean 0.5, std 0.5"}}
    said = "the images of the student are normalised otherwise"
    assert differences(one, other) == [said]
    for now, then in ((one, other), (other, one)):
        with pytest.raises(CheckpointError, match=said):
            continued(tmp_path, {"identity": then}, now, cfg)
