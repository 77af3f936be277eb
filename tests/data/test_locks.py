"""A folder has one writer at a time; a dead one, however it died, keeps nothing, and nobody is refused by his own."""

import contextlib
import errno
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from videomdm_ext.data import files, locks
from videomdm_ext.errors import StorageError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the other processes are forks")


@contextlib.contextmanager
def another(folder: Path, then: Callable[[], object] = lambda: time.sleep(60)) -> Iterator[int]:
    """Within, another process has the folder, until it has done something; at the end it is dead. -> its number"""
    told, tells = os.pipe()
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException), locks.held(folder):
            folder.mkdir(exist_ok=True)
            files.write_bytes(f"{folder}/whole", b"whole")
            Path(f"{folder}/whole.half{files.PART}").touch()
            os.write(tells, b"held")
            then()
        os._exit(0)
    try:
        assert os.read(told, 4) == b"held"
        yield process
    finally:
        os.close(told), os.close(tells)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            kill(process)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@contextlib.contextmanager
def impatient():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "PATIENCE", 0.0)
        yield


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_process_is_refused_by_the_name_of_the_first_until_that_is_killed(tmp_path):
    place = tmp_path / "set"
    with another(place) as first:
        expected = (
            rf"{place}: expected a folder that no other process writes, found process {first} since 2.* \(.*\)\. "
        )
        with (
            impatient(),
            pytest.raises(StorageError, match=rf"{expected}.* end it \(kill {first}\), or choose another"),
        ):
            locks.held(place).__enter__()
        assert names(place) == ["whole", "whole.half.part"], "nothing of a living process is removed"
        kill(first)
        assert names(tmp_path) == [".set.lock", "set"]
        with impatient(), locks.held(place):
            assert names(place) == ["whole"], "parts of files that a dead process left are gone"
            assert json.loads((tmp_path / ".set.lock").read_text())["pid"] == os.getpid()
            with locks.held(place), locks.held(f"{tmp_path}/../{tmp_path.name}/set/"):
                pass
            assert names(tmp_path) == [".set.lock", "set"], "he who has it may ask again"
    assert names(tmp_path) == ["set"]


def test_one_that_ends_soon_is_waited_for(tmp_path):
    with another(tmp_path / "set", then=lambda: time.sleep(0.3)), locks.held(tmp_path / "set"):
        pass


def test_processes_that_the_owner_starts_may_work_there_and_keep_nothing_when_he_dies(tmp_path):
    """A fork, as of a data loader, has the owner's files open; a process of its own asks as any other does."""
    place = tmp_path / "set"

    def start() -> None:
        if (child := os.fork()) == 0:
            locks._mine.clear()  # as where nothing is inherited
            with impatient(), locks.held(place):
                os._exit(0)
            os._exit(1)
        ended = os.waitpid(child, 0)[1]
        if os.fork() == 0:
            with locks.held(place):
                pass
            files.write_bytes(f"{place}/fork", f"{os.getpid()} {ended}".encode())
        time.sleep(60)

    with another(place, start) as first:
        for _ in range(400):
            if (place / "fork").exists():
                break
            time.sleep(0.02)
        fork, ended = map(int, (place / "fork").read_text().split())
        assert ended == 0, "the owner's child was refused"
        with impatient(), pytest.raises(StorageError, match=f"process {first} "):
            locks.held(place).__enter__()  # a fork that is done with it ends nothing
        kill(first)
        try:
            with impatient(), locks.held(place):
                os.kill(fork, 0)  # which lives
        finally:
            os.kill(fork, signal.SIGKILL)


def test_where_no_lock_can_be_it_is_said_and_work_goes_on(tmp_path, caplog, monkeypatch):
    with locks.held("gs://bucket/set"):
        pass

    def unknown(self: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", unknown)
    with locks.held(tmp_path / "set"):
        pass
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "gs://bucket/set: an object store has no locks",
        f"{tmp_path}/set: locks are unknown there (No locks available)",
    ]


def test_a_lock_lies_beside_the_folder_or_where_that_cannot_be_in_it(tmp_path, monkeypatch):
    place = tmp_path / "set"
    assert locks.lock_of(str(place)) == str(tmp_path / ".set.lock")
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    assert locks.lock_of(str(place)) == str(tmp_path / ".set.lock"), "there is no folder yet"
    place.mkdir()
    with locks.held(place):
        assert names(place) == [".lock"]
    assert names(place) == []
    assert locks.lock_of("/") == "/.lock"
    (tmp_path / "file").touch()
    for inside in ("file", "file/set", "file/new/set"):
        with pytest.raises(StorageError, match=rf"{inside}: expected .* found the file {tmp_path}/file in its"):
            locks.held(tmp_path / inside).__enter__()
    with pytest.raises(StorageError, match=r"/proc/nope: expected a (folder that can be written|place that takes it)"):
        locks.held("/proc/nope").__enter__()


NAMELESS = ("", "{", "[]", "7", '{"pid": 1}', '{"pid": "x", "host": "", "since": "", "command": ""}')
HOSTILE = json.dumps({"pid": 1, "host": "a\x1b[2J", "since": "", "command": ""})


def test_a_lock_that_does_not_tell_whose_it_is_refuses_all_the_same_and_one_from_elsewhere_says_so(tmp_path):
    place, lock = tmp_path / "set", tmp_path / ".set.lock"
    with another(place) as first, impatient():
        for content in (*NAMELESS, HOSTILE):
            lock.write_text(content)
            with pytest.raises(StorageError, match=r"found another one\. Wait until it is done, end it, or"):
                locks.held(place).__enter__()
        owner = {"pid": first, "host": f"not-{socket.gethostname()}", "since": "2026-01-01", "command": "videomdm"}
        lock.write_text(json.dumps(owner))
        with pytest.raises(StorageError, match=rf"process {first} of not-.* end it there"):
            locks.held(place).__enter__()


def test_a_lock_that_another_user_left_is_named_with_what_to_do(tmp_path, monkeypatch):
    """Not the folder's rights are wrong, and nothing else says which file it is: its name begins with a dot."""
    lock = tmp_path / ".run.lock"
    lock.write_text(json.dumps({"pid": 7, "host": "far", "since": "2026-01-01", "command": "videomdm train"}))

    def refused(self, *args, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(lock))

    monkeypatch.setattr(locks.FileLock, "acquire", refused)
    monkeypatch.setattr(locks.os, "access", lambda path, mode: os.fspath(path) != str(lock))
    with pytest.raises(StorageError, match=rf"{lock}: .*another user \(process 7 of far.*have that file removed"):
        locks.held(tmp_path / "run").__enter__()
    assert lock.exists()


def test_two_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    seen, rename = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(source), rename(source, target)))
    for content in (b"one", b"two"):
        files.write_bytes(str(tmp_path / "x"), content)
    assert len(set(seen)) == 2
    assert all(name.endswith(files.PART) for name in seen)
    assert names(tmp_path) == ["x"]
