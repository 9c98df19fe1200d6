"""Text of others (names of files and classes, titles, messages) in a terminal, Markdown, LaTeX and CSV."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from .errors import OutputError

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)")
"""All but line ends and tabs: a carriage return alone hides what precedes it. Also what turns the direction of writing,
and bytes that are not UTF-8."""

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "->": r"$\to$",
}  # fmt: skip
_LATEX_SIGNS = re.compile("|".join(map(re.escape, sorted(_LATEX, key=len, reverse=True))))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def printable(text: str) -> str:
    """The text with its control characters as escapes: a terminal obeys some, and a log hides others."""
    return CONTROLS.sub(_escaped, text)


def one_line(text: str) -> str:
    """`printable`, and line ends as spaces."""
    return printable(" ".join(text.splitlines()))


def one_name(text: str) -> str:
    """`printable`, and line ends and tabs as escapes too: other names stay other names."""
    return re.sub(r"\s", lambda found: found[0] if found[0] == " " else _escaped(found), printable(text))


def markdown_cell(text: str) -> str:
    """Text of one line in a table: no end of a cell, no HTML, no link or picture."""
    return re.sub(r"([|<\\`]|!?\[(?=[^]]*\]\())", r"\\\1", one_line(text))


def markdown_line(text: str) -> str:
    """A line of text outside a table: no end of the line, no HTML, no link or picture; code and bars stay."""
    return re.sub(r"(<|!?\[(?=[^]]*\]\())", r"\\\1", one_line(text))


def markdown_row(cells: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(markdown_cell, cells))} |"


def latex_text(text: str) -> str:
    """Text of one line without commands."""
    return _LATEX_SIGNS.sub(lambda found: _LATEX[found[0]], one_line(text))


def csv_cell(value: Any) -> Any:
    """A value of which a spreadsheet makes no formula; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


class Printable:
    """A text stream in which all is `printable`, and what its encoding lacks is an escape.

    `is_needed`: OutputError if it cannot be written, as on a full disk; else that is ignored, and it has progress bars,
    of which each begins with a carriage return.
    """

    def __init__(self, stream: TextIO, *, is_needed: bool = True):
        self.stream, self.is_needed = stream, is_needed

    def write(self, text: str) -> int:
        """As of a text stream."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        start = "\r" * (text[:1] == "\r" and not self.is_needed)
        shown = start + printable(text[len(start) :])
        with self._explained():
            self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """As of a text stream."""
        with self._explained():
            self.stream.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if self.is_needed:
                raise OutputError(e) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
