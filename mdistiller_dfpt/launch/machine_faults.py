"""Errors that the machine causes wherever a file is used: they are no bug of this package, and one line says them."""

import errno

from ..errors import (
    NO_THREAD,
    ConfigError,
    DataError,
    OutOfMemory,
    UserError,
    behind,
    in_short,
    is_room_for_threads,
    lack_of_memory,
    message_of,
)

OF_NAMES = {errno.ENAMETOOLONG, errno.ELOOP}  # no name of ours is such
OF_LIMITS = {errno.EMFILE, errno.ENFILE}
OF_PLACES = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENXIO,
    errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENOLCK, errno.ENOTSUP,
}  # fmt: skip


def out_of_memory(error: Exception) -> OutOfMemory | None:
    """That no memory could be allocated, in words, if this is behind an error."""
    threads = _of_threads(error)
    lack = threads if threads is not None and not is_room_for_threads() else lack_of_memory(error)
    return None if lack is None else in_words(lack)


def in_words(lack: BaseException) -> OutOfMemory:
    """An error that says that no memory could be allocated, in words."""
    return OutOfMemory(f"out of memory ({in_short(lack, 160) or 'no details'}): end other processes, or raise the"
                       " number that `ulimit -v` prints")  # fmt: skip


def fault_of_the_machine(error: Exception) -> UserError | None:
    """The error in words, with its exit code; None if it is another kind of error."""
    if isinstance(error, UnicodeEncodeError):  # Python keeps the bytes of a name that is not UTF-8 as such characters
        name = error.object[error.object.rfind("\n", 0, error.start) + 1 :].splitlines()[0]
        is_name = error.reason == "surrogates not allowed"
        return ConfigError(f"{name[:200]}: this name is not UTF-8: rename it") if is_name else None
    if isinstance(error, BlockingIOError) or (_of_threads(error) and is_room_for_threads()):
        what = error.strerror if isinstance(error, BlockingIOError) else NO_THREAD
        return DataError(f"{what}: no further process or thread may be started: raise the number that `ulimit -u`"
                         " prints, and that of `ulimit -v` if there is one, or start fewer processes")  # fmt: skip
    if (lack := out_of_memory(error)) is not None:
        return lack
    if not isinstance(error, OSError):
        return None
    if error.errno in OF_LIMITS:
        return DataError(f"{error.strerror}: raise the number that `ulimit -n` prints, or lower DATASET.NUM_WORKERS")
    what = f"{str(error.filename)[:100]}: {error.strerror}" if error.filename is not None else str(error.strerror)
    if error.errno in OF_NAMES:
        return ConfigError(what)
    return DataError(what) if error.errno in OF_PLACES else None


def _of_threads(error: BaseException) -> BaseException | None:
    """The error of a thread that could not start behind an error, as a pool of processes then fails to end."""
    return next((one for one in behind(error) if message_of(one) == NO_THREAD), None)
