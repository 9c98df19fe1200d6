"""Several methods on one student: the networks run once, and the methods' terms are summed."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..data import Batch
from .base import Distiller, Output


class Combined(Distiller):
    """The members share student and teacher; each brings its own terms, logged as `NAME.term`, and its own modules.

    Terms are summed as they are, so cross-entropy counts once for each member that has it: set the weights in the yaml.
    At most one member may run the networks in a way of its own. ValueError where two do.
    """

    def __init__(self, members: Mapping[str, Distiller]):
        first = next(iter(members.values()))
        super().__init__(first.student, next((m.teacher for m in members.values() if m.teacher is not None), None))
        self.members = nn.ModuleDict(members)
        self.deploys_student_alone = all(m.deploys_student_alone for m in members.values())
        self.looks_at_teacher_maps = any(m.looks_at_teacher_maps for m in members.values())
        self.needs_strong_view = any(m.needs_strong_view for m in members.values())
        self.uses_teacher_output = any(m.uses_teacher_output for m in members.values())
        self.uses_epoch = any(m.uses_epoch for m in members.values())
        self.why_eager = next((m.why_eager for m in members.values() if m.why_eager), "")
        self.min_batch = max(m.min_batch for m in members.values())
        for way in ("forward_student", "forward_teacher", "forward_paths", "deployed"):
            self._owner(way)

    def _owner(self, way: str) -> Distiller:
        """The member that overrides this method of the base class; the first one where none does."""
        own = {n: m for n, m in self.members.items() if getattr(type(m), way) is not getattr(Distiller, way)}
        if len(own) > 1:
            raise ValueError(f"{' and '.join(own)} cannot be combined: each runs the networks in its own way ({way})")
        return next(iter((own or self.members).values()))

    def frozen(self) -> list[nn.Module]:
        return list({id(n): n for m in self.members.values() for n in m.frozen()}.values())

    @property
    def deployed(self) -> nn.Module:
        return self._owner("deployed").deployed

    def forward_student(self, image: Tensor) -> Output:
        return self._owner("forward_student").forward_student(image)

    def forward_teacher(self, image: Tensor, logits: Tensor | None = None) -> Output:
        return self._owner("forward_teacher").forward_teacher(image, logits)

    def forward_paths(self, image: Tensor) -> dict[str, Tensor]:
        return self._owner("forward_paths").forward_paths(image)

    def losses(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for name, member in self.members.items():
            terms.update({f"{name}.{key}": value for key, value in member.terms(student, teacher, batch).items()})
            for key, value in member.take_logged().items():
                self.log(key, value)
        return terms

    def terms(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        return self.losses(student, teacher, batch)  # each member has made its own fit for several processes

    def prepare(self, batches: Iterable[Batch]) -> None:
        for member in self.members.values():
            member.prepare(batches)

    def before_step(self) -> None:
        for member in self.members.values():
            member.before_step()

    def after_step(self, batch: Batch) -> None:
        for member in self.members.values():
            member.after_step(batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        seen: set[int] = set()
        groups = []
        for member in self.members.values():
            for group in member.parameter_groups():
                own = [p for p in group["params"] if p.requires_grad and id(p) not in seen]
                seen.update(map(id, own))
                groups.append({**group, "params": own})
        return groups

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        lines = {name: member.overhead(image_shape) for name, member in self.members.items()}
        return "\n".join(f"{name}: {line}" for name, line in lines.items() if line) or None
