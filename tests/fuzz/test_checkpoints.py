"""Checkpoints: with damage, a run ends as if there had been none; rewritten by another, it ends or is refused."""

import hashlib
import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdistiller_dfpt.errors import UserError
from mdistiller_dfpt.runs.checkpoint import MANIFEST, STATE
from mdistiller_dfpt.runs.hashing import file_hash
from mdistiller_dfpt.runs.weights import WEIGHTS

from ..tiny_runs import fit, outcome, run_of, stopped_after, unbroken
from .strategies import changed, damaged, slowly_fuzzed

EPOCHS = ("SOLVER.EPOCHS", "3")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that stopped after two of three epochs, and its newest checkpoint, relative to it."""
    folder = tmp_path_factory.mktemp("stopped")
    stopped_after(2, "KD", folder, "DISTILLER.TYPE", "KD")
    return folder, max(folder.rglob("checkpoints/epoch-*")).relative_to(folder)


def again(stopped, tmp_path):
    """(a copy of its folder, its newest checkpoint)."""
    folder, newest = stopped
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "runs")
    return tmp_path / "runs", tmp_path / "runs" / newest


@pytest.mark.parametrize("name", [MANIFEST, STATE, WEIGHTS])
@slowly_fuzzed
@given(st.data())
def test_a_damaged_file_costs_an_epoch_at_most(name, stopped, tmp_path, data):
    folder, newest = again(stopped, tmp_path)
    whole = (newest / name).read_bytes()
    content = data.draw(damaged(whole))
    (newest / name).write_bytes(content)
    assert outcome(run_of("KD", folder, *EPOCHS), resume=True) == unbroken("KD", *EPOCHS)
    assert content == whole or list(newest.parent.glob("damaged-*"))


def vouched(folder, manifest):
    """Write a manifest with the right hashes of itself and of the files."""
    if isinstance(manifest, dict):
        manifest.pop("sha256", None)
        text = json.dumps(manifest, sort_keys=True)
        manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def goes_on_or_is_refused(folder):
    try:
        fit(run_of("KD", folder, *EPOCHS), resume=True)
    except UserError as e:
        assert "\n" not in str(e)  # noqa: PT017


@slowly_fuzzed
@given(st.data())
def test_a_rewritten_manifest_is_used_or_refused(stopped, tmp_path, data):
    folder, newest = again(stopped, tmp_path)
    vouched(newest, data.draw(changed(json.loads((newest / MANIFEST).read_text()))))
    goes_on_or_is_refused(folder)


@slowly_fuzzed
@given(st.data())
def test_a_rewritten_state_is_used_or_refused(stopped, tmp_path, data):
    folder, newest = again(stopped, tmp_path)
    state = data.draw(changed(torch.load(newest / STATE, weights_only=True)))
    torch.save(state, newest / STATE)
    manifest = json.loads((newest / MANIFEST).read_text())
    manifest["files"][STATE] = {"sha256": file_hash(newest / STATE), "bytes": (newest / STATE).stat().st_size}
    vouched(newest, manifest)
    goes_on_or_is_refused(folder)
