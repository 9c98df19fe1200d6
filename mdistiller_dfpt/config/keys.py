"""Every key of the config with its default and the values it takes; methods add their own nodes here."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from yacs.config import CfgNode as CN

from ..registry import suggest
from .keywords import flatten


class Limit(NamedTuple):
    """What values a key takes: words for the error line, the test behind them, and other types it may have."""

    words: str
    test: Callable[[Any], bool]
    types: tuple[type, ...] = ()


POSITIVE = Limit("> 0", lambda v: v > 0)
NOT_NEGATIVE = Limit(">= 0", lambda v: v >= 0)
A_SEED = Limit("in 0 .. 2**31 - 1", lambda v: 0 <= v < 2**31)
AT_LEAST_ONE = Limit(">= 1", lambda v: v >= 1)
FRACTION = Limit("in [0, 1)", lambda v: 0 <= v < 1)


def one_of(*choices: str) -> Limit:
    """The limit of a key that takes one of a few words."""
    return Limit(f"one of {', '.join(choices)}", lambda v: v in choices)


_NAME = re.compile(r"[\w.,=+-]{1,128}(/[\w.,=+-]{1,128}){0,7}")


def is_name(value: str) -> bool:
    """Whether a run may be called this: parts that cannot leave the output directory, or empty for a derived name."""
    return value == "" or (_NAME.fullmatch(value) is not None and ".." not in value)


IS_NAME = Limit("letters, digits and . , = + - _ in parts of up to 128, divided by /", is_name)

_INTERVAL = re.compile(r"|[1-9]\d*( steps?| minutes?)")
_NETWORKS = Limit("a list of networks' names", lambda v: all(type(n) is str and n for n in v))
_MODULE_NAMES = Limit("a list of modules' names", lambda v: all(type(n) is str and n for n in v))

# ---------------------------------------------------------------------------------------------------------------
# Every key with its default; names and meanings of mdistiller's keys are mdistiller's.
# ---------------------------------------------------------------------------------------------------------------
_DEFAULTS = CN(
    {
        "PLUGINS": [],  # user code to import first: a module's name, or a path to a .py file
        "EXPERIMENT": {
            "PROJECT": "distill",  # the project in Weights & Biases
            "NAME": "",  # where the run lies below LOG.PREFIX; empty: the config's own path below configs/
            "TAG": "default",  # appended to NAME unless "default", so that variants do not share a directory
            "DEVICE": "auto",  # auto: cuda where there is one; cpu; cuda; cuda:1
            "THREADS": 0,  # CPU threads; 0: PyTorch's choice
            "TIMEOUT": 600.0,  # seconds to wait for a worker that decodes, or for the other processes of a torchrun job
        },
        "DATASET": {
            "TYPE": "cifar100",
            "ROOT": "./data",  # folder that holds the data sets
            "DOWNLOAD": False,  # fetch a missing data set from its official host
            "NUM_WORKERS": 2,  # processes that decode files; data sets that live in memory need none
            "SIZE": 0,  # height and width of images that are decoded from files; 0: the published recipe's
            "CLASSES": 0,  # how many classes must be found, where it is not the official number, which 0 means
            "SEED": 0,  # of order and views; 0: SOLVER.SEED
            "ON_ERROR": "stop",  # at a file that is no image: stop, naming it; skip it, and count such files
            "TEST": {"BATCH_SIZE": 64},
        },
        "MODEL": {"FAMILY": "cifar"},  # cifar, imagenet, cub200; where nothing sets it, the data set's own
        "DISTILLER": {
            "TYPE": "NONE",  # a method, or a list of methods whose terms are summed
            "TEACHER": "ResNet50",
            "STUDENT": "resnet32",
            "TEACHER_KIND": "frozen",  # the kind of teacher around the trained network: any name of TEACHERS
            "PATHS": {},  # the teacher's paths that are matched, and their weights; {}: those of its kind
            # Weights of the teacher; empty: those that TEACHER_CFG's own run left; pretrained, or pretrained:TAG, are
            # torchvision's
            "TEACHER_CKPT": "",
            "TEACHER_CFG": "",  # config that trains the teacher, relative to the file that names it
            "ASSISTANTS": [],  # networks between teacher and student, the strongest first, trained in turn
            "OTHER_TEACHERS": [],  # networks beside TEACHER, for the kinds that are made of several
            "OTHER_TEACHER_CKPTS": [],  # their weights, one each; or
            "OTHER_TEACHER_CFGS": [],  # the configs that train them, one each
            "LOGITS_CACHE": "",  # folder that keeps the teacher's logits of every view, for methods that take no more
            "LOGITS_CACHE_FILL": "lazily",  # as views are met; first: all of them before the first step
            "TEACHER_STAGES": [],  # modules that end the stages of a torchvision/, timm/ or own network; []: found
            "STUDENT_STAGES": [],
            "TEACHER_AUTO_TRAIN": False,  # train the teacher from TEACHER_CFG first where there is none yet
        },
        "SOLVER": {
            "TRAINER": "base",  # base; dot: two momenta, DOT.DELTA apart; crd is accepted and means base
            "BATCH_SIZE": 64,  # of all processes together
            "ACCUMULATE": 1,  # micro-batches of a batch, whose gradients are summed, where memory holds no whole one
            "SYNC_BN": False,  # BatchNorm over the samples of all processes
            "EPOCHS": 240,
            "LR": 0.05,  # where nothing sets it, the student's own: 0.01 for MobileNet and ShuffleNet
            # step: LR_DECAY_RATE after each of LR_DECAY_STAGES; cosine: to zero over all epochs; any name of SCHEDULES
            "SCHEDULE": "step",
            "LR_DECAY_STAGES": [150, 180, 210],
            "LR_DECAY_RATE": 0.1,
            "WARMUP_EPOCHS": 0.0,  # linear, per step, before the schedule's own value is reached
            "WEIGHT_DECAY": 0.0001,
            "MOMENTUM": 0.9,
            "NESTEROV": False,
            "TYPE": "SGD",  # any name of OPTIMIZERS
            # none: float32; bf16: networks under bfloat16 autocast, losses in float32; fastest: what a measurement
            # says for each network, once, before the first step
            "AMP": "none",
            "AMP_STUDENT": "",  # the student's alone; empty: AMP. A CPU is slower at depthwise ones in bfloat16
            "CHANNELS_LAST": False,
            "SEED": 1,
            "DOT": {"DELTA": 0.075},
        },
        "LOG": {
            "TENSORBOARD": True,
            "TENSORBOARD_FREQ": 500,  # accepted for mdistiller's files, where nothing reads it either
            "SAVE_CHECKPOINT_FREQ": 40,  # epochs between students kept for good; --resume has one of every epoch
            "SAVE_EVERY": "",  # checkpoints within an epoch too: "500 steps" or "10 minutes"
            "PREFIX": "./output",
            "WANDB": False,  # Weights & Biases too, where it is installed
            "EVAL_FREQ": 1,  # epochs between evaluations; the last epoch is always evaluated
        },
    }
)


LIMITS: dict[str, Limit] = {
    "EXPERIMENT.NAME": IS_NAME,
    "EXPERIMENT.TAG": IS_NAME,
    "EXPERIMENT.DEVICE": Limit(
        "auto, cpu, cuda or cuda:N", lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None
    ),
    "EXPERIMENT.THREADS": NOT_NEGATIVE,
    "EXPERIMENT.TIMEOUT": POSITIVE,
    "PLUGINS": Limit("a list of names or paths", lambda v: all(type(n) is str and n for n in v)),
    "DISTILLER.TYPE": Limit(
        "a method's name, or a list of different ones",
        lambda v: isinstance(v, str) or (len(v) > 0 and all(type(n) is str for n in v) and len(set(v)) == len(v)),
        types=(list,),
    ),
    "DATASET.NUM_WORKERS": NOT_NEGATIVE,
    "DATASET.TEST.BATCH_SIZE": AT_LEAST_ONE,
    "DATASET.SIZE": Limit("0, or at least 8", lambda v: v == 0 or v >= 8),
    "DATASET.CLASSES": NOT_NEGATIVE,
    "DATASET.ON_ERROR": one_of("stop", "skip"),
    "SOLVER.TRAINER": one_of("base", "crd", "dot"),
    "SOLVER.DOT.DELTA": FRACTION,
    "SOLVER.BATCH_SIZE": AT_LEAST_ONE,
    "SOLVER.EPOCHS": AT_LEAST_ONE,
    "SOLVER.ACCUMULATE": AT_LEAST_ONE,
    "DISTILLER.TEACHER_STAGES": _MODULE_NAMES,
    "DISTILLER.STUDENT_STAGES": _MODULE_NAMES,
    "SOLVER.LR": POSITIVE,
    "SOLVER.LR_DECAY_STAGES": Limit(
        "rising whole numbers >= 1",
        lambda v: all(type(e) is int and e >= 1 for e in v) and all(a < b for a, b in pairwise(v)),
    ),
    "SOLVER.LR_DECAY_RATE": Limit("in (0, 1]", lambda v: 0 < v <= 1),
    "SOLVER.WARMUP_EPOCHS": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": FRACTION,
    "SOLVER.AMP": one_of("none", "bf16", "fastest"),
    "SOLVER.AMP_STUDENT": one_of("", "none", "bf16", "fastest"),
    "DISTILLER.LOGITS_CACHE_FILL": one_of("lazily", "first"),
    "DISTILLER.ASSISTANTS": _NETWORKS,
    "DISTILLER.OTHER_TEACHERS": _NETWORKS,
    "DATASET.SEED": A_SEED,
    "SOLVER.SEED": A_SEED,
    "LOG.SAVE_CHECKPOINT_FREQ": AT_LEAST_ONE,
    "LOG.EVAL_FREQ": AT_LEAST_ONE,
    "LOG.SAVE_EVERY": Limit('empty, "N steps" or "N minutes"', lambda v: _INTERVAL.fullmatch(v) is not None),
}

WEIGHT = Limit("a weight > 0", lambda v: v > 0)
OPEN_NODES: dict[str, Limit] = {"DISTILLER.PATHS": WEIGHT}
"""Sections whose keys are free; each value is a number within the limit."""


class Removed(NamedTuple):
    """A key of earlier versions: the default that it had, with which a file may still name it, and what it is now."""

    default: Any
    now: str = ""  # the whole key; empty where it is gone

    def what_to_do(self) -> str:
        """In words, for the error line."""
        return f"it is {self.now} now" if self.now else "it is gone: leave it out"


REMOVED: dict[str, Removed] = {
    "DISTILLER.TEACHER_TABLE": Removed("", "DISTILLER.LOGITS_CACHE"),
    "DISTILLER.TEACHER_TABLE_FILL": Removed("lazily", "DISTILLER.LOGITS_CACHE_FILL"),
    "DISTILLER.TEACHER_AHEAD": Removed(1),
    "DISTILLER.TEACHER_FOLD_BN": Removed(False),
    "SOLVER.CUDA_GRAPH": Removed(False),
}

_NODES: dict[str, CN] = {}


def declare_node(
    name: str, node: CN, limits: Mapping[str, Limit], removed: Mapping[str, Removed] | None = None
) -> None:
    """Add a section, declared beside its method or kind of teacher, to the tree; limits by path below the section.

    `removed`: keys that it had in earlier versions.

    KeyError where the name is taken, or where a limit is for a key that the section does not have.
    """
    if name in _DEFAULTS or name in _NODES:
        raise KeyError(f"{name!r} is a section of the config already")
    known = flatten(node)
    for key in limits:
        if key not in known:
            raise KeyError(f"{name}: a limit is given for {key!r}; {suggest(key, list(known))}")
    _NODES[name] = node
    LIMITS.update({f"{name}.{key}": limit for key, limit in limits.items()})
    REMOVED.update({f"{name}.{key}": entry for key, entry in (removed or {}).items()})


def by_keys_of_today(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config that an earlier version wrote, by the keys of this one; what is gone is left out."""
    today = {key: value for key, value in flat.items() if key not in REMOVED}
    moved = {r.now: flat[key] for key, r in REMOVED.items() if r.now and flat.get(key, r.default) != r.default}
    return today | moved


def default_cfg() -> CN:
    """A fresh copy of every key with its default, the sections of all methods and kinds of teacher included."""
    cfg = _DEFAULTS.clone()
    for name, node in _NODES.items():
        cfg[name] = node.clone()
    return cfg
