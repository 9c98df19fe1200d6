"""Averages of weights and of logged values in two processes: evaluated as saved, and resumed exactly."""

from torch import distributed as dist

from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.weights import load_weights
from mdistiller_dfpt.training import signals
from mdistiller_dfpt.training.evaluate import evaluate

from ..forks import in_processes
from ..tiny_runs import end_when, fit, run_of


def test_the_averaged_network_is_one_in_all_processes_and_the_one_that_is_saved(tmp_path):
    """Each process has running statistics of its own samples until they are shared."""

    def work(number):
        run = run_of("NONE", tmp_path, "SOLVER.EMA", "0.7")
        results = fit(run)
        student = run.distiller.student
        average = state_hash(run.training.average.values)
        dist.barrier()  # the first process writes
        student.load_state_dict(load_weights(run.run))
        student.eval()
        again = evaluate(lambda image: {"student": student(image)[0]}, run.data.test)["student"]
        return average, again == results["epochs"][-1]["test"]["student"]

    found = in_processes(work, tmp_path)
    assert found[0][0] == found[1][0]
    assert [same for _, same in found.values()] == [True, True]


def test_averages_within_an_epoch_are_those_of_an_unbroken_run(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "AGREE_EVERY", 1)

    def work(number):
        def run(folder, *words):
            return run_of("KD", tmp_path / folder, "LOG.SAVE_EVERY", "1 step", "SOLVER.EMA", "0.7", *words)

        whole = run("whole")
        fit(whole)
        cut = run("cut")
        end_when(lambda done: done.step == 2, cut)
        again = run("cut")
        fit(again, resume=True)
        dist.barrier()
        weights = [state_hash(load_weights(t.run)) for t in (whole, again)]
        return len(cut.epochs), [t.epochs[0]["train"] for t in (whole, again)], weights

    for finished, (whole, again), weights in in_processes(work, tmp_path).values():
        assert finished == 0, "within the first epoch"
        assert again == whole
        assert weights[0] == weights[1]
