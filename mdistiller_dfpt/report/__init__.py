"""Reports from result files only: tables with mean and spread, curves."""

from .files import Result, load_results
from .table import markdown_table

__all__ = ["Result", "load_results", "markdown_table"]
