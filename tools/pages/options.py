"""Options in the text of a page are kept whole: a browser breaks a line after each hyphen of `--resume`."""

import re
from pathlib import Path

CODE = re.compile(r"(?<=<code>)[^<]*(?=</code>)")
OPTION = re.compile(r"(?<![^\s\[|])--?[A-Za-z][\w-]*")


def with_whole_options(page: str) -> str:
    """The HTML of a page in which each option in code is an element that site.css does not break."""
    return CODE.sub(lambda code: OPTION.sub(r'<span class="option">\g<0></span>', code[0]), page)


def keep_whole(site: Path) -> None:
    """Do so in all pages of a site that is built."""
    for page in site.rglob("*.html"):
        page.write_text(with_whole_options(page.read_text(encoding="utf-8")), encoding="utf-8")
