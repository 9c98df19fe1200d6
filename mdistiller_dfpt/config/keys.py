"""All config keys with their defaults and allowed values; methods declare their own sections, which are added here."""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from yacs.config import CfgNode as CN

from ..registry import TABLES, suggest
from .keywords import flatten


class Limit(NamedTuple):
    """The allowed values of a key: a description for error messages, the check, and other accepted types."""

    words: str
    test: Callable[[Any], bool]
    types: tuple[type, ...] = ()


POSITIVE = Limit("> 0", lambda v: v > 0)
NOT_NEGATIVE = Limit(">= 0", lambda v: v >= 0)
A_SEED = Limit("in 0 .. 2**31 - 1", lambda v: 0 <= v < 2**31)
AT_LEAST_ONE = Limit(">= 1", lambda v: v >= 1)
FRACTION = Limit("in [0, 1)", lambda v: 0 <= v < 1)


def one_of(*choices: str) -> Limit:
    """The limit of a key that takes one of these strings."""
    return Limit(f"one of {', '.join(choices)}", lambda v: v in choices)


_NAME = re.compile(r"[\w.,=+-]{1,128}(/[\w.,=+-]{1,128}){0,7}")


def is_name(value: str) -> bool:
    """Whether this is a valid run name: components that cannot leave the output directory; empty for a derived name."""
    return value == "" or (_NAME.fullmatch(value) is not None and ".." not in value)


IS_NAME = Limit("letters, digits and . , = + - _ in components of up to 128, separated by /", is_name)

_INTERVAL = re.compile(r"|[1-9]\d*( steps?| minutes?)")
NETWORKS = Limit("a list of network names", lambda v: all(type(n) is str and n for n in v))
_MODULE_NAMES = Limit("a list of module names", lambda v: all(type(n) is str and n for n in v))

# ---------------------------------------------------------------------------------------------------------------
# All keys with their defaults; mdistiller's keys keep their names and meanings.
# ---------------------------------------------------------------------------------------------------------------
_DEFAULTS = CN(
    {
        "PLUGINS": [],  # user code to import first: module names or paths to .py files
        "EXPERIMENT": {
            "PROJECT": "distill",  # the project name in Weights & Biases
            "NAME": "",  # directory of the run below LOG.PREFIX; empty: the config's path below configs/
            "TAG": "default",  # appended to NAME unless "default", so that variants do not share a directory
            "DEVICE": "auto",  # auto: cuda if available; cpu; cuda; cuda:1
            "THREADS": 0,  # CPU threads; 0: PyTorch's choice
            "TIMEOUT": 600.0,  # seconds to wait for a data-loading worker, or for the other processes of a torchrun job
        },
        "DATASET": {
            "TYPE": "cifar100",
            "ROOT": "./data",  # folder that contains the datasets
            "DOWNLOAD": False,  # download a missing dataset from its official host
            "NUM_WORKERS": 2,  # worker processes that decode image files; in-memory datasets need none
            "SIZE": 0,  # height and width of images decoded from files; 0: the size of the published recipe
            "CLASSES": 0,  # expected number of classes, if you use a subset; 0: the official number
            "SEED": 0,  # seed of the sample order and the views; 0: SOLVER.SEED
            "ON_ERROR": "stop",  # if a file is not an image: stop and name it; skip: skip and count such files
            "TEST": {"BATCH_SIZE": 64},
        },
        "MODEL": {"FAMILY": "cifar"},  # cifar, imagenet, cub200; default: depends on the dataset
        "DISTILLER": {
            "TYPE": "NONE",  # a method, or a list of methods whose terms are summed
            "TEACHER": "ResNet50",
            "STUDENT": "resnet32",
            "TEACHER_KIND": "frozen",  # the kind of teacher, any name in TEACHERS
            "PATHS": {},  # the matched paths of the teacher and their weights; {}: the default of the kind
            # Weights of the teacher; empty: of the newest finished run of TEACHER_CFG; pretrained or pretrained:TAG: of
            # torchvision
            "TEACHER_CKPT": "",
            "TEACHER_CFG": "",  # config that trains the teacher, relative to the file that sets this key
            "ASSISTANTS": [],  # networks of intermediate size, strongest first, trained one after another
            "OTHER_TEACHERS": [],  # further teacher networks, for kinds of teacher that use several
            "OTHER_TEACHER_CKPTS": [],  # their weights, one file per network; or
            "OTHER_TEACHER_CFGS": [],  # the configs that train them, one per network
            "LOGITS_CACHE": "",  # folder for a cache of the teacher's logits for all views, for logit-based methods
            "LOGITS_CACHE_FILL": "lazily",  # lazily: as views are sampled; first: all before the first step
            "TEACHER_STAGES": [],  # modules that end the stages of a torchvision/, timm/ or custom network; []: found
            "STUDENT_STAGES": [],
            "TEACHER_AUTO_TRAIN": False,  # if there is no teacher yet, train it first from TEACHER_CFG
        },
        "SOLVER": {
            "TRAINER": "base",  # base; dot: two momenta, SOLVER.MOMENTUM -+ DOT.DELTA; crd is accepted and means base
            "BATCH_SIZE": 64,  # global batch size, over all processes
            "ACCUMULATE": 1,  # micro-batches per batch (gradient accumulation), if a batch does not fit in memory
            "SYNC_BN": False,  # synchronise BatchNorm statistics over all processes
            "EPOCHS": 240,
            "LR": 0.05,  # default: depends on the student, 0.01 for MobileNet and ShuffleNet
            # step: times LR_DECAY_RATE after each of LR_DECAY_STAGES; cosine: to 0 in all epochs; any name in SCHEDULES
            "SCHEDULE": "step",
            "LR_DECAY_STAGES": [150, 180, 210],
            "LR_DECAY_RATE": 0.1,
            "WARMUP_EPOCHS": 0.0,  # linear, updated at every step
            "WEIGHT_DECAY": 0.0001,
            "MOMENTUM": 0.9,
            "NESTEROV": False,
            "TYPE": "SGD",  # any name in OPTIMIZERS
            # none: float32; bf16: networks under bfloat16 autocast, losses in float32; fastest: the faster of the two
            # for each network, benchmarked once before the first step
            "AMP": "none",
            "AMP_STUDENT": "",  # of the student; empty: as AMP. On a CPU, depthwise convolutions are slower in bfloat16
            "CHANNELS_LAST": False,
            "SEED": 1,
            "DOT": {"DELTA": 0.075},
        },
        "LOG": {
            "TENSORBOARD": True,
            "TENSORBOARD_FREQ": 500,  # accepted for mdistiller's files; unused there as well
            "SAVE_CHECKPOINT_FREQ": 40,  # epochs between student weights that are kept; checkpoints are every epoch
            "SAVE_EVERY": "",  # checkpoints within an epoch as well: "500 steps" or "10 minutes"
            "PREFIX": "./output",
            "WANDB": False,  # log to Weights & Biases as well, if it is installed
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
        "the name of a method, or a list of distinct names",
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
        "increasing whole numbers >= 1",
        lambda v: all(type(e) is int and e >= 1 for e in v) and all(a < b for a, b in pairwise(v)),
    ),
    "SOLVER.LR_DECAY_RATE": Limit("in (0, 1]", lambda v: 0 < v <= 1),
    "SOLVER.WARMUP_EPOCHS": NOT_NEGATIVE,
    "SOLVER.WEIGHT_DECAY": NOT_NEGATIVE,
    "SOLVER.MOMENTUM": FRACTION,
    "SOLVER.AMP": one_of("none", "bf16", "fastest"),
    "SOLVER.AMP_STUDENT": one_of("", "none", "bf16", "fastest"),
    "DISTILLER.LOGITS_CACHE_FILL": one_of("lazily", "first"),
    "DISTILLER.ASSISTANTS": NETWORKS,
    "DISTILLER.OTHER_TEACHERS": NETWORKS,
    "DATASET.SEED": A_SEED,
    "SOLVER.SEED": A_SEED,
    "LOG.SAVE_CHECKPOINT_FREQ": AT_LEAST_ONE,
    "LOG.EVAL_FREQ": AT_LEAST_ONE,
    "LOG.SAVE_EVERY": Limit('empty, "N steps" or "N minutes"', lambda v: _INTERVAL.fullmatch(v) is not None),
}

WEIGHT = Limit("a weight > 0", lambda v: v > 0)
OPEN_NODES: dict[str, Limit] = {"DISTILLER.PATHS": WEIGHT}
"""Sections with arbitrary keys; each value is a number within the limit."""


class Removed(NamedTuple):
    """A key of an earlier version: its default, with which a file may still set it, and the key that replaces it."""

    default: Any
    now: str = ""  # the full key; empty if there is none

    def what_to_do(self) -> str:
        """The remedy, for the error message."""
        return f"it was renamed to {self.now}" if self.now else "it was removed: delete it"


REMOVED: dict[str, Removed] = {
    "DISTILLER.TEACHER_TABLE": Removed("", "DISTILLER.LOGITS_CACHE"),
    "DISTILLER.TEACHER_TABLE_FILL": Removed("lazily", "DISTILLER.LOGITS_CACHE_FILL"),
    "DISTILLER.TEACHER_AHEAD": Removed(1),
    "DISTILLER.TEACHER_FOLD_BN": Removed(False),
    "SOLVER.CUDA_GRAPH": Removed(False),
}

_NODES: dict[str, CN] = {}
TABLES.extend((LIMITS, REMOVED, _NODES))


def declare_node(
    name: str, node: CN, limits: Mapping[str, Limit], removed: Mapping[str, Removed] | None = None
) -> None:
    """Add a section, declared in the file of its method or kind of teacher; limits by path below the section.

    `removed`: keys of earlier versions.

    KeyError if the name is taken, or if a limit is given for a key that the section does not have.
    """
    if name in _DEFAULTS or name in _NODES:
        raise KeyError(f"{name!r} is already a section of the config")
    known = flatten(node)
    for key in limits:
        if key not in known:
            raise KeyError(f"{name}: a limit is given for {key!r}; {suggest(key, list(known))}")
    _NODES[name] = node
    LIMITS.update({f"{name}.{key}": limit for key, limit in limits.items()})
    REMOVED.update({f"{name}.{key}": entry for key, entry in (removed or {}).items()})


def by_keys_of_today(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config written by an earlier version, under the current keys; removed keys are dropped."""
    today = {key: value for key, value in flat.items() if key not in REMOVED}
    moved = {r.now: flat[key] for key, r in REMOVED.items() if r.now and flat.get(key, r.default) != r.default}
    return today | moved


def default_cfg() -> CN:
    """A fresh copy of all keys with their defaults, including the sections of all methods and kinds of teacher."""
    cfg = _DEFAULTS.clone()
    for name, node in _NODES.items():
        cfg[name] = node.clone()
    return cfg
