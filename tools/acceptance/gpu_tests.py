"""The tests marked `gpu`: a piece for each, recorded as it ends."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from .record import FAILED, HELD, LONGEST, SKIPPED, Record

ROOT = Path(__file__).parents[2]
PART, MARK = "tests", "pytest.mark.gpu"
ENDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class Recorder:
    """Records each test when it ends, and leaves out those that were recorded in this call before."""

    def __init__(self, record: Record, has_gpu: bool):
        self.record, self.has_gpu = record, has_gpu

    @pytest.hookimpl(trylast=True)  # behind `-m`
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        record = self.record
        record.expect(PART, [item.nodeid for item in items])
        items[:] = [item for item in items if not record.is_settled(PART, item.nodeid)]
        if not self.has_gpu:
            for item in items:
                record.settle(PART, item.nodeid, SKIPPED, "it needs a GPU")
            items.clear()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.record.begin(PART, nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        state = self.record.part(PART)["pieces"][report.nodeid]["state"]
        if report.failed and state != FAILED:
            self.record.settle(PART, report.nodeid, FAILED, _why(report.longrepr))
        elif report.skipped:
            self.record.settle(PART, report.nodeid, SKIPPED, _why(report.longrepr))
        elif report.passed and report.when == "call":
            self.record.settle(PART, report.nodeid, HELD)


def _why(longrepr: Any) -> str:
    """The reason of a failure, or of a skip, in one line."""
    crash = getattr(longrepr, "reprcrash", None)
    text = longrepr[2] if isinstance(longrepr, tuple) else str(crash.message if crash else longrepr)
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0 if crash or isinstance(longrepr, tuple) else -1].strip()[:LONGEST] if lines else ""


def run(record: Record, folder: Path, device: torch.device) -> None:
    """Run the tests marked `gpu` of this checkout; without a GPU, each is recorded as skipped."""
    os.chdir(ROOT)
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK in path.read_text("utf-8")]
    words = ["-m", "gpu", "-p", "no:cacheprovider", "--basetemp", str(folder / "pytest"), *files]
    code = pytest.main(words, plugins=[Recorder(record, device.type == "cuda")])
    if code not in ENDED:
        raise RuntimeError(f"pytest ended with {int(code)}")
