"""Calls of one function elsewhere: in processes of this machine, or by Ray on all machines of a cluster.

Both give the results that one process gives, and have no more calls in the making than can be worked on.
"""

import itertools
import logging
import os
import socket
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal, NamedTuple, TypeVar

import blobfile as bf
import torch

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError, StorageError, VideoMDMError, optional

logger = logging.getLogger(__name__)

PULSE = 0.5
"""Seconds between looks at what is done, and between a worker's looks whether it still has a parent."""
DEATHS = 3
"""After so many workers died over one task it is given up; with Ray alone, where another machine may do it."""
Call = tuple[Any, ...]
Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Engine:
    """Where the parts of long work run, and how many at a time."""

    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: the cluster that Ray finds, or one it starts here (extra `scale`)."""
    processes: int = 1
    """Processes of this machine that work at a time; with 0 all is done in this one. Ray takes every core it has."""

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise ConfigError(f"--processes: expected 0 or more, found {self.processes}. Correct it.")

    @property
    def is_alone(self) -> bool:
        """Whether no process works but this one."""
        return self.engine == "local" and self.processes == 0

    def is_here(self, count: int) -> bool:
        """Whether this process does so many calls itself, as one that needs no process of its own."""
        return self.engine == "local" and min(self.processes, count) <= 1

    def run(
        self,
        function: Callable[..., Result],
        calls: Mapping[str, Call],
        place: str,
        *,
        renewed: int | None = None,
        watch: Callable[[], None] | None = None,
        ordered: bool = False,
        device: bool = False,
    ) -> Iterator[Result]:
        """Results of `function(*call)` for named calls, as they come, or in the order of the calls.

        Everybody works in the folder `place`. A process has one thread, and makes way for another after `renewed`
        calls; `watch` is called now and then. With Ray a call takes a core, and a GPU too where `device` and there
        are any. When a call fails, or the results are not wanted any more, all processes end at once. VideoMDMError
        where one was killed; Ray begins its call again, elsewhere, up to DEATHS times.
        """
        if not calls or self.is_alone or (self.is_here(len(calls)) and not (renewed or watch)):
            for call in calls.values():
                yield function(*call)
                if watch:
                    watch()
            return
        left, pending, ready, turn = iter(calls), dict[Future[Result], str](), dict[str, Result](), iter(calls)
        due, deaths = next(turn), Counter[str]()
        on_ray = self.engine == "ray"
        engine = _ray(place, renewed, device) if on_ray else _processes(min(self.processes, len(calls)), renewed)
        with engine as workers:
            while True:
                for name in itertools.islice(left, max(workers.room() - len(pending) - len(ready), 0)):
                    pending[workers.submit(function, calls[name])] = name
                if not pending:
                    return
                done, _ = wait(pending, timeout=PULSE, return_when=FIRST_COMPLETED)
                if watch:
                    watch()
                for future in done:
                    name = pending.pop(future)
                    try:
                        ready[name] = future.result()
                    except workers.lost as error:
                        deaths[name] += 1
                        _count_death(name, deaths[name], error)
                        pending[workers.submit(function, calls[name])] = name
                while ready and (due in ready or not ordered):
                    yield ready.pop(due if ordered else next(iter(ready)))
                    due = next(turn, "") if ordered else due


HERE = Engine()
"""This process alone."""


def share_of(words: str, option: str = "--shard") -> tuple[int, int]:
    """A share (i, n) from its words, as 3/8."""
    part, _, parts = words.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"{option}: expected a part and their number, as 3/8, found {words!r}. Correct it.")
    return int(part), int(parts)


def part_of(items: Sequence[Item], share: tuple[int, int]) -> Sequence[Item]:
    """The i-th of n equal parts of a sequence, for a share (i, n)."""
    part, parts = share
    return items[(part - 1) * len(items) // parts : part * len(items) // parts]


class _Workers(NamedTuple):
    """Who takes calls, how many of them at a time, and the errors of a worker's death after which a call may go on."""

    submit: Callable[[Callable[..., Any], Call], Future[Any]]
    room: Callable[[], int]
    lost: tuple[type[BaseException], ...]


def _count_death(name: str, deaths: int, error: BaseException) -> None:
    reason = str(error).partition("\n")[0]
    if deaths == DEATHS:
        raise VideoMDMError(
            f"{name}: expected a worker that lives to its end, found {DEATHS} that died ({reason}). A machine kills "
            "workers when its memory is full; start the command again, it goes on; with more memory for a task."
        ) from error
    logger.warning("%s: its worker died, it is tried again (%d of %d): %s", name, deaths + 1, DEATHS, reason)


# -- processes of this machine ----------------------------------------------------------------------------------------


@contextmanager
def _processes(processes: int, renewed: int | None) -> Iterator[_Workers]:
    named: dict[str, Any] = {"mp_context": get_context("spawn"), "initializer": start_worker}
    named["initargs"] = (os.getpid(),)  # the parent, who may be gone when the worker begins
    with ProcessPoolExecutor(processes, max_tasks_per_child=renewed, **named) as pool:
        try:
            yield _Workers(lambda function, call: pool.submit(function, *call), lambda: 2 * processes, ())
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


def start_worker(parent: int | None = None) -> None:
    """What a worker process does first. It ends with its parent: two may not work in one folder."""

    def end(parent: int = parent or os.getppid()) -> None:
        while os.getppid() == parent:
            time.sleep(PULSE)
        os._exit(1)

    _settle()
    threading.Thread(target=end, daemon=True).start()


def _settle() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# -- Ray --------------------------------------------------------------------------------------------------------------


@contextmanager
def _ray(place: str, renewed: int | None, device: bool) -> Iterator[_Workers]:
    ray = optional("ray", user="--engine ray", extra="scale")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent from a cluster that begins here
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise VideoMDMError(
                f"--engine ray: expected a cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}, or room for one "
                f"here, found neither ({error}). Start it, or unset the variable."
            ) from error
    lost = ("WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "OutOfMemoryError", "ObjectLostError")
    gpus = 1 if device and ray.cluster_resources().get("GPU") else 0
    shares: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": 0, "max_calls": renewed or 0}
    task, mark = ray.remote(**shares)(_task), bf.join(place, f".seen-{uuid.uuid4().hex}")
    begun: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
    with suppress(StorageError):  # a set that is only read may lie where nobody writes
        files.write_bytes(mark, b"")
    mark = mark if bf.exists(mark) else place

    def submit(function: Callable[..., Any], call: Call) -> Future[Any]:
        future: Future[Any] = task.remote(function, call, os.getcwd(), place, mark).future()
        begun.add(future)
        return future

    def room() -> int:
        """Twice as many as the cluster, which may grow, works on at a time."""
        there = ray.cluster_resources()
        return 2 * max(int(min(there.get("CPU", 0), there.get("GPU", 0) if gpus else there.get("CPU", 0))), 1)

    try:
        yield _Workers(submit, room, tuple(getattr(ray.exceptions, name) for name in lost))
    except ray.exceptions.RayTaskError as error:  # the call's own error, and where on which machine
        raise error.cause from error
    finally:
        for future in begun:
            if not future.done():
                ray.cancel(future.object_ref, force=True)  # type: ignore[attr-defined]
        if mark != place:
            bf.remove(mark)


def _task(function: Callable[..., Any], call: Call, folder: str, place: str, mark: str) -> Any:
    """A call on whatever machine, from the folder in which the command was given."""
    _settle()
    with suppress(OSError):
        os.chdir(folder)
    if not bf.exists(mark):
        raise DatasetError(
            f"{place}: expected a folder that all machines of the cluster share, found another or none on "
            f"{socket.gethostname()}. Put it where every worker finds it under this name."
        )
    return function(*call)
