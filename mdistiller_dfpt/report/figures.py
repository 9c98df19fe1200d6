"""Figures of matplotlib, which is an extra."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import write_file
from ..errors import ConfigError
from ..escape import one_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches; ConfigError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError('plots need matplotlib: pip install "mdistiller_dfpt[plot]"') from None
    return Figure(figsize=(width, height), layout="constrained")


def label(text: str) -> str:
    """Text of others as it is: matplotlib reads formulas between dollars, and leaves names with `_` before out."""
    text = one_name(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def whole_numbers(axis: Any) -> None:
    """Mark whole numbers alone on an axis, such as epochs."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def write_figure(figure: "Figure", target: Path, **keywords: Any) -> None:
    """Write a figure to a file of the kind that its ending says; `keywords`: of matplotlib's `savefig`."""
    kind = target.suffix.removeprefix(".").lower()
    if kind not in (kinds := figure.canvas.get_supported_filetypes()):
        raise ConfigError(f"{target}: no kind of picture; end it in .{', .'.join(sorted(kinds))}")
    write_file(target, lambda part: figure.savefig(part, format=kind, **keywords))


def as_svg(figure: Any) -> str:
    """A figure as an <svg> element for a page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
