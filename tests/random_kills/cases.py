"""Draws a run and what happens to it: everything but the method, which the seeds go through in turn, is random."""

import random
from dataclasses import dataclass, replace

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.teachers import TEACHERS

from .processes import Fault

METHODS = sorted(DISTILLERS)
TEACHER, STUDENT = "resnet14", "resnet8"
STOPS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGUSR2")
SIGNALS = ("SIGKILL",) * 4 + STOPS * 2 + ("SIGUSR1",) * 2 + ("SIGSTOP",)
RESUMES = ("plain", "auto", "RUN")
UNITS = ("steps", "steps", "writes", "seconds")
EARLIEST = 0.02  # as a share of the run: before, the command has not begun to read its words
LAST = 4  # attempts without faults: a teacher, an assistant and the student may each be resumed by name
DAMAGES = ("", "", "", "truncated", "flipped", "lost")
FILES = ("state.pt", "student.safetensors", "manifest.json")

A_STUDENT = "weights of a trained student"
OPTIONS = (
    ("SOLVER.AMP", "bf16"),
    ("SOLVER.EMA", "0.7"),
    ("SOLVER.MIXUP", "0.8"),
    ("SOLVER.CUTMIX", "1.0"),
    ("SOLVER.LABEL_SMOOTHING", "0.1"),
    ("SOLVER.ACCUMULATE", "2"),
    ("SOLVER.TYPE", "AdamW"),
    ("SOLVER.TRAINER", "dot"),
    ("SOLVER.TRAINER", "deepkd"),
    ("SOLVER.TRAINER", "projected"),
    ("SOLVER.CLIP_NORM", "1.0"),
    ("SOLVER.SCHEDULE", "cosine", "SOLVER.WARMUP_EPOCHS", "1"),
    ("SOLVER.REMEASURE_BN", "each"),
    ("SOLVER.REMEASURE_BN", "last"),
    ("SOLVER.CHANNELS_LAST", "True"),
    ("SOLVER.EPOCHS", "3"),
    ("DATASET.VALIDATION", "0.34"),
    ("DATASET.SEED", "5"),
    ("DISTILLER.MATCH_WEIGHT", "1.0"),
    ("DISTILLER.LOGITS_CACHE", "out/cache"),
    ("DISTILLER.LOGITS_CACHE", "out/cache", "DISTILLER.LOGITS_CACHE_FILL", "first"),
    ("DISTILLER.STUDENT_CKPT", A_STUDENT),
    ("LOG.TENSORBOARD", "True"),
    ("LOG.EVAL_FREQ", "2"),
    ("LOG.SAVE_CHECKPOINT_FREQ", "1"),
)
"""Keys that change what is trained, kept or saved."""


@dataclass(frozen=True)
class Attempt:
    """One start of the command: how it is resumed, the faults, and the damage to its newest checkpoint afterwards."""

    resume: str  # none, plain (`--resume`), auto or RUN
    workers: int
    save_every: int  # steps; 0: after epochs alone
    faults: tuple[Fault, ...] = ()
    damage: str = ""
    file: str = "state.pt"  # the damaged one


@dataclass(frozen=True)
class Case:
    """A run, by the parts of its config, and what happens to it."""

    seed: int
    method: str
    parts: tuple[tuple[str, ...], ...]  # KEY VALUE ... each; a combination that is refused goes on with fewer
    attempts: tuple[Attempt, ...]
    in_files: bool  # whether images are decoded in worker processes
    trains_teacher: bool  # whether a teacher is trained first, by the same command

    def without(self, message):
        """The case less the parts whose keys a refusal names, or less the last part; None if there is none left."""
        left = tuple(part for part in self.parts if not any(key in message for key in part[::2]))
        if len(left) == len(self.parts):
            left = self.parts[:-1]
        return replace(self, parts=left) if self.parts else None

    def value(self, key, default=""):
        """The last value of a key in the parts."""
        found = [value for part in self.parts for name, value in zip(part[::2], part[1::2], strict=True) if name == key]
        return found[-1] if found else default

    @property
    def words(self):
        """The method and all parts as KEY VALUE ..."""
        return ["DISTILLER.TYPE", self.method, *(word for part in self.parts for word in part)]


def draw(seed):
    """The case of a seed."""
    rng = random.Random(seed)
    method, parts = METHODS[seed % len(METHODS)], []
    if rng.random() < 0.2:
        parts.append(("DISTILLER.TYPE", f"[{method}, {rng.choice(METHODS)}]"))
    if rng.random() < 0.5:
        parts.append(("DISTILLER.TEACHER_KIND", rng.choice(sorted(TEACHERS))))
    parts += rng.sample(OPTIONS, rng.randint(0, 6))
    attempts = [_attempt(rng, first=n == 0) for n in range(rng.randint(1, 5))]
    attempts += [replace(_attempt(rng, first=False), faults=(), damage="") for _ in range(LAST)]
    return Case(seed, method, tuple(parts), tuple(attempts), rng.random() < 0.5, rng.random() < 0.3)


def _attempt(rng, first):
    faults = tuple(_fault(rng) for _ in range(rng.choice((1, 1, 2))))
    resume = rng.choice(("none", "auto") if first else RESUMES)
    damage, file = rng.choice(DAMAGES), rng.choice(FILES)
    return Attempt(resume, rng.randint(0, 2), rng.choice((0, 1, 1, 2)), faults, damage, file)


def _fault(rng):
    at = round(max(EARLIEST, rng.random() ** 1.5), 3)
    return Fault(rng.choice(SIGNALS), rng.choice(UNITS), at, rng.choice((1, 1, 2)), rng.random() < 0.3)
