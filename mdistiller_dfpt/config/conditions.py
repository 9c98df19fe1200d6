"""The conditions under which a key has an effect in a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from yacs.config import CfgNode as CN

from .policy import WITH_TEST_SET
from .trainers import WITH_OPTIMISER


@dataclass(frozen=True)
class Situation:
    """What decides which keys have an effect in a run."""

    cfg: CN
    sections: frozenset[str]  # those of the run's methods and of its kind of teacher
    is_taught: bool
    has_network: bool  # whether the kind of teacher is around a network
    starts_untrained: bool  # whether that network is trained along with the student
    has_assistants: bool
    has_other_teachers: bool
    in_files: bool  # whether the dataset's images are decoded from files
    processes: int
    revisions: Mapping[str, int]  # of the methods whose computation has changed under equal keys


class When(NamedTuple):
    """The condition under which a key has an effect: in words that follow `because`, if it does not hold; the check."""

    otherwise: str
    test: Callable[[Any], bool]  # of a `Situation`; for a key of a method, of its section


ALWAYS = When("", lambda s: True)
TAUGHT = When("no method of the run has a teacher", lambda s: s.is_taught)
HAS_NETWORK = When("no network teaches in this run", lambda s: s.has_network)
IS_TRAINED = When("no trained network teaches in this run", lambda s: s.has_network and not s.starts_untrained)
IN_FILES = When("the images of this dataset are in memory", lambda s: s.in_files)
NOT_OWN = When("the program augments its own images", lambda s: s.cfg.DATASET.TYPE != "own")
NO_TEST_SET = When("the dataset has a test set of its own", lambda s: s.cfg.DATASET.TYPE not in WITH_TEST_SET)
HAS_EXTRA = When("DATASET.EXTRA.TYPE is not set", lambda s: s.cfg.DATASET.EXTRA.TYPE is not None)
EXTRA_IN_MEMORY = When("there are no unlabelled images in memory", lambda s: HAS_EXTRA.test(s) and not s.in_files)
HAS_ASSISTANTS = When("the kind of teacher has no assistants", lambda s: s.has_assistants)
HAS_OTHER_TEACHERS = When("the kind of teacher has a single network", lambda s: s.has_other_teachers)

# Optimisers and schedules of a user's get all these values
BY_STEPS = When("the cosine schedule does not use it", lambda s: s.cfg.SOLVER.SCHEDULE != "cosine")
NOT_BY_STEPS = When("the schedule is step", lambda s: s.cfg.SOLVER.SCHEDULE != "step")


def _trained_by(name: str) -> When:
    return When(
        f"SOLVER.TRAINER is not {name}",
        lambda s: name == s.cfg.SOLVER.TRAINER or s.cfg.SOLVER.TYPE not in ("SGD", "AdamW"),
    )


BY_DOT, BY_DEEPKD = _trained_by("dot"), _trained_by("deepkd")
OWN_TASK = When(
    f"{BY_DEEPKD.otherwise}, or with AS_RELEASED the labels have the momentum of the target class",
    lambda s: BY_DEEPKD.test(s) and not s.cfg.SOLVER.DEEPKD.AS_RELEASED,
)
ONE_OPTIMISER = When(
    f"SOLVER.TRAINER {' and '.join(WITH_OPTIMISER)} have their own optimisers",
    lambda s: s.cfg.SOLVER.TRAINER not in WITH_OPTIMISER,
)
HAS_NESTEROV = When(
    "it is for SGD with momentum",
    lambda s: ONE_OPTIMISER.test(s) and s.cfg.SOLVER.TYPE != "AdamW" and s.cfg.SOLVER.MOMENTUM > 0,
)
HAS_MOMENTUM = When("AdamW has its own", lambda s: not ONE_OPTIMISER.test(s) or s.cfg.SOLVER.TYPE != "AdamW")
IS_CACHED = When("DISTILLER.LOGITS_CACHE is not set", lambda s: bool(s.cfg.DISTILLER.LOGITS_CACHE))
SEVERAL_PROCESSES = When("there is one process", lambda s: s.processes > 1)
AUTO, FASTEST = "auto", "fastest"
NOT_AUTO = When(f"SOLVER.SPEED is {AUTO}", lambda s: s.cfg.SOLVER.SPEED != AUTO)
NOT_CRD = When("one loop serves all methods", lambda s: s.cfg.SOLVER.TRAINER != "crd")
NEVER = When("every epoch is written", lambda s: False)


def is_measured(cfg: CN) -> bool:
    """Whether a config asks for what is faster on this machine, so that it trains once that was measured."""
    return cfg.SOLVER.SPEED == AUTO or FASTEST in (cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT)
