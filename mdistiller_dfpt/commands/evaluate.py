"""Evaluate a checkpoint: mdistiller-dfpt eval -m resnet8x4 -c PATH [-d cifar100] [KEY VALUE ...].

PATH is a run directory, a checkpoint directory, a .safetensors file or a .pth file as published
({"model": state_dict}). With --cfg FILE, network, data and precision are those of the config's student; with
--cfg FILE --teacher those of its teacher, whose checkpoint is found as in training if -c is not given.
"""

from pathlib import Path

from ..errors import ConfigError
from ..interop.plugins import load_cfg
from ..launch.cli import Parser, guarded
from ..launch.evaluate_checkpoint import evaluate_checkpoint
from ..launch.networks import Role, name_of


def _main(argv: list[str]) -> None:
    parser = Parser("eval", __doc__)
    parser.add_argument("--cfg", help="yaml file of a run")
    parser.add_argument("-m", "--model", help="name of the network; default: the config's student")
    parser.add_argument("-c", "--ckpt", type=Path, help="its weights; default: those of the finished run of --cfg")
    parser.add_argument("-d", "--dataset", help="DATASET.TYPE")
    parser.add_argument("-bs", "--batch-size", help="DATASET.TEST.BATCH_SIZE")
    parser.add_argument("--teacher", action="store_true", help="evaluate the config's teacher instead of its student")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example DATASET.ROOT ./data")
    args = parser.parse_intermixed_args(argv)
    if not args.cfg and not (args.model and args.ckpt):
        raise ConfigError("nothing to evaluate: give --cfg FILE, or -m NETWORK -c CHECKPOINT")
    if args.teacher and not args.cfg:
        raise ConfigError("--teacher evaluates the teacher of a config: add --cfg FILE")
    for key, value in (("DATASET.TYPE", args.dataset), ("DATASET.TEST.BATCH_SIZE", args.batch_size)):
        if value is not None:
            args.opts += [key, value]
    cfg = load_cfg(args.cfg, args.opts)
    role: Role = "other" if args.model else "teacher" if args.teacher else "student"
    name = args.model or name_of(cfg, role)
    found = evaluate_checkpoint(cfg, role, args.ckpt, args.model or "")
    print(f"{name} {found.weights}: top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
