"""Text of others obeys no terminal, no Markdown, no LaTeX and no spreadsheet."""

import io

import pytest
from tqdm import tqdm

from mdistiller_dfpt.escape import Printable, csv_cell, latex_text, markdown_cell, markdown_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ± ü\r\n\ttext\n", "plain ± ü\r\n\ttext\n"),
        ("\rtop-1 99 %\rother\r", r"\rtop-1 99 %\rother\r"),
        ("\x1b[2Jred\x07", r"\x1b[2Jred\x07"),
        ("name\udcff", r"name\udcff"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
    ],
)
def test_a_terminal_gets_no_control_characters(text, shown):
    out = io.StringIO()
    print(text, file=Printable(out), end="")
    assert out.getvalue() == shown


def test_of_carriage_returns_those_of_progress_bars_are_left():
    out = io.StringIO()
    for _ in tqdm(range(1), "a\rb", file=Printable(out, is_needed=False)):
        pass
    *bars, last = out.getvalue().split("\r")[1:]
    assert [bar.startswith(r"a\rb") for bar in bars] == [True] * len(bars)
    assert len(bars) > 0
    assert last.endswith("\n")


def test_what_an_encoding_lacks_is_an_escape_and_no_error():
    raw = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    print("53.07 ± 0.1", file=Printable(raw))
    assert raw.buffer.getvalue() == b"53.07 \\xb1 0.1\n"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("resnet20 -> resnet8, 1 / 4 + 4 [1]", "resnet20 -> resnet8, 1 / 4 + 4 [1]"),
        ("a | b", r"a \| b"),
        ("<script>\n# head", r"\<script> # head"),
        ("![x](http://y)", r"\![x](http://y)"),
        ("[x](javascript:y)", r"\[x](javascript:y)"),
    ],
)
def test_a_cell_of_markdown_stays_one(text, cell):
    assert markdown_cell(text) == cell


def test_a_line_of_markdown_keeps_code_and_bars_alone():
    text = "a | `b` [1] <img> ![x](y)\n| c |"
    assert markdown_line(text) == r"a | `b` [1] \<img> \![x](y) | c |"


def test_latex_has_no_commands_of_others():
    assert latex_text("\\input{x}\n% 50_a $b") == r"\textbackslash{}input\{x\} \% 50\_a \$b"
    assert latex_text("A -> B, 1 ± 2") == r"A $\to$ B, 1 $\pm$ 2"


def test_a_spreadsheet_gets_no_formulas_and_keeps_numbers():
    values = ["=cmd()", "+1", "@x", "-2.50", " =1", "kd", -2.5, None]
    assert [csv_cell(v) for v in values] == ["'=cmd()", "'+1", "'@x", "'-2.50", "' =1", "kd", -2.5, None]
