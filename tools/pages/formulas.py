r"""LaTeX in a text as MathML, which browsers show by themselves: $...$ in a line, $$...$$ as a block.

Formulas in docstrings are to be read in the source, so words in them need no command: `w_{feat} KD_\tau(z^S, z^T)`. Two
or more capitals and three or more small letters in a row are set upright, and so is `sg`; `ijk` is a product.
"""

import re
from xml.etree import ElementTree

from latex2mathml.converter import convert

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
CODE = r"```.*?```|`[^`\n]*`"
MATH = re.compile(rf"{CODE}|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$\n]+?)\$", re.S)
UNDER = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
BAR = re.compile(r"(?<= )\\\|(?= )")  # of a divergence, unlike those of a norm


def is_word(letters: str) -> bool:
    """Whether letters in a row are a word or an abbreviation, and not variables."""
    return bool(re.fullmatch(r"[A-Z]{2,}|(?!ijk$)[a-z]{3,}|sg", letters))


def mathml(latex: str, display: str = "inline") -> str:
    """A formula as a <math> element; in a block, the limits of sums stand below and above."""
    words = re.sub(r"\\[A-Za-z]+|[A-Za-z]+", lambda m: rf"\text{{{m[0]}}}" if is_word(m[0]) else m[0], latex)
    converted = convert(BAR.sub(r"\\,\\|\\,", " ".join(words.split())), display=display)
    root = ElementTree.fromstring(converted)  # noqa: S314 (it was made here)
    ElementTree.register_namespace("", NAMESPACE)
    for element in root.iter() if display == "block" else ():
        tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        if tag in UNDER and (element[0].text or "") in ("∑", "max", "argmax"):
            element.tag = f"{{{NAMESPACE}}}{UNDER[tag]}"
    return ElementTree.tostring(root, encoding="unicode")


def block(latex: str) -> str:
    """A displayed formula, each part that \\quad separates on a line of its own."""
    parts = [part.strip().rstrip(",") for part in latex.split(r"\quad")]
    return '\n\n<div class="formula">\n' + "\n".join(mathml(part, "block") for part in parts) + "\n</div>\n\n"


def with_formulas(text: str) -> str:
    """A Markdown text with its formulas as MathML; code is left as it is."""

    def replaced(m: re.Match[str]) -> str:
        if m["block"]:
            return block(m["block"])
        return mathml(m["inline"]) if m["inline"] else m[0]

    return MATH.sub(replaced, text)
