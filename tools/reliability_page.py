"""Writes the counts of docs/reliability.md: python tools/reliability_page.py.

In a table with the column `cases`, a row names its tests in its last column; `cases` is how often pytest runs them,
once for each of their parameters. `test_x` (`a`, `b`) are those whose parameters have one of these words.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reliability.md"
NAMED = re.compile(r"`(test_\w+)`(?: \(((?:`\w+`(?:, )?)+)\))?")


def collected(names: set[str]) -> list[str]:
    """The ids of all tests in the files that define one of these names, as `file::test[parameters]`."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    files = [path for path, text in texts.items() if names & set(re.findall(r"^def (test_\w+)", text, re.M))]
    words = ["-m", "pytest", "--collect-only", "-m", "not gpu", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if "::" in line]


def cases(cell: str, ids: Sequence[str]) -> int:
    """How many of the collected tests a cell names; SystemExit if one of its names is that of none."""
    total = 0
    for name, words in NAMED.findall(cell):
        found = [one for one in ids if re.search(rf"::{name}(\[|$)", one)]
        if words:
            found = [
                one for one in found if set(re.findall(r"\w+", one.partition("[")[2])) & set(re.findall(r"\w+", words))
            ]
        if not found:
            raise SystemExit(f"{PAGE.relative_to(ROOT)} names {name} {words}: there is no such test")
        total += len(found)
    return total


def counted(text: str, ids: Sequence[str]) -> str:
    """The text with the counts of these tests in its tables."""
    lines, place = [], None
    for line in text.splitlines(keepends=True):
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) < 3:
            place = None
        elif place is None:
            place = next((n for n, cell in enumerate(cells) if cell.strip() == "cases"), 0)
        elif place and NAMED.search(cells[-2]):
            cells[place] = f" {cases(cells[-2], ids)} "
        lines.append("|".join(cells))
    return "".join(lines)


def page() -> str:
    """The page with the counts of today."""
    text = PAGE.read_text(encoding="utf-8")
    return counted(text, collected({name for name, _ in NAMED.findall(text)}))


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
