"""One call for each of many files, in several processes."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ..errors import DataError
from ..handlers import interrupts_later
from ..parent import stop_with_pool

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 8  # files that a process gets at once


def each_of(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, name: Callable[[Item], str], setting: str
) -> Generator[Result]:
    """What `work` returns of each item, in their order; to be closed, which ends the processes.

    DataError if one dies: with the `name` of the item, and the `setting` that says how many there are.
    """
    seen, workers = 0, max(1, workers)
    with ProcessPoolExecutor(workers, initializer=stop_with_pool) as pool:
        try:
            with interrupts_later():
                results = pool.map(work, items, chunksize=CHUNK)
            for result in results:
                yield result
                seen += 1
        except BrokenProcessPool:
            raise DataError(f"a process that reads images died, as when memory runs out, at {CHUNK * workers} images"
                            f" from {name(items[seen])} on; lower {setting} (now {workers})"
                            ) from None  # fmt: skip
        finally:  # also where an interrupt ends it: what is not begun is not done
            pool.shutdown(cancel_futures=True)
