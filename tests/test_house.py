"""The house rules that a machine can check: floors, method names, nothing that runs strangers' code."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mdistiller_dfpt.distillers import DISTILLERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mdistiller_dfpt"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = {
    "errors": 0, "distributed": 0, "registry": 0, "yaml_reader": 0, "plugins": 0, "config": 0, "config_keys": 0,
    "data": 1, "models": 2, "dual_path": 3, "distillers": 4, "engine": 5, "report": 5, "bench": 6, "cli": 6,
    "plugin": 6, "__init__": 6,
}  # fmt: skip


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a file imports, relative imports resolved."""
    parts = set()
    package = list(path.relative_to(PACKAGE.parent).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [(node.module or "").split(".")] if node.module else [[a.name] for a in node.names]
            for name in names:
                target = [*base, *name]
                if len(target) > 1:
                    parts.add(target[1])
    return parts


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_never_go_upward(path):
    own = FLOORS[part_of(path)]
    above = {p for p in imported_parts(path) if FLOORS.get(p, own) > own}
    assert above == set()


def test_no_methods_name_appears_outside_its_own_file():
    """NONE is the key's default, and `kd` is the field's word for the loss; the class of each is not mentioned."""
    for name, cls in DISTILLERS.items():
        home = Path(sys.modules[cls.__module__].__file__)
        for path in FILES:
            if path in (home, home.parent / "__init__.py"):
                continue
            code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
            if name == "NONE":
                code = code.replace('"TYPE": "NONE"', "")
            # Names of logit losses, and of mdistiller's modules
            code = re.sub(r'"LOGIT_LOSS": "\w+"|LOGIT_LOSSES.register\("\w+"\)|"\.distillers\.\w+"', "", code)
            assert not re.search(rf'"{name}"|\b{cls.__name__}\b', code), f"{path} knows {name}"


FORBIDDEN = (
    r"weights_only=False|yaml\.load\(|pickle\.loads?\(|\beval\(|\bexec\(|os\.system|shell=True"
    r"|extractall\((?![^)]*filter=\"data\")"
)


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "tools").glob("*.py"))], ids=lambda p: p.name)
def test_nothing_here_runs_what_a_file_says(path):
    code = re.sub(r'""".*?"""', "", path.read_text(), flags=re.S)
    code = code.replace("self.eval()", "").replace(".eval()", "")
    assert not re.search(FORBIDDEN, code)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_and_classes_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says in a line what it is"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert all(a.annotation for a in arguments), f"{node.name} has an argument without a type"
            assert node.returns or node.name.startswith("_"), f"{node.name} has no return type"


def test_importing_prints_nothing_and_changes_no_setting():
    code = (
        "import torch; a = (torch.get_num_threads(), torch.initial_seed() * 0, torch.backends.cudnn.benchmark, "
        "torch.get_default_dtype()); import mdistiller_dfpt as m; m.build_model('resnet8'); "
        "assert a == (torch.get_num_threads(), 0, torch.backends.cudnn.benchmark, torch.get_default_dtype()); "
        "assert all(hasattr(m, n) for n in m.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_linter_is_clean():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([*ruff, *command], capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_that_the_documentation_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text()))
    known = {
        name for path in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 20
    assert named <= known
