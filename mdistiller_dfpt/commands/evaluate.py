"""Evaluate a student or any checkpoint: mdistiller-dfpt eval RUN_OR_FILE, --cfg FILE, or -m NETWORK -c PATH.

RUN_OR_FILE is the directory of a run or one of its .safetensors files: accuracy in all and by class, calibration,
confusions and cost, on the test set of the run (KEY VALUE overrides its config, such as DATASET.ROOT), or on the class
folders of --images. With --cfg, only the accuracy: of the config's student, or with --teacher of its teacher, whose
weights are found as in training if -c is not given. With -m and -c, that of any network: PATH is a run directory, a
checkpoint directory, a .safetensors file, or a .pth file as published ({"model": state_dict}). With -m, -c and
--images, all of the above, for weights that know nothing of their classes: these are the folders, in alphabetical
order, and DATASET.SIZE and the like say how images are prepared.

RUN_OR_FILE --corruptions [NAME ...] [--severities 1 2 3 4 5] also tests on corrupted images, by default with all 15
corruptions of CIFAR-C and ImageNet-C (arXiv:1903.12261); for a run the accuracies are kept beside its results.
"""

import argparse
import csv
import io
from pathlib import Path
from typing import Any

from ..atomic import write_json, write_text
from ..data.corruptions import OF_SEVERITY, SEVERITIES, check_corruptions
from ..distillers.choice import choice
from ..distributed import pick_device
from ..errors import ConfigError
from ..escape import csv_cell
from ..export.logits_network import preprocessing_in_words
from ..interop.plugins import load_cfg
from ..launch.cli import Parser, check_output, guarded
from ..launch.evaluate_checkpoint import evaluate_checkpoint, idle_keys
from ..launch.judge import Tested, data_of_student, judgement, on_folders, on_its_test_set
from ..launch.networks import Role, name_of
from ..launch.robustness import keep_with_run, robustness, robustness_lines
from ..launch.student import Student, load_student
from ..launch.unrecorded import unrecorded_student

OF_STUDENTS = ("with_teacher", "json", "predictions", "no_cost", "corruptions", "severities")
"""Options that need RUN_OR_FILE, or most of them --images."""
OTHER_DATA = "note: these are not the data of its run: {}"
OF_A_RUN = ("SOLVER.AMP",)
"""The keys of SOLVER, LOG, EXPERIMENT and DISTILLER that change what is measured of RUN_OR_FILE begin so."""


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("eval", __doc__)
    parser.add_argument("--cfg", help="yaml file of a run")
    parser.add_argument("-m", "--model", help="name of the network; default: the config's student")
    parser.add_argument("-c", "--ckpt", type=Path, help="its weights; default: those of the finished run of --cfg")
    parser.add_argument("-d", "--dataset", help="DATASET.TYPE")
    parser.add_argument("-bs", "--batch-size", help="DATASET.TEST.BATCH_SIZE")
    parser.add_argument("--teacher", action="store_true", help="evaluate the config's teacher instead of its student")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="class folders to test on, instead of a data set")
    parser.add_argument("--with-teacher", action="store_true", help="also its agreement with the teacher of its run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measures, with the confusion matrix")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="write a csv line for each test image")
    parser.add_argument("--no-cost", action="store_true", help="do not time the student")
    parser.add_argument("--corruptions", nargs="*", metavar="NAME", help="also on corrupted images; default: all 15")
    parser.add_argument("--severities", nargs="+", type=int, choices=SEVERITIES, help="of corruptions; default: all")
    parser.add_argument("--seed", type=int, help="of the corruptions; default: 0")
    parser.add_argument("opts", nargs="*", metavar="RUN_OR_FILE | KEY VALUE", help="for example DATASET.ROOT ./data")
    return parser.parse_intermixed_args(argv)


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    if not args.cfg and not args.model and args.opts:
        _judge(Path(args.opts[0]), args)
        return
    if args.images is not None:
        _judge_unrecorded(args)
        return
    if not args.cfg and not (args.model and args.ckpt):
        where = " before --corruptions" if args.corruptions else ""
        raise ConfigError(f"nothing to evaluate: give RUN_OR_FILE{where}, --cfg FILE, or -m NETWORK -c CHECKPOINT")
    if unused := [f"--{name.replace('_', '-')}" for name in OF_STUDENTS if vars(args)[name] not in (None, False)]:
        raise ConfigError(f"{', '.join(unused)}: for RUN_OR_FILE, the directory of a run or a .safetensors file of one")
    if args.teacher and not args.cfg:
        raise ConfigError("--teacher evaluates the teacher of a config: add --cfg FILE")
    cfg = load_cfg(args.cfg, [*args.opts, *_overrides(args)])
    role: Role = "other" if args.model else "teacher" if args.teacher else "student"
    is_taught = role == "teacher" or (role == "student" and bool(choice(cfg).adds_modules))
    for line in idle_keys(args.opts, cfg, is_taught=is_taught) if args.ckpt else ():  # else they say which run it is
        print(line)
    name = args.model or name_of(cfg, role)
    found = evaluate_checkpoint(cfg, role, args.ckpt, args.model or "")
    print(f"{name} {found.weights}: top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %")
    if found.other_data:
        print(OTHER_DATA.format(found.other_data))


def _overrides(args: argparse.Namespace) -> list[str]:
    given = (("DATASET.TYPE", args.dataset), ("DATASET.TEST.BATCH_SIZE", args.batch_size))
    return [word for key, value in given if value is not None for word in (key, value)]


def _judge_unrecorded(args: argparse.Namespace) -> None:
    if not (args.model and args.ckpt):
        raise ConfigError("--images: tests RUN_OR_FILE, or with -m NETWORK and -c FILE weights of another origin")
    if args.teacher or args.with_teacher or args.dataset:
        raise ConfigError("--images: the network alone is tested on these folders; leave out -d and the teacher")
    _check_outputs(args)
    names = _corruptions(args)
    cfg = load_cfg(args.cfg, [*args.opts, *_overrides(args), "DATASET.TYPE", "folder"])
    student = unrecorded_student(cfg, args.model, args.ckpt, args.images)
    print(f"images: {preprocessing_in_words(student.preprocess)}")
    _tell(student, on_folders(student, args.images), names, args)


def _judge(source: Path, args: argparse.Namespace) -> None:
    if args.teacher or args.ckpt:
        raise ConfigError("--teacher and -c go with --cfg; of RUN_OR_FILE, --with-teacher compares it with its teacher")
    _check_outputs(args)
    names = _corruptions(args)
    student = load_student(source, str(pick_device("auto")))
    overrides = [*args.opts[1:], *_overrides(args)]
    if args.images is not None:
        if overrides or args.with_teacher:
            raise ConfigError("--images: the student alone is tested on these folders; leave out the other settings")
        tested = on_folders(student, args.images)
    else:
        cfg, data = data_of_student(student, overrides)
        tested = on_its_test_set(student, cfg, data, args.with_teacher)
        for line in idle_keys(overrides, cfg, OF_A_RUN, is_taught=args.with_teacher):
            print(line)
    _tell(student, tested, names, args)


def _check_outputs(args: argparse.Namespace) -> None:
    for option, path in (("--json", args.json), ("--predictions", args.predictions)):
        check_output(option, path)


def _tell(student: Student, tested: Tested, names: list[str], args: argparse.Namespace) -> None:
    """Print what is measured, and write it where that is asked for; `names`: of the corruptions."""
    found = judgement(student, tested, costs=not args.no_cost)
    print("\n".join(_lines(found)), flush=True)
    if names:
        found["corruptions"] = robustness(student, tested, names, args.severities or SEVERITIES, args.seed or 0)
        print("\n".join(robustness_lines(found["corruptions"])))
        of_its_run = args.images is None and not args.opts[1:] and not tested.other_data
        if of_its_run and (kept := keep_with_run(student, found["corruptions"])):
            print(f"kept in {kept}")
    if args.json is not None:
        write_json(args.json, found)
    if args.predictions is not None:
        _write_predictions(args.predictions, student, tested)


def _corruptions(args: argparse.Namespace) -> list[str]:
    """The corruptions to test; empty if none are asked for."""
    if args.corruptions is None:
        if args.severities or args.seed is not None:
            raise ConfigError("--severities and --seed are those of --corruptions: add it")
        return []
    names = list(dict.fromkeys(args.corruptions)) or list(OF_SEVERITY)
    check_corruptions(names)
    return names


def _lines(found: dict[str, Any]) -> list[str]:
    """The measures for a reader; the confusion matrix is in the file alone."""
    method = f" ({found['method']})" if found["method"] else ""
    absent = sum(value is None for value in found["per_class"].values())
    lines = [
        f"{found['student']}{method} {found['file']}, on {found['images']} images of {found['on']}",
        *([OTHER_DATA.format(found["other_data"])] if "other_data" in found else []),
        *([f"{absent} of the {len(found['per_class'])} classes have no image here"] if absent else []),
        f"top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %",
        f"negative log-likelihood {found['nll']:.3f}, calibration error {found['ece']:.2f} %",
    ]
    if found["temperature"] is not None:
        nll, ece = ([found[f"{key}_{s}"] for s in ("half", "scaled")] for key in ("nll", "ece"))
        fitted = f"temperature {found['temperature']:.2f}, fitted on half of the images"
        lines.append(f"{fitted}: on the other half, without and with it, negative log-likelihood {nll[0]:.3f} and"
                     f" {nll[1]:.3f}, calibration error {ece[0]:.2f} % and {ece[1]:.2f} %")  # fmt: skip
    if "teacher" in found:
        lines.append(f"predicts as its teacher: {found['teacher']['agreement']:.2f} %; KL {found['teacher']['kl']:.3f}")
    known = {name: value for name, value in found["per_class"].items() if value is not None}
    ranked = sorted((value, name) for name, value in known.items() if value < 100)
    if ranked and len(known) > 1:
        worst = ", ".join(f"{name} ({value:.1f} %)" for value, name in ranked[:5])
        lines.append(f"lowest accuracies: {worst}")
    if found["most_confused"]:
        pairs = ", ".join(f"{c['class']} as {c['predicted']} ({c['images']})" for c in found["most_confused"][:5])
        lines.append(f"most confused: {pairs}")
    if "parameters" in found:
        where = found["device"] if found["device"] != "cpu" else f"cpu, threads: {found['threads']}"
        times = ", ".join(f"{ms:.1f} ms for {size}" for size, ms in found["milliseconds"].items())
        lines.append(
            f"{found['parameters']:,} parameters, {found['macs'] / 1e6:,.1f} MMAC per image,"
            f" {found['bytes'] / 2**20:.2f} MiB; {times} images (float32, {where})"
        )
    return lines


def _write_predictions(path: Path, student: Student, tested: Tested) -> None:
    """image, label, predicted, correct, probability of the prediction and of the label, one line per test image."""
    probabilities = tested.logits.softmax(1)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", "label", "predicted", "correct", "probability", "probability_of_label"])
    predicted = tested.logits.argmax(1).tolist()  # probabilities may be equal where logits are not
    for i, (p, best, label) in enumerate(zip(probabilities, predicted, tested.labels.tolist(), strict=True)):
        row = [tested.names[i], student.classes[label], student.classes[best], int(best == label)]
        writer.writerow([*map(csv_cell, row), f"{p[best]:.6f}", f"{p[label]:.6f}"])
    write_text(path, text.getvalue())


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
