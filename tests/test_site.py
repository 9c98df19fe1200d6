"""The documentation site: its navigation has all pages, formulas and links are converted, a strict build is clean."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml", reason='the site needs `pip install -e ".[docs]"`')

from mdistiller_dfpt import testing
from tools.pages import api, formulas, links, methods, notebook, site
from tools.pages.options import with_whole_options

ROOT = site.ROOT


def test_every_page_is_in_the_navigation_and_there():
    assert site.faults(site.settings()["nav"]) == []


def test_a_page_that_is_left_out_of_the_navigation_or_misspelt_is_named():
    without = [item for item in site.settings()["nav"] if item != {"Start": "index.md"}]
    assert site.faults([*without, {"Start": "indx.md"}]) == [
        "index.md is not in the navigation of mkdocs.yml",
        "mkdocs.yml names indx.md, and there is no such page",
    ]


def test_every_method_and_kind_of_teacher_has_a_page_with_its_formula():
    subjects = methods.subjects()
    assert len({subject.page for subject in subjects}) == len(subjects) > 80
    for subject in subjects:
        shown = methods.formula(subject)
        assert "$" not in shown, subject.name
        assert "<math" in shown or "none of its own" in shown.casefold(), subject.name


def test_a_method_page_has_its_paper_commands_keys_recipe_comparison_and_results():
    by_name = {subject.name: subject for subject in methods.subjects()}
    page = methods.page(by_name["DKD"])
    for part in (
        "*Decoupled Knowledge Distillation*", "https://arxiv.org/abs/2203.08679", "--cfg cifar100/dkd/res32x4_res8x4",
        "digits/kd/res20_res8 DISTILLER.TYPE DKD EXPERIMENT.TAG dkd", "`DKD.BETA`", "configs/cifar100/dkd/base.yaml",
        "https://github.com/megvii-research/mdistiller/tree/a08d46f", "| 76.32 |", "51.55 ± 0.50",
    ):  # fmt: skip
        assert part in page
    assert "The paper is that of [DFPT-KD and DFPT-KD+](../methods/dfptkd.md)" in methods.page(by_name["dual_path"])
    assert "digits/" not in methods.commands(by_name["KD3"])  # it needs unlabelled images


def test_the_interface_has_all_that_the_package_and_the_test_kit_offer():
    shown = [name for names in api.GROUPS.values() for name in names] + list(api.BASES)
    assert sorted(shown) == sorted(api.exports())
    constants = {name for name in testing.__all__ if name.isupper()}
    assert {*api.TESTING, *constants} == set(testing.__all__)


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        ("w_{feat} KD_\\tau", ["<mtext>feat</mtext>", "<mtext>KD</mtext>", "<mi>τ</mi>"]),
        ("a_{ij} A_{ijk}", ["<mi>i</mi><mi>j</mi><mi>k</mi>"]),
        ("KL(t \\| s)", ['<mspace width="0.167em" /><mo fence="false" stretchy="false">‖</mo>']),
    ],
)
def test_words_are_upright_and_indices_are_not(latex, parts):
    assert all(part in formulas.mathml(latex) for part in parts)
    assert "<munder><mo>∑</mo>" in formulas.mathml("\\sum_c t_c", "block")


def test_dollars_in_code_are_no_formulas():
    text = "`$HOME` and $x$\n\n```sh\necho $A $B\n```\n"
    shown = formulas.with_formulas(text)
    assert shown.count("<math") == 1
    assert "`$HOME`" in shown
    assert "echo $A $B" in shown


def test_links_lead_to_pages_and_a_file_without_one_keeps_its_words():
    page = ROOT / "docs/extend.md"
    pages = {ROOT / "docs/keys.md": "keys.md", ROOT / "mdistiller_dfpt/teachers/peer.py": "teachers/peer.md"}
    text = (
        "[keys](keys.md#kd), [`peer.py`](../mdistiller_dfpt/teachers/peer.py), [data](../mdistiller_dfpt/data/batch.py)"
    )
    assert links.relinked(text, page, "extend.md", pages) == "[keys](keys.md#kd), [`peer.py`](teachers/peer.md), data"
    assert links.relinked("[keys](keys.md)", page, "api/index.md", pages) == "[keys](../keys.md)"
    assert links.relinked("[there](https://a.b/c.md)", page, "extend.md", pages) == "[there](https://a.b/c.md)"


def test_options_in_code_are_marked_to_be_kept_whole():
    page = (
        "<p>a <code>train --resume auto -o [--with-teacher] my-file KEY -1</code> --resume</p><code>a<b>--c</b></code>"
    )
    assert with_whole_options(page) == page.replace(
        "--resume auto -o [--with-teacher]",
        '<span class="option">--resume</span> auto <span class="option">-o</span> '
        '[<span class="option">--with-teacher</span>]',
    )


def test_the_notebook_becomes_a_page_with_what_it_printed_and_drew(tmp_path):
    text = notebook.page(ROOT / "docs/notebook.ipynb", tmp_path / "notebook_files")
    assert text.startswith("# A notebook")
    assert "```python\nalone = md.run(" in text
    assert re.search(r"DFPT-KD, 1 / 4 \+ 4 +last \d\d\.\d\d %", text)
    assert len(re.findall(r"!\[.*?\]\(notebook_files/cell\d+\.png\)", text)) == len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts():
    done = subprocess.run([sys.executable, "-m", "tools.pages"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    pages = list((ROOT / "build/site").rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\"\s>]*)", page.read_text())
        assert loaded == [], page
    assert '<code><span class="option">--resume</span></code>' in (ROOT / "build/site/train/index.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    stored = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    ran = nbformat.from_dict(stored)
    for cell in ran.cells:
        cell.pop("outputs", None) if cell.cell_type == "markdown" else cell.update(outputs=[])
    client.NotebookClient(ran, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (accuracies,) = [
        out.text for cell in ran.cells for out in cell.get("outputs", []) if "student alone " in out.get("text", "")
    ]
    last = [float(value) for value in re.findall(r"last (\d+\.\d+) %", accuracies)]
    assert len(last) == 3
    assert min(last) > 90
    assert (Path(tmp_path) / "trial/digits/dfptkd/res20_res8/seed1/student.safetensors").is_file()
