"""Calls of one function in several local processes, with no more of them in the making than can be worked on."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from videomdm_ext.errors import VideoMDMError

ORPHAN_SECONDS = 0.5
"""How often a worker looks whether it still has a parent."""
Result = TypeVar("Result")


def in_processes(
    function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], processes: int, *, renewed: int | None = None
) -> Iterator[Result]:
    """Results of `function(*call)`, as they come; of one process in order, and in this one unless it is renewed.

    Each process has one thread, and makes way for another after `renewed` calls. When a call fails, or the results are
    not wanted any more, the processes end at once. VideoMDMError where one was killed.
    """
    processes, left = min(processes, len(calls)), iter(calls)
    if not calls or (processes == 1 and renewed is None):
        yield from itertools.starmap(function, calls)
        return
    named: dict[str, Any] = {"mp_context": get_context("spawn"), "initializer": start_worker}
    with ProcessPoolExecutor(processes, max_tasks_per_child=renewed, **named) as pool:
        pending: set[Future[Result]] = set()
        try:
            while True:
                pending |= {
                    pool.submit(function, *call) for call in itertools.islice(left, 2 * processes - len(pending))
                }
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException as error:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise VideoMDMError(
                    f"--processes {processes}: expected all of them to work to the end, found one that was killed; a "
                    "machine does that when its memory is full. Start the command again, it goes on; with fewer."
                ) from error
            raise


def start_worker() -> None:
    """What a worker process does first."""
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Stop where the process that started this one was killed: two may not work in one folder."""
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)
