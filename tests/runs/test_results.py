"""What results.json records besides the metrics: the commit of the code."""

import subprocess
from pathlib import Path

import pytest

from mdistiller_dfpt.runs.results import best_epoch, commit, summarise

ROOT = Path(__file__).parents[2]
INIT = "mdistiller_dfpt/__init__.py"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit of an unrelated file, and a function that runs `git` in it."""
    for key in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(key, raising=False)

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "theirs.py").write_text("pass\n")
    git("add", ".")
    git("commit", "-qm", "theirs")
    return tmp_path, git


def package_in(folder):
    (folder / INIT).parent.mkdir(parents=True)
    (folder / INIT).write_text("pass\n")
    return folder


def test_a_checkout_has_its_commit_and_says_where_files_differ(repository):
    folder, git = repository
    package_in(folder)
    git("add", ".")
    git("commit", "-qm", "ours")
    head = git("rev-parse", "--short=12", "HEAD")
    assert commit(folder) == head
    (folder / "theirs.py").write_text("changed\n")
    assert commit(folder) == head, "a file outside the package affects no run"
    (folder / INIT).write_text("changed\n")
    assert commit(folder) == f"{head}+"


@pytest.mark.parametrize(("place", "added"), [("venv/lib/site-packages", False), (".", False), ("vendor", True)])
def test_a_package_inside_somebody_elses_repository_has_no_commit(place, added, repository):
    folder, git = repository
    package = package_in(folder / place)
    if added:
        git("add", ".")
        git("commit", "-qm", "a copy of it")
    assert commit(package) == ""


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    assert commit() == commit(ROOT), "the commit is that of the package's own location"
    assert commit(package_in(tmp_path / "alone")) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(ROOT) == ""


def record(epoch, top1):
    return {"epoch": epoch, "test": {"student": {"top1": top1, "top5": 100 - top1}}}


def test_last_best_and_mean_are_each_of_its_own_metric():
    epochs = [record(1, 10.0), {"epoch": 2}, record(3, 40.0), record(4, 40.0), *(record(e, 20.0) for e in (5, 6, 7))]
    summary = summarise(epochs)
    assert summary["top1"] == {"last": 20.0, "best": 40.0, "best_epoch": 3, "mean_last_5": 28.0}
    assert (summary["top5"]["best"], summary["top5"]["best_epoch"]) == (90.0, 1)
    assert summarise(epochs[:5])["top1"]["mean_last_5"] is None, "of four evaluations"
    assert best_epoch(epochs)["epoch"] == 3, "the earliest if tied"
    assert best_epoch([{"epoch": 1}]) is None
