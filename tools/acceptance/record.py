"""The record of an acceptance: a JSON file that is written after every piece of a part, by one process at a time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdistiller_dfpt.atomic import write_json
from mdistiller_dfpt.errors import ConfigError, in_short, reason
from mdistiller_dfpt.regular_files import read_json

from .plan import SHARES

FILE, FORMAT = "acceptance.json", 1
HELD, FAILED, SKIPPED, UNFINISHED, NOT_BEGUN = "held", "failed", "skipped", "out of time", "not begun"
RUNNING = "running"
LONGEST = 300  # characters of a reason


class Skipped(Exception):
    """A piece that cannot be run here, and why."""


class Unfinished(Exception):
    """A piece that a further call continues: why it ended, and its figures so far."""

    def __init__(self, why: str, figures: dict[str, Any]):
        super().__init__(why)
        self.figures = figures


def why(error: BaseException) -> str:
    """The reason of a failure, in one line."""
    return (reason(error).splitlines() or [type(error).__name__])[0][:LONGEST]


def last_error(text: str) -> str:
    """The last line of an output that says an error, else its last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error: " in line), lines[-1] if lines else "")[:LONGEST]


class Record:
    """The record in a folder. Its parts have pieces, each with a state, figures, seconds and the call that ran it."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.data: dict[str, Any] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again, which another process may have written; ConfigError if it is no such record."""
        if not self.path.exists():
            return
        try:
            self.data = read_json(self.path)
            is_one = self.data["format"] == FORMAT and self.data["calls"] is not None and self.data["parts"] is not None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ConfigError(
                f"{self.path}: not a record of an acceptance ({in_short(e)}): name another folder"
            ) from None
        if not is_one:
            raise ConfigError(f"{self.path}: a record of another version: name another folder")

    def begin_call(self, plan: str, minutes: float) -> None:
        """A further call of the command; ConfigError if the calls before it had another plan."""
        if not self.data:
            parts = {name: {"state": NOT_BEGUN, "reason": "", "seconds": 0.0, "pieces": {}} for name in SHARES}
            self.data = {"format": FORMAT, "plan": plan, "calls": [], "parts": parts}
        if self.data["plan"] != plan:
            raise ConfigError(
                f"{self.path}: a record of the plan {self.data['plan']!r}, and here it is {plan!r}: name another folder"
            )
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.data["calls"].append({"started": started, "minutes": minutes, "machine": {}})
        self.save()

    def save(self) -> None:
        """Write the file, so that it is on the disk."""
        write_json(self.path, self.data)

    @property
    def call(self) -> int:
        """The number of the current call."""
        return len(self.data["calls"]) - 1

    def part(self, name: str) -> dict[str, Any]:
        """State, reason, seconds and pieces of a part."""
        return self.data["parts"][name]

    def set_machine(self, machine: dict[str, Any]) -> None:
        """What the pieces of this call run on."""
        self.data["calls"][-1]["machine"] = machine
        self.save()

    def expect(self, part: str, pieces: list[str]) -> None:
        """The pieces of a part that are to run; what an earlier call recorded of others is no longer of it."""
        known = self.part(part)["pieces"]
        self.part(part)["pieces"] = {name: known.get(name, {"state": NOT_BEGUN}) for name in pieces}
        self.save()

    def is_settled(self, part: str, piece: str) -> bool:
        """Whether a piece has held, or was tried in this call."""
        one = self.part(part)["pieces"][piece]
        return one["state"] == HELD or (one["state"] not in (NOT_BEGUN, RUNNING) and one["call"] == self.call)

    def begin(self, part: str, piece: str) -> None:
        """A piece runs from now on; what an earlier call recorded of it is kept until it ends."""
        before = self.part(part)["pieces"].get(piece, {"state": NOT_BEGUN})
        self.part(part)["pieces"][piece] = {
            "state": RUNNING, "call": self.call, "since": time.time(), "before": before
        }  # fmt: skip
        self.save()

    def settle(self, part: str, piece: str, state: str, why: str = "", figures: dict[str, Any] | None = None) -> None:
        """The result of a piece that was begun, or is skipped."""
        since = self.part(part)["pieces"].get(piece, {}).get("since", time.time())
        one = {"state": state, "call": self.call, "seconds": round(time.time() - since, 2)}
        one |= ({"reason": why} if why else {}) | ({"figures": figures} if figures is not None else {})
        self.part(part)["pieces"][piece] = one
        self.save()

    def running(self, part: str) -> list[str]:
        """The pieces that are marked as running."""
        return [name for name, one in self.part(part)["pieces"].items() if one["state"] == RUNNING]

    def settled(self, part: str) -> int:
        """The number of pieces that have held, or were tried in this call."""
        return sum(self.is_settled(part, name) for name in self.part(part)["pieces"])

    def counts(self, part: str) -> dict[str, int]:
        """{state: number of pieces}."""
        states = [one["state"] for one in self.part(part)["pieces"].values()]
        return {state: states.count(state) for state in dict.fromkeys(states)}

    def run(self, part: str, pieces: dict[str, Callable[[], dict[str, Any]]]) -> None:
        """Run the pieces that are missing, up to the first that fails, whose exception is raised once it is recorded.

        A GPU that raised an error may be of no more use to its process.
        """
        self.expect(part, list(pieces))
        for name, work in pieces.items():
            if self.is_settled(part, name):
                continue
            print(f"{part}: {name}", flush=True)
            self.begin(part, name)
            try:
                self.settle(part, name, HELD, figures=work())
            except Skipped as e:
                self.settle(part, name, SKIPPED, str(e))
            except Unfinished as e:
                self.settle(part, name, UNFINISHED, str(e), e.figures)
            except Exception as e:
                self.settle(part, name, FAILED, why(e))
                raise
