"""An engine's cases in a process of their own.

Some engines can end the process that they run in. That is then the engine's failure, and no more than the case it
happened in: the rest goes on in another process.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

from vmm.errors import VmmError

_T = TypeVar("_T")
_CONTEXT: Final = multiprocessing.get_context("fork")


def gather(work: Callable[[], Iterable[_T]]) -> tuple[list[_T], str]:
    """What `work` yields in a child process, and how that ended too early, "" if it did not.

    Raises: VmmError: it did so in the child.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_send, args=(work, sender))
    child.start()
    sender.close()
    items: list[Any] = []
    with contextlib.suppress(EOFError):
        while True:
            items.append(receiver.recv())
    receiver.close()
    child.join()
    if items and isinstance(items[-1], VmmError):
        raise items[-1]
    return items, _ending(child.exitcode or 0)


def _ending(code: int) -> str:
    if code < 0:
        return f"the engine ended its process: {signal.Signals(-code).name}"
    return f"the engine's process ended with status {code}" if code else ""


def _send(work: Callable[[], Iterable[Any]], sender: Connection) -> None:
    try:
        for item in work():
            sender.send(item)
    except VmmError as error:
        sender.send(error)


def each_case(
    cases: Sequence[_T], work: Callable[[Sequence[_T]], Iterable[Any]], lost: Callable[[_T, str], Any]
) -> list[Any]:
    """One result for each case: from `work`, or from `lost` with the reason where the process ended."""
    results: list[Any] = []
    while len(results) < len(cases):
        left = cases[len(results) :]
        done, ending = gather(lambda left=left: work(left))  # type: ignore[misc]
        results += done
        if len(done) < len(left):
            results.append(lost(left[len(done)], ending))
    return results
