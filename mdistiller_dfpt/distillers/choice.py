"""What a config asks for by name: methods, kind of teacher, networks; worked out once, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass

from yacs.config import CfgNode as CN

from ..config.conditions import Situation
from ..config.keywords import asked_for, flatten
from ..data.augmentation import AUGMENTATIONS
from ..distributed import world_size
from ..errors import ConfigError
from ..teachers import TEACHERS
from .base import DISTILLERS, Method


@dataclass(frozen=True)
class Choice:
    """The methods of DISTILLER.TYPE, and the names of what they need; `choice` makes one."""

    methods: Mapping[str, type[Method]]
    student: str
    teacher: str  # empty where no method has one, or its kind is around no network
    kind: str  # of the teacher; empty where no method has one
    others_key: str  # the key of DISTILLER that names the networks beside the teacher; empty where its kind takes none
    others: tuple[str, ...]  # those networks: assistants, or other teachers

    @property
    def label(self) -> str:
        """DISTILLER.TYPE as a single string."""
        return "+".join(self.methods)

    @property
    def sections(self) -> frozenset[str]:
        """The config sections of the methods and of the kind of teacher, unless a method's has that kind's keys."""
        of_methods = {name for name, cls in self.methods.items() if cls.config}
        builds = any(getattr(cls, "builds_teacher", False) for cls in self.methods.values())
        of_kind = {TEACHERS.node_of(self.kind)} if self.is_taught and not builds else set()
        return frozenset(of_methods | of_kind).union(*(cls.reads for cls in self.methods.values()))

    @property
    def is_taught(self) -> bool:
        """Whether any of the methods needs a teacher."""
        return bool(self.kind)

    @property
    def starts_untrained(self) -> bool:
        """Whether the teacher's network is trained along with the student."""
        return self.is_taught and TEACHERS[self.kind].starts_untrained

    @property
    def adds_modules(self) -> frozenset[str]:
        """The methods that add modules to the deployed network."""
        return frozenset(name for name, cls in self.methods.items() if cls.deployed is not Method.deployed)

    def revision_of(self, name: str) -> int:
        """The number of a method or logit loss of this name: 1 unless it computes something else than before."""
        cls = DISTILLERS.get(name)
        if cls is None:
            return 1
        beside = cls.changed_beside_modules and name in self.methods and self.adds_modules - {name}
        return cls.revision + bool(beside)

    @property
    def depends_on_epochs(self) -> bool:
        """Whether a method or the kind of teacher is built with SOLVER.EPOCHS, as for a decay up to the last epoch."""
        parts = [*self.methods.values(), *([TEACHERS[self.kind]] if self.is_taught else [])]
        return any(asked_for(getattr(part, "foreign", part), {"epochs": None}) for part in parts)


def choice(cfg: CN) -> Choice:
    """What a config asks for.

    ConfigError where a name is unknown or empty, or where two methods need different kinds of teacher.
    """
    d = cfg.DISTILLER
    if not d.STUDENT:
        raise ConfigError("DISTILLER.STUDENT is empty: name a network")
    methods = {name: DISTILLERS[name] for name in ([d.TYPE] if isinstance(d.TYPE, str) else d.TYPE)}
    if not any(method.needs_teacher for method in methods.values()):
        return Choice(methods, d.STUDENT, "", "", "", ())
    kind = _kind(methods, d.TEACHER_KIND)
    cls = TEACHERS[kind]
    if cls.needs_network and not d.TEACHER:
        raise ConfigError("DISTILLER.TEACHER is empty: name the network that teaches, or set DISTILLER.TYPE NONE")
    key, teacher = cls.others_key, d.TEACHER if cls.needs_network else ""
    return Choice(methods, d.STUDENT, teacher, kind, key, tuple(d[key]) if key else ())


def situation(cfg: CN, *, in_files: bool) -> Situation:
    """What decides which keys have an effect; `in_files`: the images are decoded from files."""
    chosen = choice(cfg)
    augmented_by = {AUGMENTATIONS.node_of(name) for name in cfg.DATASET.AUGMENT if AUGMENTATIONS[name].config}
    return Situation(
        cfg, chosen.sections | augmented_by, chosen.is_taught, bool(chosen.teacher), chosen.starts_untrained,
        chosen.others_key == "ASSISTANTS", chosen.others_key == "OTHER_TEACHERS", in_files, world_size(),
        {name: revision for name in {*chosen.methods, *_logit_losses(cfg, chosen)}
         if (revision := chosen.revision_of(name)) > 1},
    )  # fmt: skip


def _logit_losses(cfg: CN, chosen: Choice) -> set[str]:
    """The logit losses of the run's methods and kind of teacher: those of methods have their names."""
    flat = flatten({section: cfg[section] for section in chosen.sections if section in cfg})
    return {value for key, value in flat.items() if key.endswith("LOGIT_LOSS")}


def _kind(methods: Mapping[str, type[Method]], asked_for: str) -> str:
    """The kind of teacher: a method's own, where one is made for a kind, else DISTILLER.TEACHER_KIND."""
    asked = {"DISTILLER.TEACHER_KIND": asked_for} if asked_for != "frozen" else {}
    asked |= {name: kind for name, m in methods.items() if (kind := getattr(m, "teacher_kind", ""))}
    if len(set(asked.values())) > 1:
        raise ConfigError("; ".join(f"{name} requires a teacher of kind {kind}" for name, kind in asked.items())
                          + "; a run has one kind")  # fmt: skip
    return next(iter(asked.values()), "frozen")
