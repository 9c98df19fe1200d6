"""Images that fail between two steps, or in an evaluation, lose nothing of a run: of one process, and of several."""

import os
import signal

import pytest

from mdistiller_dfpt.distributed import rank
from mdistiller_dfpt.errors import DataError, UserError
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.failures import Failed, known_to_all
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes
from ..tiny_runs import final_state, fit

GONE = "a.png: cannot be read as an image"
STEPS, TESTS = 6, 3  # of an epoch, and batches of its evaluation
AFTER = 2  # batches of its second epoch


def fail_after(loader, epoch, count, send):
    """From now on, the given pass over a loader ends by an error after so many batches."""
    plain, passes = loader.epoch, []

    def failing(*args, **options):
        passes.append(1)
        for number, batch in enumerate(plain(*args, **options)):
            if len(passes) == epoch and number == count:
                if send:
                    os.kill(os.getpid(), signal.SIGTERM)
                raise DataError(GONE) from MemoryError()
            yield batch

    loader.epoch = failing


def run(folder, resume=False, part=None, faulty=0, send=False, measures=False):
    """What a run of two epochs comes to, or its error, the places of its checkpoints, and what was behind the error."""
    words = ("LOG.PREFIX", str(folder), "EXPERIMENT.NAME", "tiny", "SOLVER.EPOCHS", "2", "DISTILLER.TYPE", "KD")
    cfg = tiny_cfg(*words, "SOLVER.LR", "0.02", "SOLVER.REMEASURE_BN", "each" if measures else "never")
    trainer = Trainer(cfg, tiny_distiller("KD"), tiny_data(train=96, test=33, batch=16))
    if rank() == faulty:
        if part == "training":
            fail_after(trainer.data.train, 2, AFTER, send)
        elif part == "evaluation":
            # The teacher is evaluated before the first epoch
            fail_after(trainer.data.test, 3, 1, send)
        elif part == "statistics":
            plain, calls = trainer.training.measure_again, []

            def measure():
                calls.append(1)
                if len(calls) == 2:
                    as_test = trainer.data.train.as_test

                    def failing(index):
                        fail_after(loader := as_test(index), 1, 1, send)
                        return loader

                    trainer.data.train.as_test = failing
                plain()

            trainer.training.measure_again = measure
    try:
        fit(trainer, resume)
    except UserError as e:
        saved = sorted(path.name for path in folder.rglob("checkpoints/*"))
        return [type(e).__name__, str(e), saved[-1:], type(e.__cause__ or e.__context__).__name__]
    return [final_state(trainer), [[e["train"], e["test"]] for e in trainer.epochs]]


PLACES = {
    "training": (AFTER, f"in epoch 2, after step {AFTER}"),
    "evaluation": (STEPS, "in epoch 2, while it was evaluated"),
    "statistics": (STEPS, f"in epoch 2, after step {STEPS}"),
}


@pytest.mark.parametrize("part", PLACES)
@pytest.mark.parametrize("send", [False, True], ids=["alone", "with SIGTERM"])
@pytest.mark.parametrize(("world", "faulty"), [(1, 0), (2, 0), (2, 1)])
def test_images_that_fail_lose_nothing_also_beside_a_signal(world, faulty, send, part, tmp_path):
    step, where = PLACES[part]
    ended = in_processes(
        lambda number: run(tmp_path / "out", False, part, faulty, send, part == "statistics"), tmp_path, world
    )
    place = f"epoch-00001-step-{step:07d}"
    for number, (kind, message, saved, behind) in ended.items():
        if number == 0:
            assert saved == [place]
        if send:
            assert (kind, message) == ("Stopped", f"stopped by SIGTERM {where}; continue with --resume")
        elif number == faulty:
            assert (kind, message, behind) == ("DataError", GONE, "MemoryError")
        else:
            assert (kind, message) == ("PeerError", f"rank {faulty} has failed ({GONE}); continue with --resume auto")
    found = []
    for place, resume in (("out", True), ("whole", False)):
        (group := tmp_path / f"group of {place}").mkdir()
        words = {"resume": resume, "measures": part == "statistics"}
        found.append(in_processes(lambda number, p=place, w=words: run(tmp_path / p, **w), group, world))
    assert found[0] == found[1]


def test_a_checkpoint_that_cannot_be_written_behind_failing_images_hides_no_error(tmp_path, monkeypatch):
    def full(self, done):
        if done.step:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdistiller_dfpt.runs.saving.Saver.save", full)
    assert run(tmp_path, part="training")[:2] == ["DataError", GONE]


def test_images_that_fail_before_the_first_step_leave_no_checkpoint(tmp_path):
    trainer = Trainer(tiny_cfg("LOG.PREFIX", str(tmp_path), "DISTILLER.TYPE", "KD"), tiny_distiller("KD"), tiny_data())
    fail_after(trainer.data.train, 1, 0, send=False)
    with pytest.raises(DataError, match=GONE):
        fit(trainer)
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_several_processes_draw_one_batch_ahead_and_end_together(tmp_path):
    def work(number):
        seen = []

        def batches():
            for batch in range(3):
                seen.append(f"draws {batch}")
                yield batch
            if number == 1:
                raise ValueError("no more")

        try:
            for batch in known_to_all(batches()):
                seen.append(f"steps {batch}")
        except Failed as e:
            seen.append(str(e.error))
        return seen

    first, second = (found for _, found in sorted(in_processes(work, tmp_path).items()))
    together = ["draws 0", "draws 1", "steps 0", "draws 2", "steps 1", "steps 2"]
    assert first == [*together, "rank 1 has failed (ValueError: no more); continue with --resume auto"]
    assert second == [*together, "no more"]
