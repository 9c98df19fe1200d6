"""All config keys: default, meaning, limit, when a key has an effect, whether it decides a run's result."""

from dataclasses import dataclass
from typing import Any

from .conditions import (
    ALWAYS,
    AUTO,
    BY_DEEPKD,
    BY_DOT,
    BY_STEPS,
    EXTRA_IN_MEMORY,
    FASTEST,
    HAS_ASSISTANTS,
    HAS_EXTRA,
    HAS_MOMENTUM,
    HAS_NESTEROV,
    HAS_NETWORK,
    HAS_OTHER_TEACHERS,
    IN_FILES,
    IS_CACHED,
    IS_TRAINED,
    NEVER,
    NO_TEST_SET,
    NOT_AUTO,
    NOT_BY_STEPS,
    NOT_CRD,
    NOT_OWN,
    ONE_OPTIMISER,
    OWN_TASK,
    SEVERAL_PROCESSES,
    TAUGHT,
    When,
)
from .limits import (
    A_SEED,
    AT_LEAST_EIGHT,
    AT_LEAST_ONE,
    CROPPED,
    DEVIATIONS,
    FRACTION,
    INCREASING,
    IS_DEVICE,
    IS_INTERVAL,
    IS_NAME,
    METHODS,
    NETWORKS,
    NOT_NEGATIVE,
    NUMBERED,
    PER_CHANNEL,
    POSITIVE,
    SOME_THREADS,
    WEIGHT,
    Limit,
    distinct,
    names,
    one_of,
)
from .removed import REMOVED, Removed
from .trainers import A_TRAINER


@dataclass(frozen=True)
class Key:
    """A key of the config. If the default is None, which means `not set`, `kind` is the type of its other values."""

    default: Any
    meaning: str = ""
    limit: Limit | None = None
    when: When = ALWAYS  # the condition under which it has an effect
    decides: bool = True  # whether it changes a run's result; such keys identify a run
    kind: type | None = None
    entries: Limit | None = None  # of a section with arbitrary keys: the limit of its numbers


# ---------------------------------------------------------------------------------------------------------------
# mdistiller's keys keep their names, types and meanings.
# ---------------------------------------------------------------------------------------------------------------
KEYS: dict[str, Key] = {
    "PLUGINS": Key([], "user code to import first: module names or paths to .py files", names("names or paths"),
                   decides=False),
    "EXPERIMENT.PROJECT": Key("distill", "the project name in Weights & Biases", decides=False),
    "EXPERIMENT.NAME": Key("", "directory of the run below LOG.PREFIX; empty: the config's path below configs/",
                           IS_NAME, decides=False),
    "EXPERIMENT.TAG": Key("default", 'appended to NAME unless "default", so that variants have their own directories',
                          IS_NAME, decides=False),
    "EXPERIMENT.IMPORT_FROM": Key([], "folders of the modules that PLUGINS and networks module:function name, if not"
                                  " beside the file; a run notes them", names("folders"), decides=False),
    "EXPERIMENT.DEVICE": Key("auto", "auto: cuda if available; cpu; cuda; cuda:1. Of torchrun's processes, each has a"
                             " GPU of its own by cuda, and all share one by its number", IS_DEVICE, decides=False),
    "EXPERIMENT.THREADS": Key(None, "CPU threads; default: PyTorch's choice. Another number changes the last bits",
                              SOME_THREADS, decides=False, kind=int),
    "EXPERIMENT.TIMEOUT": Key(600.0, "seconds to wait for a data-loading worker, or for the other processes of a"
                              " torchrun job", POSITIVE, decides=False),
    "DATASET.TYPE": Key("cifar100", "any name in DATASETS"),
    "DATASET.ROOT": Key("./data", "folder that contains the datasets", decides=False),
    "DATASET.DOWNLOAD": Key(False, "download a missing dataset from its official host", decides=False),
    "DATASET.NUM_WORKERS": Key(2, "worker processes that decode image files; in-memory datasets need none",
                               NOT_NEGATIVE, IN_FILES, decides=False),
    "DATASET.SIZE": Key(None, "height and width that networks get; default: the recipe's, or that of images in memory",
                        AT_LEAST_EIGHT, kind=int),
    "DATASET.CLASSES": Key(None, "expected number of classes, which is checked; default: not checked", AT_LEAST_ONE,
                           decides=False, kind=int),
    "DATASET.RECIPE": Key("published", "published: the dataset's augmentation; imagenet: also of images in memory, a"
                          " random resized crop to SIZE (or 224) and a flip, in NUM_WORKERS processes; for testing, a"
                          " centre crop", one_of("published", "imagenet")),
    "DATASET.INTERPOLATION": Key(None, "of the resizing of images: bilinear or bicubic; default: the recipe's, which is"
                                 " bilinear", one_of("bilinear", "bicubic"), IN_FILES, kind=str),
    "DATASET.CROP_SCALE": Key(None, "smallest share of an image that a random resized crop covers; default: the"
                              " recipe's, 0.08 for ImageNet", CROPPED, IN_FILES, kind=float),
    "DATASET.UPRIGHT": Key(False, "turn images as their EXIF data say, which those of phones need and viewers do", None,
                           IN_FILES),
    "DATASET.DECODE": Key("exact", "of training images: exact, as by torchvision's reference; fast, JPEG files by"
                          " simplejpeg at no larger a scale than the crop needs", one_of("exact", "fast"), IN_FILES),
    "DATASET.AUTO_AUGMENT": Key(None, "a policy of timm, such as rand-m9-mstd0.5-inc1, of training images", None,
                                NOT_OWN, kind=str),
    "DATASET.ERASING": Key(0.0, "probability that a rectangle of a training image is replaced by noise", FRACTION,
                           NOT_OWN),
    "DATASET.AUGMENT": Key([], "what changes training images after crop, flip, AUTO_AUGMENT and ERASING, in this order:"
                           " names in AUGMENTATIONS", distinct("names of augmentations"), NOT_OWN),
    "DATASET.VALIDATION": Key(0.0, "share of each class's training images that is not trained on: epochs are judged by"
                              " it, `best` is chosen by it, and the test set is evaluated once, at the end",
                              FRACTION),
    "DATASET.SUPERCLASSES": Key(None, "new class of each class, repeated if there are more: [0, 1] joins those of even"
                                " and those of odd number; default: classes are not joined", NUMBERED, kind=list),
    "DATASET.SEED": Key(None, "seed of the sample order and the views; default: SOLVER.SEED", A_SEED, kind=int),
    "DATASET.ON_ERROR": Key("stop", "if a file is not an image: stop and name it; skip: skip and count such files",
                            one_of("stop", "skip"), IN_FILES),
    "DATASET.MEAN": Key(None, "mean of red, green and blue by which images are normalised; default: the recipe's",
                        PER_CHANNEL, kind=list),
    "DATASET.STD": Key(None, "the same for the standard deviation", DEVIATIONS, kind=list),
    "DATASET.EXTRA.TYPE": Key(None, "unlabelled images beside the training set, for methods that use such: a name in"
                              " DATASETS, or images for all image files below EXTRA.ROOT; default: none", kind=str),
    "DATASET.EXTRA.ROOT": Key(None, "the folder that contains them; default: DATASET.ROOT", None, HAS_EXTRA, False,
                              str),
    "DATASET.EXTRA.BATCH_SIZE": Key(None, "unlabelled images of a step, over all processes; default: SOLVER.BATCH_SIZE",
                                    AT_LEAST_ONE, HAS_EXTRA, kind=int),
    "DATASET.EXTRA.RESIZE": Key(False, "if training images are in memory: crop and resize unlabelled ones of another"
                                " size, which are rejected otherwise", None, EXTRA_IN_MEMORY),
    "DATASET.TEST.SHARE": Key(0.0, "for folder, if the data have no test set: share of each class's images that is the"
                              " test set, chosen by what the files contain", FRACTION, NO_TEST_SET),
    "DATASET.TEST.BATCH_SIZE": Key(64, "images of a batch of the evaluation", AT_LEAST_ONE, decides=False),
    "MODEL.FAMILY": Key("cifar", "cifar, imagenet, cub200, tiny_imagenet; default: depends on the dataset"),
    "DISTILLER.TYPE": Key("NONE", "a method, or a list of methods whose terms are summed", METHODS),
    "DISTILLER.TEACHER": Key("ResNet50", "the teacher's network", when=HAS_NETWORK),
    "DISTILLER.STUDENT": Key("resnet32", "the student's network"),
    "DISTILLER.STUDENT_CKPT": Key(None, "weights that the student starts from: a file, the directory of a run, or"
                                  " pretrained: those that timm or torchvision publishes; a classifier of other classes"
                                  " starts anew", kind=str),
    "DISTILLER.TEACHER_KIND": Key("frozen", "the kind of teacher, any name in TEACHERS", when=TAUGHT),
    "DISTILLER.PATHS": Key({}, "the matched paths of the teacher and their weights; {}: the default of the kind",
                           when=TAUGHT, entries=WEIGHT),
    "DISTILLER.MATCH_WEIGHT": Key(0.0, "scale the distillation terms to this total weight, to compare methods at equal"
                                  " strength; 0: as configured", NOT_NEGATIVE, TAUGHT),
    "DISTILLER.TEACHER_CKPT": Key(None, "weights of the teacher; default: of the finished run of TEACHER_CFG;"
                                  " pretrained or pretrained:TAG: of torchvision", None, HAS_NETWORK, False, str),
    "DISTILLER.TEACHER_CFG": Key(None, "config that trains the teacher, relative to the file that sets this key",
                                 None, IS_TRAINED, False, str),
    "DISTILLER.ASSISTANTS": Key([], "networks of intermediate size, strongest first, trained one after another",
                                NETWORKS, HAS_ASSISTANTS),
    "DISTILLER.OTHER_TEACHERS": Key([], "further teacher networks, for kinds of teacher that use several",
                                    NETWORKS, HAS_OTHER_TEACHERS),
    "DISTILLER.OTHER_TEACHER_CKPTS": Key([], "their weights, one file per network; or", None, HAS_OTHER_TEACHERS,
                                         False),
    "DISTILLER.OTHER_TEACHER_CFGS": Key([], "the configs that train them, one per network", None, HAS_OTHER_TEACHERS,
                                        False),
    "DISTILLER.LOGITS_CACHE": Key(None, "folder for caches of the frozen networks' logits (float16) for all views, for"
                                  " logit-based methods", None, TAUGHT, kind=str),
    "DISTILLER.LOGITS_CACHE_FILL": Key("lazily", "lazily: as views are sampled; first: all before the first step",
                                       one_of("lazily", "first"), IS_CACHED, decides=False),
    "DISTILLER.TEACHER_STAGES": Key([], "modules that end the stages of a torchvision/, timm/ or custom network; []:"
                                    " found", names("module names"), HAS_NETWORK),
    "DISTILLER.STUDENT_STAGES": Key([], "the same for the student", names("module names")),
    "DISTILLER.TEACHER_SIZE": Key(None, "height and width of the teacher's images, to which those of DATASET.SIZE are"
                                  " resized; default: DATASET.SIZE", AT_LEAST_EIGHT, HAS_NETWORK, kind=int),
    "DISTILLER.STUDENT_SIZE": Key(None, "the same for the student", AT_LEAST_EIGHT, kind=int),
    "DISTILLER.TEACHER_MEAN": Key(None, "mean of the teacher's own normalisation; default: the published one of a"
                                  " torchvision/ or timm/ network, else the dataset's", PER_CHANNEL, HAS_NETWORK,
                                  kind=list),
    "DISTILLER.TEACHER_STD": Key(None, "its standard deviation", DEVIATIONS, HAS_NETWORK, kind=list),
    "DISTILLER.STUDENT_MEAN": Key(None, "the same for the student", PER_CHANNEL, kind=list),
    "DISTILLER.STUDENT_STD": Key(None, "the same for the student", DEVIATIONS, kind=list),
    "DISTILLER.TEACHER_AUTO_TRAIN": Key(False, "if there is no teacher yet, train it first from TEACHER_CFG",
                                        None, IS_TRAINED, False),
    "SOLVER.TRAINER": Key("base", "base; dot: two momenta, SOLVER.MOMENTUM -+ DOT.DELTA; deepkd: three momenta, for"
                          " methods with terms of the target and of the other classes; projected: the gradient of"
                          " distillation without the part that opposes the labels'; crd is accepted and means base",
                          A_TRAINER, NOT_CRD),
    "SOLVER.BATCH_SIZE": Key(64, "global batch size, over all processes", AT_LEAST_ONE),
    "SOLVER.ACCUMULATE": Key(1, "micro-batches per batch (gradient accumulation), if a batch does not fit in memory",
                             AT_LEAST_ONE),
    "SOLVER.SYNC_BN": Key(False, "synchronise BatchNorm statistics over all processes", None, SEVERAL_PROCESSES),
    "SOLVER.EPOCHS": Key(240, "epochs of training", AT_LEAST_ONE),
    "SOLVER.LR": Key(0.05, "learning rate; default: depends on the student, 0.01 for MobileNet and ShuffleNet",
                     POSITIVE),
    "SOLVER.SCHEDULE": Key("step", "step: times LR_DECAY_RATE after each of LR_DECAY_STAGES; cosine: to LR_MIN in"
                           " all epochs; any name in SCHEDULES"),
    "SOLVER.LR_DECAY_STAGES": Key([150, 180, 210], "the last epochs before each decay", INCREASING, BY_STEPS),
    "SOLVER.LR_DECAY_RATE": Key(0.1, "the factor of each decay", Limit("in (0, 1]", lambda v: 0 < v <= 1), BY_STEPS),
    "SOLVER.LR_MIN": Key(0.0, "learning rate at the end of the cosine schedule", NOT_NEGATIVE, NOT_BY_STEPS),
    "SOLVER.WARMUP_EPOCHS": Key(0.0, "epochs of a linear warm-up, updated at every step", NOT_NEGATIVE),
    "SOLVER.WEIGHT_DECAY": Key(0.0001, "weight decay", NOT_NEGATIVE),
    "SOLVER.MOMENTUM": Key(0.9, "momentum of SGD", FRACTION, HAS_MOMENTUM),
    "SOLVER.NESTEROV": Key(False, "Nesterov momentum", None, HAS_NESTEROV),
    "SOLVER.CLIP_NORM": Key(None, "maximum norm of the gradient; default: no clipping", POSITIVE, ONE_OPTIMISER,
                            kind=float),
    "SOLVER.LABEL_SMOOTHING": Key(0.0, "probability spread over all classes, for methods that take soft labels",
                                  FRACTION),
    "SOLVER.MIXUP": Key(0.0, "alpha of mixup, 0 for none, for methods that take soft labels; the accuracy printed as"
                        " train counts one of an image's two labels", NOT_NEGATIVE),
    "SOLVER.CUTMIX": Key(0.0, "alpha of CutMix, 0 for none; with MIXUP, each batch takes one of them; train as with"
                         " MIXUP", NOT_NEGATIVE),
    "SOLVER.EMA": Key(None, "decay of a moving average of the student's weights, which is evaluated and saved in their"
                      " place; default: none", Limit("in (0, 1)", lambda v: 0 < v < 1), kind=float),
    "SOLVER.REMEASURE_BN": Key("never", "BatchNorm's statistics are measured again over the training images, prepared"
                               " as for testing, and evaluated and saved: last: before the last epoch's evaluation;"
                               " each: before every one", one_of("never", "last", "each")),
    "SOLVER.TYPE": Key("SGD", "SGD; AdamW, without decay of biases and norms; any name in OPTIMIZERS", None,
                       ONE_OPTIMISER),
    "SOLVER.SPEED": Key(None, "auto: AMP, AMP_STUDENT and COMPILE are those with which this run is fastest on this"
                        " machine, benchmarked once before the first step and kept for --resume; default: as they are"
                        " set", one_of(AUTO), kind=str),
    "SOLVER.AMP": Key("none", "none: float32; bf16: networks under bfloat16 autocast, losses in float32; fastest: the"
                      " faster of the two for each network, benchmarked once before the first step",
                      one_of("none", "bf16", FASTEST), NOT_AUTO),
    "SOLVER.AMP_STUDENT": Key(None, "of the student; default: as AMP. On a CPU, depthwise convolutions are slower in"
                              " bfloat16", one_of("none", "bf16", FASTEST), NOT_AUTO, kind=str),
    "SOLVER.CHANNELS_LAST": Key(True, "memory format of images and weights"),
    "SOLVER.COMPILE": Key(False, "compile the forward and backward pass by torch.compile before the first step, which"
                          " takes about a minute", None, NOT_AUTO),
    "SOLVER.SEED": Key(1, "seed of the initial weights, and of the data unless DATASET.SEED is set", A_SEED),
    "SOLVER.DOT.DELTA": Key(0.075, "the difference of the two momenta from SOLVER.MOMENTUM", FRACTION, BY_DOT),
    "SOLVER.DEEPKD.DELTA_TOG": Key(0.075, "added to SOLVER.MOMENTUM for the labels' terms", None, OWN_TASK),
    "SOLVER.DEEPKD.DELTA_TCG": Key(-0.075, "the same for the terms of the target class", None, BY_DEEPKD),
    "SOLVER.DEEPKD.DELTA_NCG": Key(0.075, "the same for the terms of the other classes", None, BY_DEEPKD),
    "SOLVER.DEEPKD.AS_RELEASED": Key(True, "the labels have the momentum of the target class, as in the authors' code;"
                                     " else their own, as in the paper", None, BY_DEEPKD),
    "LOG.TENSORBOARD": Key(True, "write events for TensorBoard", decides=False),
    "LOG.TENSORBOARD_FREQ": Key(500, "accepted for mdistiller's files; unused there as well", None, NEVER, False),
    "LOG.SAVE_CHECKPOINT_FREQ": Key(40, "epochs between student weights that are kept; checkpoints are every epoch",
                                    AT_LEAST_ONE, decides=False),
    "LOG.SAVE_EVERY": Key(None, 'checkpoints within an epoch as well: "500 steps" or "10 minutes"', IS_INTERVAL,
                          decides=False, kind=str),
    "LOG.PREFIX": Key("./output", "folder of all runs", decides=False),
    "LOG.WANDB": Key(False, "log to Weights & Biases as well, if it is installed", decides=False),
    "LOG.EVAL_FREQ": Key(1, "epochs between evaluations; the last epoch is always evaluated", AT_LEAST_ONE,
                         decides=False),
}  # fmt: skip

__all__ = ["KEYS", "REMOVED", "Key", "Limit", "Removed", "When"]
