"""A notebook as a Markdown page, with the outputs that are stored in it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from .formulas import with_formulas

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def page(notebook: Path, images: Path) -> str:
    """The page; its pictures are written to the folder `images`, which the page names relative to its parent."""
    parts = []
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(with_formulas(source))
        elif source:
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output, images, number) for output in cell["outputs"]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any], images: Path, number: int) -> str:
    """What a cell printed, returned or drew."""
    if output["output_type"] == "stream":
        return _block("".join(output["text"]))
    data = output.get("data", {})
    if "image/png" in data:
        images.mkdir(parents=True, exist_ok=True)
        file = images / f"cell{number}.png"
        file.write_bytes(base64.b64decode("".join(data["image/png"])))
        return f"![output of the cell above]({images.name}/{file.name})"
    if "text/plain" in data:
        return _block("".join(data["text/plain"]))
    raise SystemExit(f"cell {number} has an output of an unknown kind: {output['output_type']}")


def _block(text: str) -> str:
    return f"```text\n{ANSI.sub('', text).rstrip()}\n```" if text.strip() else ""
