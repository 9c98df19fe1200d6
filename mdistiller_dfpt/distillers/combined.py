"""Several methods, or one method on several paths of its teacher, for one student: their terms are summed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..losses import Terms
from ..models.output import Output
from ..teachers.hooked import Hooked
from .base import Batch, Distiller, Method


@dataclass(frozen=True)
class Member:
    """One distiller of a sum; `name` and a dot prefix the names of its terms."""

    distiller: Distiller
    name: str = ""
    path: str = ""  # second prefix of all terms except the labels', if a method matches several paths
    weight: float = 1.0  # of its distillation terms

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        """The member's terms, with the names and weights used in the sum."""
        terms: Terms = {}
        for key, term in self.distiller.terms(student, paths, batch).items():
            if term.kind == "label":  # equal for all paths of a method, so it is counted once by its name
                terms[".".join(filter(None, (self.name, key)))] = term
            else:
                terms[".".join(filter(None, (self.name, self.path, key)))] = term.times(self.weight)
        return terms


class Combined(Distiller):
    """The members share student and teacher; each has its own terms and modules.

    Terms are summed unchanged, so cross-entropy counts once for each *method* that has it: set the weights in the
    yaml file. At most one member may add modules to the deployed network, and then none may use the student's own
    classifier. ValueError if they do.
    """

    def __init__(self, members: Sequence[Member]):
        distillers = [member.distiller for member in members]
        super().__init__(distillers[0].student, distillers[0].teacher)
        self.members = list(members)
        self.distillers = nn.ModuleList(distillers)
        self.needs_teacher_maps = any(d.needs_teacher_maps for d in distillers)
        self.needs_strong_view = any(d.needs_strong_view for d in distillers)
        self.uses_labelled = any(d.uses_labelled for d in distillers)
        self.needs_extra = any(d.needs_extra for d in distillers)
        self.min_batch = max(d.min_batch for d in distillers)
        self.has_parts = all(d.has_parts for d in distillers)
        self.takes_soft_labels = all(d.takes_soft_labels for d in distillers)
        adding = [d for d in distillers if type(d).deployed is not Method.deployed]
        if len(adding) > 1:
            names = list(dict.fromkeys(type(d).__name__ for d in adding))
            if len(names) == 1:
                raise ValueError(f"DISTILLER.PATHS: {names[0]} adds modules to the deployed network, and "
                                 "matches one path: select one, for example `DISTILLER.PATHS.teacher 1.0`")  # fmt: skip
            both = " and ".join(names)
            raise ValueError(f"{both} cannot be combined: each adds modules to the deployed network")
        self.deploying = distillers.index((adding or distillers)[0])
        # What a member runs itself, such as another view, goes through the network of all
        for d in distillers:
            d.leading = (distillers[self.deploying],)
        using = [type(d).__name__ for d in distillers if d.uses_classifier]
        if using and adding:
            raise ValueError(f"{using[0]} and {type(adding[0]).__name__} cannot be combined: one uses the student's own"
                             " classifier, the other deploys another one")  # fmt: skip

    @property
    def deployed(self) -> nn.Module:
        return self.members[self.deploying].distiller.deployed

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        terms: Terms = {}
        for member in self.members:
            terms.update(member.terms(student, paths, batch))
        return terms

    def hooked(self) -> Sequence[Hooked]:
        return (*(member.distiller for member in self.members), self.teacher)

    def parameter_groups(self) -> list[dict[str, Any]]:
        # What several members share, such as the student, is optimised once, in the first one's group
        seen: set[int] = set()
        groups = []
        for member in self.members:
            for group in member.distiller.parameter_groups():
                own = [p for p in group["params"] if p.requires_grad and id(p) not in seen]
                seen.update(map(id, own))
                groups.append({**group, "params": own})
        return groups

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        lines = [self.teacher.overhead(image_shape)]
        for member in self.members:
            if line := Method.overhead(member.distiller, image_shape):
                lines.append(f"{type(member.distiller).__name__}: {line}")
        return "\n".join(line for line in lines if line) or None
