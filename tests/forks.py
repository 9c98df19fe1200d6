"""Runs functions in forked children: a single one that may be killed, or the processes of one run."""

import json
import multiprocessing
import os
import pickle
import sys
import traceback

from torch import distributed as dist

WORLD = 2


def forked(work):
    """(signal that ended it, result of `work()`) of a child process; its stdout is discarded."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            with open(os.devnull, "w") as sys.stdout:
                os.write(writing, json.dumps(work()).encode())
            code = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), json.loads(text) if text else None


def in_processes(work, folder, world=WORLD):
    """Runs `work(rank)` in forked processes of one group; {rank: result}, or the traceback of the first failure."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def run(number):
        try:
            store = dist.FileStore(str(folder / f"store{world}"), world)
            dist.init_process_group("gloo", store=store, rank=number, world_size=world)
            with open(os.devnull, "w") as sys.stdout:
                results.put(pickle.dumps((number, work(number), None)))  # a tensor would need this process to live on
            dist.barrier()
            dist.destroy_process_group()
        except BaseException:
            results.put(pickle.dumps((number, None, traceback.format_exc())))
        finally:
            results.close()
            results.join_thread()
            os._exit(0)

    started = [context.Process(target=run, args=(n,)) for n in range(world)]
    for process in started:
        process.start()
    got = {}
    for _ in started:
        number, value, fault = pickle.loads(results.get(timeout=300))
        if fault:
            for process in started:
                process.kill()
            raise AssertionError(fault)
        got[number] = value
    for process in started:
        process.join()
    return got
