"""Runs a case: unbroken, then with its faults and resumes; what is lost or wrong, in words."""

import json
import re
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.runs.checkpoint import MANIFEST
from mdistiller_dfpt.runs.directory import is_finished
from mdistiller_dfpt.teachers import TEACHERS

from .cases import A_STUDENT, STOPS, STUDENT, TEACHER
from .contents import contents, differences, finished_below, leftovers, newest_checkpoints
from .processes import command, left_behind, temporary_of

CLASSES, PER_CLASS = 5, 9
COMMON = """
MODEL: {{FAMILY: cifar}}
SOLVER: {{BATCH_SIZE: 16, EPOCHS: 2, LR: 0.01, LR_DECAY_STAGES: [1]}}
LOG: {{TENSORBOARD: False}}
EXPERIMENT: {{NAME: {name}, THREADS: 1}}
DISTILLER: {{STUDENT: {student}}}
DATASET: {data}
"""
IN_FILES, IN_MEMORY = "{{TYPE: folder, ROOT: {root}, SIZE: 16}}", "{{TYPE: cifar100, ROOT: {root}}}"
UNLABELLED = ("DATASET.EXTRA.TYPE", "images", "DATASET.EXTRA.RESIZE", "True", "DATASET.EXTRA.ROOT")
REFUSED = (2, 4)  # a combination of keys, or one whose training diverges


@dataclass
class Report:
    """What happened in all cases."""

    count: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    resumes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self):
        def words(counts):
            return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"

        return f"{words(self.count)}; faults: {words(self.faults)}; resumes: {words(self.resumes)}"


class Lane:
    """The folder of all cases, with their data, configs and ready teachers."""

    def __init__(self, folder):
        self.folder, self.report = folder, Report()
        root = folder / "data"
        write_data_set("folder", root, classes=CLASSES, per_class=PER_CLASS, size=24)
        _write_memory_set(root / "cifar100")
        for data, words in {"files": IN_FILES, "memory": IN_MEMORY}.items():
            for name in (TEACHER, STUDENT):
                text = COMMON.format(name=f"{data}/{name}", student=name, data=words.format(root=root))
                self._config(data, name).write_text(text)

    def _config(self, data, name):
        return self.folder / f"{data}-{name}.yaml"

    def _weights(self, data, name):
        """A file of weights, trained when it is first needed."""
        path = self.folder / "output" / data / name / "seed1/student.safetensors"
        if not path.exists():
            done = command(["--cfg", self._config(data, name)], self.folder)
            assert done.code == 0, done.text
        return path

    def words(self, case):
        """The words of the command for a case."""
        data = "files" if case.in_files else "memory"
        types = case.value("DISTILLER.TYPE", case.method).strip("[]").split(", ")
        kinds = {case.value("DISTILLER.TEACHER_KIND"), *(getattr(DISTILLERS[n], "teacher_kind", "") for n in types)}
        alike = any(getattr(DISTILLERS[name], "starts_from_teacher", False) for name in types)
        words = ["--cfg", self._config(data, TEACHER if alike else STUDENT), "EXPERIMENT.NAME", "run",
                 "LOG.PREFIX", "out"]  # fmt: skip
        if any(DISTILLERS[name].needs_teacher for name in types):
            words += ["DISTILLER.TEACHER", TEACHER, "DISTILLER.TEACHER_AUTO_TRAIN", case.trains_teacher]
            key, of = ("CFG", self._config) if case.trains_teacher else ("CKPT", self._weights)
            words += [f"DISTILLER.TEACHER_{key}", of(data, TEACHER)]
            keys = {TEACHERS[kind].others_key for kind in kinds - {""}}
            if "OTHER_TEACHERS" in keys:
                words += ["DISTILLER.OTHER_TEACHERS", f"[{STUDENT}]"]
                words += [f"DISTILLER.OTHER_TEACHER_{key}S", f"['{of(data, STUDENT)}']"]
            if "ASSISTANTS" in keys:
                words += ["DISTILLER.ASSISTANTS", f"[{STUDENT}]"]
        if any(DISTILLERS[name].needs_extra for name in types):
            words += [*UNLABELLED, self.folder / "data/train"]
        return [*words, *(self._weights(data, STUDENT) if word == A_STUDENT else word for word in case.words)]

    def run(self, case):
        """Run a case and count what happened; what is wrong, in words."""
        place = self.folder / f"case-{case.seed}"
        whole, broken = place / "whole", place / "broken"
        self.report.count["cases"] += 1
        try:
            case, whole_did = self._unbroken(case, whole)
            broken.mkdir()
            wrong = self._broken(case, broken, whole_did) + _compared(whole / "out", broken / "out")
        except (TimeoutError, CheckpointError, AssertionError) as e:
            wrong = [str(e)]
        self.report.count["losses or faults"] += bool(wrong)
        self.report.wrong += wrong
        if not wrong:
            shutil.rmtree(place)
        return case, wrong

    def _unbroken(self, case, folder):
        """The case, with fewer parts where the command refuses their combination, and what its unbroken run did."""
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            done = command([*self.words(case), "DATASET.NUM_WORKERS", "0"], folder)
            if done.code == 0:
                return case, done.did
            fewer = case.without(done.text) if done.code in REFUSED else None
            assert fewer is not None, f"the unbroken run fails: {self.words(case)}\n{done.text}"
            self.report.count["refused combinations"] += 1
            case = fewer

    def _broken(self, case, folder, whole):
        out, wrong, pids = folder / "out", [], []
        for attempt in case.attempts:
            words, resume = self._start(case, attempt, out)
            nothing_begun = _unfinished(out) is None
            ended = command(words, folder, attempt.faults, whole)
            pids.append(ended.pid)
            self.report.count["runs"] += 1
            self.report.faults.update(ended.sent)
            self.report.resumes.update([resume] if resume != "none" else [])
            found = _wrong(ended, folder, refusable=resume == "plain" and nothing_begun)
            wrong += [f"{one}\n--- {' '.join(map(str, words))}; {attempt}\n{ended.text}" for one in found]
            if is_finished(out / "run/seed1") or any(is_finished(run) for run in out.glob("run/seed1-*")):
                break
            self._damage(attempt, out)
        else:
            wrong.append("the run does not finish")
        return wrong + [f"process {pid} left processes behind" for pid in pids if left_behind(pid)]

    def _start(self, case, attempt, out):
        """The words of an attempt, and how it is resumed: what has not begun has no name, and is refused at the end."""
        begun, resume = _unfinished(out), attempt.resume
        if begun is None and (resume == "RUN" or not attempt.faults):
            resume = "auto"
        words = [] if resume == "RUN" else self.words(case)
        words += {"none": [], "plain": ["--resume"], "auto": ["--resume", "auto"],
                  "RUN": ["--resume", begun and begun.relative_to(out.parent)]}[resume]  # fmt: skip
        words += ["DATASET.NUM_WORKERS", str(attempt.workers)] if case.in_files else []
        words += ["LOG.SAVE_EVERY", f"{attempt.save_every} steps"] if attempt.save_every else []
        return words, resume

    def _damage(self, attempt, out):
        """Damage a file of the newest checkpoint as a faulty disk might, if it is needed and another one is there."""
        saved = newest_checkpoints(out) if _unfinished(out) else []
        if not attempt.damage or len(saved) < 2 or not (path := saved[0] / attempt.file).is_file():
            return
        self.report.faults[f"checkpoint {attempt.damage}"] += 1
        raw = path.read_bytes()
        if attempt.damage == "lost":
            path.unlink()
        elif attempt.damage == "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        else:
            path.write_bytes(raw[:-100] + bytes([raw[-100] ^ 4]) + raw[-99:])


def _write_memory_set(root):
    generator = np.random.default_rng(1)
    for split in ("train", "test"):
        for label in range(CLASSES):
            (root / split / f"class{label}").mkdir(parents=True)
            for i in range(PER_CLASS):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"class{label}" / f"{i}.png")


def _unfinished(out):
    """The run that was saved last, if it is not finished."""
    saved = newest_checkpoints(out)
    return saved[0].parents[1] if saved and not is_finished(saved[0].parents[1]) else None


def _wrong(ended, folder, *, refusable):
    """What is wrong with the end of a command: exit code, output, status.json, files that are left."""
    code, text, found = ended.code, ended.text, []
    announced = next((name for name in STOPS if f"{name}: stopping after the next step" in text), None)
    stopped = re.search(r"stopped by (\w+) ", text)
    by = signal.Signals(abs(code) % 128).name if code < 0 or code > 128 else None
    if "Traceback" in text or "Exception ignored" in text:
        found.append("a traceback was printed")
    if by is not None and by not in ended.sent:
        found.append(f"exit code {code}, and {by} was not sent")
    if by == "SIGUSR1":
        found.append("SIGUSR1 ended the run")
    if code > 128 and not (stopped and stopped[1] == by == announced) and "interrupted; " not in text:
        found.append(f"exit code {code} without its reason")
    if by is None and code != 0 and not (code == 3 and refusable and "nothing to resume" in text):
        found.append(f"exit code {code}")
    if announced and another_run_began(*text.split(f"{announced}: stopping", 1)):
        found.append(f"another run began after {announced} was to stop this one")
    left = leftovers(folder / "out") if by != "SIGKILL" else []
    left += temporary_of(ended.pid, folder).iterdir() if code >= 0 else []
    if left:
        found.append(f"temporary files are left: {left}")
    return found + _wrong_status(ended, folder, stopped)


def another_run_began(before, after):
    """Whether there is more behind a signal than the directory of the run that had begun, by its line on speed."""
    had_begun = len(re.findall("^speed: ", before, re.M)) - len(re.findall("^run directory ", before, re.M))
    return len(re.findall("^run directory ", after, re.M)) > had_begun


def _wrong_status(ended, folder, stopped):
    runs = re.findall(r"^run directory (.+)$", ended.text, re.MULTILINE)
    if not runs or not (path := folder / runs[-1] / "status.json").exists():
        return []
    status = json.loads(path.read_text())
    if status["pid"] != ended.pid:  # it was killed before it wrote its own
        return [] if ended.code != 0 else ["status.json is another process's"]
    allowed = {"running", "stopped", "finished"}
    if ended.code == 0 or "was trained, which is to teach" in ended.text:
        allowed = {"finished"}
    elif stopped:
        allowed = {"stopped"}
    if status["state"] not in allowed:
        return [f"status.json has {status}"]
    if status["state"] == "stopped":
        saved = [json.loads((path / MANIFEST).read_text()) for path in newest_checkpoints(folder / runs[-1])[:1]]
        places = [(one["epoch"], one["step"]) for one in saved]
        if places != [(status["epoch"], status["step"])] or (stopped and stopped[1] not in status["reason"]):
            return [f"status.json has {status}, and the newest checkpoint (epoch, step) {places}"]
    return []


def _compared(whole, broken):
    """What differs between the finished runs below two folders."""
    expected, found = finished_below(whole), finished_below(broken)
    wrong = [f"finished runs: {sorted(found)} instead of {sorted(expected)}"] if found.keys() != expected.keys() else []
    for key in expected.keys() & found.keys():
        if len(found[key]) > 1:
            wrong.append(f"{key[0]} was trained {len(found[key])} times")
        if names := differences(contents(expected[key][0]), contents(found[key][-1])):
            wrong.append(f"{key[0]} differs from the unbroken run in {names}")
    return wrong
