"""The code of what a program or an installed package registers is part of what a run computes."""

import functools
import sys

import pytest
import torch
from torch import nn

from mdistiller_dfpt import DISTILLERS, MODELS, OPTIMIZERS, SCHEDULES, TEACHERS
from mdistiller_dfpt.data import DATASETS
from mdistiller_dfpt.interop.plugins import sources
from mdistiller_dfpt.losses import LOGIT_LOSSES
from mdistiller_dfpt.runs.users_code import hashes_of
from mdistiller_dfpt.teachers.prompt import PROMPT_BLOCKS
from mdistiller_dfpt.testing import tiny_cfg

from ..tiny_runs import run_of

TEXTS = {
    "method": ("DISTILLERS['MINE'] = type('Mine', (DISTILLERS['KD'],), {'extra': lambda self: FACTOR})",
               ("DISTILLER.TYPE", "MINE")),
    "teacher": ("TEACHERS['mine'] = type('Mine', (TEACHERS['frozen'],), {'extra': lambda self: FACTOR})",
                ("DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", "mine")),
    "network": ("MODELS['cifar/mine'] = lambda num_classes: FACTOR", ("DISTILLER.STUDENT", "mine")),
    "optimiser": ("OPTIMIZERS['MINE'] = lambda groups, plan: FACTOR", ("SOLVER.TYPE", "MINE")),
    "schedule": ("SCHEDULES['mine'] = lambda epoch, plan: FACTOR", ("SOLVER.SCHEDULE", "mine")),
    "dataset": ("DATASETS['mine'] = lambda cfg: FACTOR", ("DATASET.TYPE", "mine")),
}  # fmt: skip


@pytest.mark.parametrize("kind", TEXTS)
def test_what_a_program_registers_is_in_the_identity_of_a_run_with_its_imports(kind, tmp_path, monkeypatch, registries):
    monkeypatch.syspath_prepend(tmp_path)
    text, words = TEXTS[kind]
    program, helper = tmp_path / f"program_{kind}.py", tmp_path / "helper.py"
    helper.write_text("FACTOR = 1\n")
    program.write_text(
        "from helper import FACTOR\nfrom mdistiller_dfpt import DISTILLERS, MODELS, OPTIMIZERS, SCHEDULES, TEACHERS\n"
        f"from mdistiller_dfpt.data import DATASETS\n{text}\n"
    )
    assert sources(tiny_cfg()) == {}
    __import__(program.stem)
    cfg = tiny_cfg(*words)
    before = sources(cfg)
    assert set(before) == {program.name, "helper.py"}
    helper.write_text("FACTOR = 2\n")
    after = sources(cfg)
    assert before[program.name] == after[program.name]
    assert before["helper.py"] != after["helper.py"]
    del sys.modules["helper"]


def test_nothing_of_this_package_is_a_users_code():
    tables = (DISTILLERS, TEACHERS, MODELS, OPTIMIZERS, SCHEDULES, DATASETS, LOGIT_LOSSES, PROMPT_BLOCKS)
    assert {name: hashes_of([entry]) for table in tables for name, entry in table.items() if hashes_of([entry])} == {}


def test_what_is_typed_is_known_by_its_text():
    import linecache

    texts = []
    for number, factor in enumerate((1, 2)):
        text, name = f"def loss(x):\n    return {factor} * x\n", f"<cell {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        space: dict = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), space)
        texts.append(hashes_of([functools.partial(space["loss"], 1)]))
    assert [list(found) for found in texts] == [["loss"], ["loss"]]
    assert texts[0] != texts[1]


def test_the_network_of_a_program_is_its_code_and_one_of_a_library_is_not(tmp_path):
    class Mine(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert "test_users_code.py" in hashes_of([], beside=[Mine])
    assert hashes_of([], beside=[nn.Linear]) == {}
    assert "code" not in run_of("KD", tmp_path).identity
