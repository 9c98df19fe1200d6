"""Reports from result files only: tables with mean and spread, curves."""

from .files import load_results
from .result import Result
from .table import markdown_table

__all__ = ["Result", "load_results", "markdown_table"]
