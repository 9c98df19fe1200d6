"""The console script finds every command; an installed wheel needs no checkout."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from mdistiller_dfpt.commands.main import COMMANDS, command, main
from mdistiller_dfpt.invocation import command_line

from ..test_house import ROOT


def test_without_a_command_it_prints_what_there_is(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        said = (sys.modules[command(name).__module__].__doc__ or "").partition(":")[0]
        assert line.split(maxsplit=1)[1] == said[:1].lower() + said[1:], "in the words of its own help"


def test_help_and_version_need_no_torch():
    code = "import sys; from mdistiller_dfpt.commands.main import main; main([]); main(['--version']); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True, capture_output=True)


IMPORTED = """
import os, runpy, sys
start, module, number = sys.argv[1:]
class Interrupted:
    def find_spec(self, name, *_):
        if name == module:
            try:
                os.kill(os.getpid(), int(number))
                sum(range(10))
            except KeyboardInterrupt:
                raise RecursionError("what NumPy makes of it") from None
sys.meta_path.insert(0, Interrupted())
sys.path.insert(0, os.path.dirname(start))
sys.argv[1:] = ["train"]
(runpy.run_path if start.endswith(".py") else runpy.run_module)(start, run_name="__main__")
"""


@pytest.mark.parametrize("start", ["mdistiller_dfpt", str(ROOT / "tools/train.py")])
@pytest.mark.parametrize("module", ["mdistiller_dfpt.commands.main", "torch"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_while_a_command_is_imported_is_one_line_whatever_that_would_make_of_it(number, module, start):
    words = [sys.executable, "-c", IMPORTED, start, module, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", "interrupted\n")


@pytest.mark.parametrize("mib", [300, 1000])
def test_too_little_memory_to_import_a_command_is_one_line(mib):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (mib << 20, mib << 20))

    words = [sys.executable, "-m", "mdistiller_dfpt", "doctor"]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        "error: out of memory (.*failed to map segment.*): end other processes, or raise .*\n", done.stderr
    )


def test_a_folder_that_a_library_is_given_and_cannot_use_is_one_line():
    words = [sys.executable, "-m", "mdistiller_dfpt", "list", "networks"]
    given = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": "/proc/none"}
    done = subprocess.run(words, capture_output=True, text=True, env=given)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: /proc/none: No such file or directory\n"


def test_the_console_script_starts_as_the_module_does():
    assert "mdistiller-dfpt = mdistiller_dfpt.__main__:main" in (ROOT / "setup.py").read_text()


def test_the_version_names_the_package_and_torch(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mdistiller-dfpt 0.1.0, torch ")


def test_an_unknown_command_is_answered_with_the_closest(capsys):
    assert main(["evla"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'evla'; did you mean eval?\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_that_names_it(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mdistiller-dfpt {name} ")
    assert "tools/" not in text


@pytest.mark.parametrize(
    ("started", "expected"),
    [
        ("tools/train.py", "python tools/check_data.py"),
        ("/checkout/tools/check_data.py", "python tools/check_data.py"),
        ("/lib/mdistiller_dfpt/__main__.py", "python -m mdistiller_dfpt check-data"),
        ("/bin/mdistiller-dfpt", "mdistiller-dfpt check-data"),
        ("notebook.py", "mdistiller-dfpt check-data"),
        ("", "mdistiller-dfpt check-data"),
    ],
)
def test_messages_name_commands_as_this_process_was_started(started, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert command_line("check-data") == expected


def test_there_is_a_tool_for_every_command():
    for name in COMMANDS:
        text = (ROOT / "tools" / f"{name.replace('-', '_')}.py").read_text()
        assert f'run("{name}")' in text


def test_a_tool_runs_in_another_folder_and_without_the_package_says_what_to_install(tmp_path):
    tool = str(ROOT / "tools/list.py")
    done = subprocess.run([sys.executable, tool, "methods", "dfptkd"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("DFPTKD "), done.stderr
    bare = subprocess.run([sys.executable, "-S", tool], cwd=tmp_path, capture_output=True, text=True)
    assert bare.returncode == 2
    assert bare.stderr.startswith("error: ")
    assert f"is not installed: run `pip install -e .` in {ROOT}" in bare.stderr


def test_a_command_without_settings_does_not_speak_of_them(capsys):
    assert main(["init", "photos", "a", "b"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: b; see mdistiller-dfpt init --help\n"


@pytest.mark.slow
def test_a_wheel_trains_in_an_empty_folder(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"  # a build leaves files beside setup.py
    for name in ("configs", "mdistiller_dfpt"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(source)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

    def run(*words):
        command = [str(tmp_path / "site/bin/mdistiller-dfpt"), *words]
        return subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)

    assert "digits/dfptkd/res20_res8" in run("list", "configs", "digits/").stdout
    done = run("train", "--cfg", "digits/vanilla/res20", "SOLVER.EPOCHS", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty/output/digits/vanilla/res20/seed1/results.json").is_file()
    missing = run("train", "--cfg", "cifar100/kd/res56_res20", "DATASET.ROOT", "data")
    assert missing.returncode == 3
    assert str(ROOT) not in missing.stderr + run("doctor").stdout
