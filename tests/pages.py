"""What a page of docs/ prints, for the tests that run it: its files, and a checkout in which to run its commands."""

import re
from pathlib import Path

from .test_house import ROOT


def files_of(page: str) -> dict[str, str]:
    """{name: text} of the files below mine/ that a page shows."""
    return dict(re.findall(r"^`(mine/[\w.]+)`\n\n```\w+\n(.*?)^```", page, flags=re.M | re.S))


def checkout(folder: Path, page: str, linked: tuple[str, ...] = ("configs", "tools")) -> Path:
    """Make `folder` a checkout with the files of a page in it."""
    for name in linked:
        (folder / name).symlink_to(ROOT / name)
    (folder / "mine").mkdir()
    for name, text in files_of(page).items():
        (folder / name).write_text(text)
    return folder
