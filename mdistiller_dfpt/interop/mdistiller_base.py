"""The base class of methods written for mdistiller, if mdistiller is not installed."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class MdistillerBase(nn.Module):
    """The interface of mdistiller's base class."""

    forward_train: Callable[..., tuple[Tensor, dict[str, Tensor]]]  # implemented by the method

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student, self.teacher = student, teacher

    def train(self, mode: bool = True) -> "MdistillerBase":
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """The optimised parameters."""
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        """The number of parameters that the method adds to the student's."""
        return 0

    def forward_test(self, image: Tensor) -> Tensor:
        """The logits (B, classes) that are evaluated."""
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])
