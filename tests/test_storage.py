"""A disk that takes no more, or a folder that another process has: every verb says so once and names the place, and
nothing that was made before is lost."""

import errno
import os
import shutil
from pathlib import Path

import forks
import mdm_runs
import numpy as np
import pytest
import torch
from clips import CARD, make_clip, motion

from videomdm_ext.data import locks
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.files import flush, write_bytes
from videomdm_ext.errors import message_of

REFUSE = """
import blobfile, builtins, io, os
from pathlib import Path
left = [{after}]
def checked(own):
    def call(path, mode="r", *rest, **named):
        below = isinstance(path, (str, os.PathLike)) and Path(path).absolute().is_relative_to({folder!r})
        if below and set(str(mode)) & set("wax+"):
            left[0] -= 1
            if left[0] < 0:
                raise OSError({number}, os.strerror({number}), str(path))
        return own(path, mode, *rest, **named)
    return call
builtins.open, io.open, blobfile.BlobFile = checked(builtins.open), checked(io.open), checked(blobfile.BlobFile)
"""
"""The first files that are opened for writing below a folder are written; from one of them on, none can be."""
TRAIN = (
    "--batch_size 2 --crop_frames 24 --latent_dim 16 --layers 1 --ff_size 16 --text_features words --diffusion_steps 8 "
    "--num_steps 2 --save_interval 2 --log_interval 1"
)
VERBS = {
    "data import joints joints --out out/set": 20,
    "data merge set other --out out/set": 9,
    "data show set walk_0 --out out/clip.png": 0,
    f"train --arm lifted --clips set --save_dir out/run --overwrite {TRAIN}": 1,
    "sample --checkpoint run --text walk --out out": 1,
    "lift --clips set --checkpoint run --ddim 4 --out out": 1,
    "export run/walk.npy --out out": 2,
    "view set --out out/page.html": 0,
}
"""Commands that write, and how many files of each are written before the disk is full."""


IMPATIENT = "from videomdm_ext.data import locks; locks.PATIENCE = 0.0"
BUSY = {
    "data import joints joints --out out/set": "out/set",
    "data import parquet rows.parquet --out out/set": "out/set",
    "data from-video films --out out/set --no-sheets --caption walks.": "out/set",
    "data film set --out out": "out",
    "data make-demo --synthetic --fast --out out/set": "out/set",
    "data merge set other --out out/set": "out/set",
    "data pack set --out out/set": "out/set",
    "data unpack set --out out/set": "out/set",
    "data refresh set --checkpoint run --out out/set": "out/set",
    f"train --arm lifted --clips set --save_dir out/run {TRAIN}": "out/run",
    "train --rounds 2 --clips set --save_dir out/run --num_steps 4": "out/run.rounds",
    "run train.train_mdm --supervision 3d --clips set --save_dir out/run": "out/run",
    "sample --checkpoint run --text walk --out out": "out",
    "lift --clips set --checkpoint run --ddim 4 --out out": "out",
    "demo --fast --out out --text-features words": "out",
    "demo --video --out out": "out",
    "bench --dataset set --out out --batch-size 2 --text-features words": "out",
    "bench score out": "out",
    "bench report out": "out",
    "report out": "out",
}
"""Commands that write a folder, and the folder."""
TWICE = """
import os, sys
from videomdm_ext.cli.main import main
processes = []
for number in range(2):
    if (process := os.fork()) == 0:
        handle = os.open(f"{number}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        status = main(sys.argv[1:])
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    processes.append(process)
print(*(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes))
"""


def videomdm(words: str, place: Path, **refused: object):
    first = REFUSE.format(**refused) if refused else ""
    return forks.run(["-m", "videomdm_ext", *words.split()], cwd=place, first=first)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """-> a folder with a set, joints to import, a trained run and a motion."""
    place = tmp_path_factory.mktemp("storage")
    clips = [make_clip(name=name) for name in ("walk", "jump", "kick")]
    write_folder(str(place / "set"), {"train": clips[:2], "test": clips[2:]}, CARD)
    write_folder(str(place / "other"), {"train": [make_clip(name="spin")]}, CARD)
    for part in ("joints", "texts"):
        (place / "joints" / part).mkdir(parents=True)
    for name in ("walk", "jump", "kick", "spin"):
        np.save(place / "joints" / "joints" / f"{name}.npy", motion(name).numpy())
        (place / "joints" / "texts" / f"{name}.txt").write_text(f"a person does a {name}.\n", encoding="utf-8")
    done = videomdm(f"train --arm lifted --clips set --save_dir run {TRAIN}", place)
    assert done.returncode == 0, done.stderr
    np.save(place / "run" / "walk.npy", motion("walk").numpy())
    return place


@pytest.mark.parametrize("words", VERBS)
def test_a_verb_whose_disk_is_full_says_so_once_and_goes_on_when_there_is_room(words, made):
    before = {name: files(made / name) for name in ("set", "joints", "run")}
    inside = made / "out"
    for number, after in ((errno.EROFS, 0), (errno.ENOSPC, VERBS[words])):
        refused = videomdm(words, made, folder=str(inside), number=number, after=after)
        assert refused.returncode == 1, refused.stderr
        (line,) = [line for line in refused.stderr.splitlines() if line.startswith(("error:", "fault:"))]
        assert os.strerror(number) in line, line
        assert "out/" in line or "out:" in line, "the place is named"
        assert "Traceback" not in refused.stderr
        assert not list(inside.rglob("*.part")), "nothing half written stays"
        for name, kept in before.items():
            assert {k: v for k, v in files(made / name).items() if k in kept} == kept
    done = videomdm(words, made)
    assert done.returncode == 0, done.stderr
    assert files(inside)
    shutil.rmtree(inside)


def test_a_verb_that_writes_a_folder_is_refused_while_another_process_has_it(made):
    (made / "films").mkdir()
    (made / "films" / "walk.mp4").write_bytes(b"a film")
    (made / "rows.parquet").write_bytes(b"rows")
    for words, folder in BUSY.items():
        with locks.held(made / folder):
            there = files(made)
            refused = forks.run(["-m", "videomdm_ext", *words.split()], cwd=made, first=IMPATIENT)
            lines = [line for line in refused.stderr.splitlines() if line.startswith(("error:", "fault:"))]
            assert refused.returncode == 1, (words, refused.stderr)
            assert len(lines) == 1
            assert lines[0].startswith(f"error: {folder}: expected a folder that no other process writes, found"), words
            assert f"process {os.getpid()} since 2" in lines[0]
            assert files(made) == there, words
    shutil.rmtree(made / "out")


@pytest.mark.parametrize(
    "words",
    [
        "data import joints joints --out out/x",
        f"train --arm lifted --clips set --save_dir out/x {TRAIN} --num_steps 100",  # not over before the other begins
    ],
)
def test_of_two_that_start_at_once_in_one_folder_one_makes_what_it_makes_alone(words, made):
    assert videomdm(words.replace("out/x", "out/y"), made).returncode == 0
    both = forks.run(["-c", TWICE, *words.split()], cwd=made, first=IMPATIENT)
    statuses = [int(status) for status in both.stdout.split()]
    assert sorted(statuses) == [0, 1], both.stderr
    (line,) = [line for line in (made / f"{statuses.index(1)}.txt").read_text().splitlines() if "error:" in line]
    assert line.startswith("error: out/x: expected a folder that no other process writes, found process ")
    assert not list((made / "out").rglob(".*"))
    found, alone = files(made / "out/x"), files(made / "out/y")
    assert found.keys() == alone.keys()
    for name in found.keys() - {"args.json", "index/files.bin"}:  # which name the folder, and times
        same = found[name] == alone[name]
        if name.endswith(".pt"):
            loaded = [torch.load(made / "out" / folder / name) for folder in "xy"]
            same = mdm_runs.differences(*loaded) == []
        assert same, name
    shutil.rmtree(made / "out")


def test_a_missing_file_of_the_program_itself_stays_a_fault():
    from videomdm_ext import errors

    own = FileNotFoundError(errno.ENOENT, "No such file or directory", str(Path(errors.__file__).parent / "gone.txt"))
    assert message_of(own) is None
    assert message_of(OSError(errno.EINTR, "Interrupted")) is None
    assert "Make room" in message_of(OSError(errno.ENOSPC, "No space left on device", "/full/x"))


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """As /dev/stdout and /dev/null do, which a rename would replace where that is allowed."""
    pipe, words = tmp_path / "pipe", b"words"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_bytes(str(pipe), words)
    assert pipe.is_fifo()
    assert os.read(reading, 100) == words
    os.close(reading)


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file, then its name, then the folder; the card of a set is so, its clips are not."""
    calls: list[str] = []
    replace = os.replace
    noted = lambda path: (calls.append(f"flush {Path(path).name[:6]}"), flush(path))  # noqa: E731
    monkeypatch.setattr("videomdm_ext.data.files.flush", noted)
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(f"name {Path(new).name}"), replace(old, new)))
    write_bytes(str(tmp_path / "one.json"), b"1", durable=True)
    write_bytes(str(tmp_path / "two.json"), b"2")
    assert calls == ["flush one.js", "name one.json", f"flush {tmp_path.name[:6]}", "name two.json"]
    calls.clear()
    write_folder(str(tmp_path / "set"), {"train": [make_clip(name="walk")]}, CARD)
    assert [call for call in calls if "flush" in call] == ["flush files.", "flush index", "flush datase", "flush set"]
