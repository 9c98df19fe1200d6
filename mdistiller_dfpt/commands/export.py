"""Export a trained student: mdistiller-dfpt export RUN_OR_FILE --to FORMAT [-o PATH] [KEY VALUE ...].

What is written is run again and its logits are compared with the checkpoint's, on images of the test set of its run,
or of --images. KEY VALUE changes the config of the run for this, for example DATASET.ROOT ./data.
  safetensors   weights and what they are, for load_student and predict
  onnx          ONNX; --int8 also writes a quantised one
  torch-export  a graph of PyTorch's operators (.pt2)
  timm, torchvision   weights for that library's own network, if the student is one of it
  hub-folder    a folder for a model hub, with a model card
"""

import re
from functools import partial
from pathlib import Path

from ..data import Data
from ..errors import ConfigError, DataError, UserError
from ..export import FORMATS
from ..export.hub_folder import write_hub_folder
from ..export.int8 import Compared, compare_on_sample, compare_on_test_set, write_accuracy, write_int8
from ..export.onnx_file import session
from ..export.verify import Sample, of_folder, of_split, published, verified
from ..launch.cli import Parser, guarded
from ..launch.judge import data_of_student
from ..launch.student import Student, load_student


def _main(argv: list[str]) -> None:
    parser = Parser("export", __doc__)
    parser.add_argument("student", metavar="RUN_OR_FILE", type=Path)
    parser.add_argument("--to", required=True, choices=list(FORMATS), help="what to write")
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="default: named after the student, here")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="compare on these images, not on the test set")
    parser.add_argument("--bound", type=float, default=1e-4, help="largest difference of a logit, default 1e-4")
    parser.add_argument("--int8", action="store_true", help="with --to onnx: also a file quantised to int8")
    parser.add_argument("--license", metavar="NAME", help="with --to hub-folder: of the weights, default unknown")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config of the run")
    args = parser.parse_intermixed_args(argv)
    for option, given, format_ in (("--int8", args.int8, "onnx"), ("--license", args.license, "hub-folder")):
        if given and args.to != format_:
            raise ConfigError(f"{option} goes with --to {format_}; --to is {args.to}")
    student = load_student(args.student)
    output = args.output or Path(_name_of(student) + FORMATS[args.to].ending)
    if output.exists() and args.student.exists() and output.resolve() in _source_files(args.student):
        raise ConfigError(f"-o {output} is what is exported: give another place")
    data = _data(student, args.opts, required=args.images is None, wanted=args.int8)
    sample = of_folder(student, args.images) if args.images is not None else _test_images(student, data)
    write = partial(write_hub_folder, licence=args.license) if args.license else FORMATS[args.to].write
    with published(output) as part:
        found = verified(student, write(student, part), sample, args.bound)
    print(f"{output}: the logits differ from the checkpoint's by at most {found:.1e},"
          f" on {len(sample.images)} images of {sample.source}")  # fmt: skip
    if args.int8:
        _int8(student, output, sample if args.images is not None else None, data)


def _int8(student: Student, output: Path, given: Sample | None, data: Data | None) -> None:
    """Write the quantised file beside the ONNX file, and print how both compare."""
    sample = given
    if sample is None:
        assert data is not None, "it is required without --images"
        sample = of_split(student, data.train, "the training set")
    path, float32 = output.with_suffix(".int8.onnx"), session(output)
    with published(path) as part:
        network = write_int8(output, part, sample)
        of_test = None if data is None else compare_on_test_set(student, float32, network, data.test)
        of_images = None if given is None else compare_on_sample(float32, network, given)
        if of_test is not None:
            write_accuracy(part, of_test)
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB, float32 {output.stat().st_size / 2**20:.2f} MiB;"
          f" calibrated on {len(sample.images)} images of {sample.source}")  # fmt: skip
    if of_test is not None:
        print(_in_words(of_test, "images", "the test set"))
    if of_images is not None:
        print(_in_words(of_images, "images, those of the calibration", "them"))


def _in_words(found: Compared, images: str, where: str) -> str:
    words = f"int8 predicts as float32: {found.agreement:.2f} % of {found.images} {images}"
    if not found.int8:
        return f"{words}; no accuracy of them is known: their folders are not named as the classes"
    return f"{words}; top-1 on {where}: int8 {found.int8['top1']:.2f} %, float32 {found.float32['top1']:.2f} %"


def _name_of(student: Student) -> str:
    """The student's name as that of a file: timm/vit_tiny_patch16_224(depth=6) -> vit_tiny_patch16_224."""
    return re.sub(r"\W+", "_", student.record.student.partition("(")[0].rpartition("/")[2])


def _source_files(source: Path) -> set[Path]:
    files = source.glob("*.safetensors") if source.is_dir() else [source]
    return {path.resolve() for path in (source, *files)}


def _data(student: Student, overrides: list[str], *, required: bool, wanted: bool) -> Data | None:
    """The data of the student's run; None if they are neither required nor, if wanted, there."""
    if not required and not wanted:
        return None
    try:
        return data_of_student(student, overrides)[1]
    except UserError as e:
        if not required:
            return None
        advice = "to compare the export with the checkpoint, give --images FOLDER, or DATASET.ROOT DIR of its data"
        raise type(e)(f"{e}\n{advice}") if isinstance(e, ConfigError | DataError) else e from None


def _test_images(student: Student, data: Data | None) -> Sample:
    assert data is not None, "it is required without --images"
    return of_split(student, data.test, "the test set")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
