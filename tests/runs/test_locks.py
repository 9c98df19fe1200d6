"""Two processes that need the same run do not train it twice."""

import threading

from mdistiller_dfpt.runs.locks import LOCK, RunLock, one_at_a_time, wait_until_free


def entered(context, order, name):
    def enter():
        with context:
            order.append(name)

    thread = threading.Thread(target=enter)
    thread.start()
    return thread


def test_the_second_waits_until_the_first_has_left(tmp_path, capsys):
    base, order = tmp_path / "runs/a/seed1", []
    with one_at_a_time(base):
        second = entered(one_at_a_time(base), order, "second")
        entered(one_at_a_time(base.with_name("seed2")), order, "another").join(10)
        second.join(0.3)
        order.append("first")
    second.join(10)
    assert order == ["another", "first", "second"]
    assert capsys.readouterr().out == f"another process trains {base}: waiting until it ends\n"


def test_a_run_in_training_is_waited_for(tmp_path):
    wait_until_free(tmp_path)  # nobody has ever trained here
    assert not (tmp_path / "gone" / LOCK).exists()
    wait_until_free(tmp_path / "gone")
    lock, done = RunLock(tmp_path), threading.Event()
    thread = threading.Thread(target=lambda: (wait_until_free(tmp_path), done.set()))
    thread.start()
    assert not done.wait(0.3)
    lock.release()
    assert done.wait(10)
    RunLock(tmp_path).release()
