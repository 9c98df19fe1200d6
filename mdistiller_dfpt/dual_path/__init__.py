"""The dual-forward path teacher of DFPT-KD (arXiv:2506.18244): prompt blocks, and the teacher with two paths."""

from .prompt import PROMPT_BLOCKS, FusionBlock, PartialConv, PromptBlock
from .teacher import DualPathTeacher

__all__ = ["PROMPT_BLOCKS", "DualPathTeacher", "FusionBlock", "PartialConv", "PromptBlock"]
