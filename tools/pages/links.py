"""Links of files in the repository as links between pages of the site."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(
    r"(?P<code>```.*?```)|(?<!!)\[(?P<text>(?:`[^`\n]*`|[^]`])*+)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)", re.S
)


def relinked(text: str, source: Path, page: str, pages: Mapping[Path, str]) -> str:
    """A Markdown text in which links to files lead to their pages; where a file has none, only the words are left.

    `source`: the file of the text. `page`: its place on the site. `pages`: {file: its page}.
    """

    def replaced(m: re.Match[str]) -> str:
        if m["code"] or re.match(r"\w+:", m["target"]):
            return m[0]
        file = Path(os.path.normpath(source.parent / m["target"]))
        if file not in pages:
            return m["text"]
        target = os.path.relpath(pages[file], Path(page).parent)
        return f"[{m['text']}]({Path(target).as_posix()}{m['anchor'] or ''})"

    return LINK.sub(replaced, text)
