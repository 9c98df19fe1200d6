"""Figures of matplotlib, which need not be installed."""

from typing import Any

from ..errors import ConfigError


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches; ConfigError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError('plots need matplotlib: pip install -e ".[plot]"') from None
    return Figure(figsize=(width, height), layout="constrained")
