"""Common to methods that match a weakly and a strongly augmented view of each image."""

from collections.abc import Mapping

import torch

from ..losses import Terms
from ..losses.sharded import over_processes
from .base import Batch, Distiller, Output, checked_output


class TwoViewDistiller(Distiller):
    """Runs both networks on both views; subclasses implement `both_views`."""

    changed_beside_modules = True  # the strong view went through the student alone
    needs_strong_view = True
    needs_teacher_maps = False

    def both_views(self, student: Output, views: Mapping[str, Output], batch: Batch) -> Terms:
        """The terms; `student` is of the weak view, `views`: teacher, student_strong, teacher_strong."""
        raise NotImplementedError

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        if batch.strong is None:
            raise ValueError(
                f"{type(self).__name__} needs batches with a strongly augmented view in addition to the weak one"
            )
        # `forward` has run both networks on the weak view; here they run on the strong one
        with torch.no_grad():
            strong_teacher = self.teacher(batch.replaced(image=batch.strong))[self.path].detach()
        views = {
            "teacher": checked_output(paths, self.path, type(self.teacher), student).detach(),
            "student_strong": self.forward_student(batch.strong), "teacher_strong": strong_teacher,
        }  # fmt: skip
        return over_processes(self.both_views, student, views, batch, couples_samples=self.couples_samples)
