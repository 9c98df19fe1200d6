"""Stand-ins for runs of a search: they write what runs write, in no time, with accuracies given by their configs."""

import json
from pathlib import Path

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config.effect import deciding_values
from mdistiller_dfpt.distillers.choice import situation
from mdistiller_dfpt.runs.directory import run_name


class Runs:
    """Stands for processes that train: writes what a run of the job writes, with accuracies given by its config."""

    def __init__(self, top1, codes=None, test=None, pid=4242, data="d"):
        self.top1, self.codes, self.test, self.pid, self.data = top1, codes or {}, test, pid, data
        self.jobs = []
        self.ahead = False  # whether a run has ended before it is first looked at
        self.killed_after = None  # the number of the job after which the search is killed

    def __call__(self, job, watch):
        cfg = load_cfg(job.words[1], job.words[4:])
        assert (job.words[0], *job.words[2:4]) == ("--cfg", "--resume", "auto")
        self.jobs.append((job.label, cfg))
        code = self.codes.get(len(self.jobs) - 1)
        if isinstance(code, BaseException):
            raise code
        if code:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.write_text(f"error: an earlier one\nerror: what ended with {code}\n")
            return code
        run = Path(cfg.LOG.PREFIX) / run_name(cfg)
        run.mkdir(parents=True, exist_ok=True)
        (run / "status.json").write_text(json.dumps({"pid": self.pid, "state": "running", "epoch": 0}))
        epochs = []
        for epoch in range(1, cfg.SOLVER.EPOCHS + 1):
            top1 = self.top1(cfg) * epoch / cfg.SOLVER.EPOCHS
            epochs.append({"epoch": epoch, "train": {}, "validation": {"student": {"top1": top1}}})
            folder = run / f"checkpoints/epoch-{epoch:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.json").write_text(json.dumps({"epochs": epochs}))
            if not self.ahead and watch(self.pid):
                return 143
        test = self.test(cfg) if self.test else 0.0
        final = {"top1": {"last": test}, "validation": {"top1": {"last": epochs[-1]["validation"]["student"]["top1"]}}}
        identity = {
            "config": deciding_values(situation(cfg, in_files=False)),
            "data": {"sha256": self.data},
            "teachers": [],
        }
        record = {"protocol": {"seed": cfg.SOLVER.SEED}, "final": final, "epochs": epochs, "identity": identity}
        (run / "results.json").write_text(json.dumps(record))
        if self.killed_after == len(self.jobs) - 1:
            raise SystemExit(9)
        return 0
