"""Code conventions: import layers and cycles, method names, no loading that could run untrusted code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from mdistiller_dfpt.distillers import DISTILLERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mdistiller_dfpt"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    {"archives", "errors", "escape", "handlers", "invocation", "literals", "open_files", "registry", "regular_files",
     "user_modules"},
    {"distributed", "parent", "atomic", "checksum", "trusted_files", "json_form", "environment"},
    {"config"}, {"report"}, {"data", "models"},
    {"losses"}, {"teachers"}, {"distillers"}, {"training", "runs"}, {"launch", "interop", "bench", "testing"},
    {"export", "search"}, {"commands", "plugin", ""}, {"__main__"},
)  # fmt: skip
"""Import layers, bottom up; "" is the package's __init__. `report` imports no writer of the runs that it reads."""
ALLOWED = {part: set().union(*FLOORS[: i + 1]) for i, floor in enumerate(FLOORS) for part in floor}
READERS = {"report", "launch", "bench", "testing", "interop", "search", "commands", "plugin", "", "__main__"}
for _part in ALLOWED.keys() - READERS:
    ALLOWED[_part].discard("report")
MOST_LINES = 300

Sources = Mapping[str, str]
"""{module: source} of a package, a folder's __init__ under the folder's name."""


def sources_of(package: Path) -> dict[str, str]:
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports_of(module: str, sources: Sources) -> Iterator[tuple[str, bool]]:
    """(module of the package, whether inside a function) for each import, relative and absolute ones resolved."""
    package, is_folder = module.split(".")[0], any(name.startswith(module + ".") for name in sources)
    here = module.split(".") if is_folder else module.split(".")[:-1]
    tree = ast.parse(sources[module])
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            targets = [f"{origin}.{alias.name}" for alias in node.names]
        for target in targets:
            while target and target not in sources:  # a name defined in a module
                target = target.rpartition(".")[0]
            if target.split(".")[0] == package:
                yield target, id(node) in inside


def part_of(module: str) -> str:
    return [*module.split("."), ""][1]


def upward(sources: Sources, allowed: Mapping[str, set[str]]) -> list[str]:
    """Imports from a higher layer, and imports of the package inside a function."""
    faults = []
    for module in sources:
        for target, inside in imports_of(module, sources):
            if part_of(target) not in allowed[part_of(module)]:
                faults.append(f"{module} imports {target}, which is in a higher layer")
            if inside:
                faults.append(f"{module} imports {target} inside a function")
    return faults


def circles(sources: Sources) -> list[list[str]]:
    """Groups of modules that import one another (Tarjan's strongly connected components)."""
    graph = {module: {t for t, _ in imports_of(module, sources) if t != module} for module in sources}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in graph[module]:
            if target not in index:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == index[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in sources:
        if module not in index:
            visit(module)
    return found


IMPORTERS = ("import_module", "__import__", "resolve_name", "run_path", "run_module")
MAY_IMPORT_BY_NAME = {
    "mdistiller_dfpt.distillers", "mdistiller_dfpt.teachers", "mdistiller_dfpt.interop.plugins",
    "mdistiller_dfpt.interop.run_checkout", "mdistiller_dfpt.models.external.names",
    "mdistiller_dfpt.bench.checkout", "mdistiller_dfpt.commands.main",
}  # fmt: skip
"""Packages that import all files of their own folder, those that import what a user names, and the console script."""


def imports_by_name(sources: Sources) -> list[str]:
    """Modules that can import by a string, whatever they call the function, less those that may."""
    faults = []
    for module in sources.keys() - MAY_IMPORT_BY_NAME:
        for node in ast.walk(ast.parse(sources[module])):
            name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
            if name in IMPORTERS:
                faults.append(f"{module} uses {name}")
    return sorted(faults)


def test_nothing_is_imported_by_a_string():
    assert imports_by_name(sources_of(PACKAGE)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import importlib\nimportlib.import_module(NAME)", "from importlib import import_module as load",
        "import pkgutil\npkgutil.resolve_name('mdistiller_dfpt.training')", "__import__(NAME)",
    ],
)  # fmt: skip
def test_a_planted_import_by_a_string_is_found(line):
    sources = sources_of(PACKAGE)
    sources["mdistiller_dfpt.report.files"] += f"\n{line}\n"
    assert imports_by_name(sources)[0].startswith("mdistiller_dfpt.report.files uses ")


def test_imports_never_go_upward():
    assert upward(sources_of(PACKAGE), ALLOWED) == []


def test_there_is_no_import_cycle():
    assert circles(sources_of(PACKAGE)) == []


@pytest.mark.parametrize(
    ("module", "line", "fault"),
    [
        ("mdistiller_dfpt.registry", "from .training.trainer import Trainer", "in a higher layer"),
        ("mdistiller_dfpt.registry", "from mdistiller_dfpt.training import trainer", "in a higher layer"),
        ("mdistiller_dfpt.report.files", "import mdistiller_dfpt.training.trainer", "in a higher layer"),
        ("mdistiller_dfpt.data.batch", "from .. import Trainer", "in a higher layer"),
        ("mdistiller_dfpt.training.loop", "def f():\n    from ..runs.log import RunLogs", "inside a function"),
    ],
)
def test_a_planted_import_of_a_higher_layer_is_found(module, line, fault):
    sources = sources_of(PACKAGE)
    sources[module] += f"\n{line}\n"
    assert [f for f in upward(sources, ALLOWED) if f.startswith(module) and fault in f]


@pytest.mark.parametrize(
    "line", ["from .trainer import Trainer", "from mdistiller_dfpt.training.trainer import Trainer"]
)
def test_a_planted_import_cycle_is_found(line):
    sources = sources_of(PACKAGE)
    sources["mdistiller_dfpt.training.loop"] += f"\n{line}\n"
    assert any("mdistiller_dfpt.training.loop" in group for group in circles(sources))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_of_the_package_is_imported_by_a_string(path):
    """Packages with self-registering files import all their files; third-party code is imported by its own name."""
    for node in ast.walk(ast.parse(path.read_text())):
        name = getattr(node, "func", None)
        called = getattr(name, "attr", getattr(name, "id", ""))
        if isinstance(node, ast.Call) and called in ("import_module", "__import__"):
            text = ast.unparse(node.args[0])
            assert "mdistiller_dfpt" not in text
            assert "__name__" not in text or path.name == "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_no_two_files_share_a_name_but_for_the_same_thing_in_two_packages():
    """A dataset, architecture or command may have a file in each of two packages; all other file names are unique."""
    same_thing = {
        "__init__",
        "base",
        "build",
        "cub200",
        "resnet",
        "mobilenetv2",
        "shufflenetv2",
        "imagenet",
        "mdistiller",
        "tiny_imagenet",
        "evaluate",
        "table",
    }
    stems: dict[str, list[Path]] = {}
    for path in FILES:
        stems.setdefault(path.stem, []).append(path)
    twice = {stem: paths for stem, paths in stems.items() if len(paths) > 1 and stem not in same_thing}
    assert twice == {}


def test_no_methods_name_appears_outside_its_own_file():
    """NONE is the key's default, and `kd` is the common name of the loss; their classes are not mentioned."""
    for name, cls in DISTILLERS.items():
        home = Path(sys.modules[cls.__module__].__file__)
        for path in FILES:
            if path in (home, home.parent / "__init__.py"):
                continue
            code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
            if name == "NONE":
                code = code.replace('"DISTILLER.TYPE": Key("NONE"', "")
            code = code.replace('"TYPE: KD"', "")  # in a yaml that is written
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


READERS = {"load", "safe_open", "load_file", "loadmat", "ZipFile", "is_zipfile", "is_tarfile"}
"""Of libraries, which take a path or an open file; `load` of torch and NumPy alone."""


def opens(call: ast.Call) -> bool:
    """Whether a call opens a file for reading by its path."""
    name, of = getattr(call.func, "attr", getattr(call.func, "id", "")), ast.unparse(call.func).rpartition(".")[0]
    if name == "open":
        mode = " ".join(ast.unparse(word) for word in [*call.args[1:2], *(k.value for k in call.keywords)])
        return of in ("Image", "tarfile") or (of in ("", "os") and not set(mode.split(" ")[0]) & set("wxa"))
    if name in ("read_text", "read_bytes"):
        return bool(of)
    return name in READERS and (name != "load" or of in ("torch", "np"))


def opened_elsewhere(code: str) -> list[str]:
    """Calls that open a file, less those that are given an open file or a path that was checked."""
    calls = [ast.unparse(n) for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and opens(n)]
    return [text for text in calls if not re.search(r"\((file|f|fileobj=file|regular\(|io\.)", text)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_opened_in_one_module(path):
    # The bench reads its own files and the system's, cli.py opens the null device, atomic.py what it writes
    if path.name not in ("regular_files.py", "cli.py", "atomic.py") and path.parent.name != "bench":
        assert opened_elsewhere(path.read_text()) == [], "read them through regular_files"


@pytest.mark.parametrize(
    "line",
    ["open(path)", "open(path, 'rb')", "path.read_text()", "torch.load(path)", "Image.open(path)", "os.open(path, 0)"],
)
def test_a_planted_opening_is_found(line):
    assert opened_elsewhere(line) == [line]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_and_classes_are_documented_and_typed(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file has a module docstring"
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
