"""Write a config for images of your own: mdistiller-dfpt init photos DIR [-o FILE] [--for phone|server].

DIR has class folders, with or without a division into train/ and val/ or test/, or tables of paths and labels. Every
image is read once. FILE, photos.yaml by default, gets the config of a student, and FILE-teacher.yaml that of its
teacher, each value with its reason; the command that trains both is printed.
"""

import os
import shlex
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..atomic import write_text
from ..config.limits import without_other_characters
from ..data import DATASETS, FileSource
from ..data.class_folders import is_image
from ..data.sets.folder import test_set_in
from ..data.survey import survey
from ..distributed import num_cores
from ..errors import ConfigError, DataError
from ..interop.plugins import load_cfg
from ..invocation import command_line
from ..launch.cli import Parser, check_output, guarded
from ..launch.own_photos import METHODS, PAIRS, TEST_SHARE, plan_for
from ..launch.starting_yaml import student_yaml, teacher_yaml


def _advance(bar: Any, seen: int) -> None:
    bar.update(seen - bar.n)


def _class_folders_below(folder: Path) -> Path | None:
    """The first folder below that has two folders of images, as of an unpacked archive; None if there is none."""
    for place, inside, _ in os.walk(folder):
        inside.sort()
        if Path(place) != folder and sum(any(map(is_image, os.listdir(Path(place, name)))) for name in inside[:2]) == 2:
            return Path(place)
    return None


def _main(argv: list[str]) -> None:
    parser = Parser("init", __doc__, reads_configs=False)
    parser.add_argument("kind", choices=["photos"], help="photos: images of your own")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the images")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", default=Path("photos.yaml"), help="the config")
    parser.add_argument("--for", dest="purpose", choices=list(PAIRS), default="phone", help="default: phone")
    args = parser.parse_args(argv)
    output: Path = args.output
    if output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"-o {output}: a config is a yaml file; name it .yaml")
    teacher = output.with_name(f"{output.stem}-teacher{output.suffix}")
    check_output("-o", output)
    if there := [str(path) for path in (output, teacher) if path.exists()]:
        what = "exist; delete them" if len(there) > 1 else "exists; delete it"
        raise ConfigError(f"{' and '.join(there)}: {what}, or give another name with -o")
    # What is there?
    held_out = test_set_in(args.folder)
    share = {} if held_out else {"DATASET.TEST.SHARE": TEST_SHARE}
    cfg = load_cfg(None, {"DATASET.TYPE": "folder", "DATASET.ROOT": str(args.folder), **share})
    source = DATASETS["folder"](cfg)
    assert isinstance(source, FileSource)
    if len(source.train.classes) < 2:
        inside = _class_folders_below(args.folder)
        advice = f": the folders in {inside} may be the classes; give that one" if inside else ""
        one = source.train.classes[0]
        raise DataError(f"{args.folder}: has one class, {one}; there is nothing to tell apart{advice}")
    with tqdm(total=len(source.train.paths) + len(source.test.paths), unit=" images", disable=None) as bar:
        found = survey(source, num_cores(), lambda seen: _advance(bar, seen))
    for name, train, test in zip(found.classes, found.train, found.test, strict=True):
        if not train or not test:
            raise DataError(f"{args.folder}: no image of the class {name} can be read for"
                            f" {'testing' if train else 'training'}: replace {found.broken[0]}")  # fmt: skip
    each = [a + b for a, b in zip(found.train, found.test, strict=True)]
    divided = f"the test set is {held_out}/" if held_out else f"a test set is held out, {sum(found.test)} images"
    of_each = f"{min(each)} to {max(each)}" if min(each) < max(each) else f"{min(each)}"
    print(f"{args.folder}: {found.images} images of {len(each)} classes, {of_each} of each; {divided}")
    for line in found.notes():
        print(f"note: {line}")
    # Write
    has_gpu = torch.cuda.is_available()
    plan = plan_for(found, args.purpose, bool(held_out), num_cores(),
                    torch.cuda.is_bf16_supported() if has_gpu else None)  # fmt: skip
    name = without_other_characters(output.stem)
    root = os.path.relpath(os.path.realpath(args.folder), os.path.realpath(output.parent))
    write_text(teacher, teacher_yaml(plan, found, root, name))
    write_text(output, student_yaml(plan, found, teacher.name, name, METHODS))
    print(f"wrote {output} and {teacher}; this trains the teacher, then the student:")
    print(f"  {command_line('train')} --cfg {shlex.quote(str(output))}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
