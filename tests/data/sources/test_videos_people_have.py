"""A folder of the kinds of files that people have: one command makes a set, and every file is used or named."""

import json
import subprocess

import numpy as np
import pytest
from filmed import film

from videomdm_ext.cli.main import main
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.video import watch as video_watch
from videomdm_ext.data.video.watch import Found

POSE = film("walk")
MARGIN, WIDTH, HEIGHT, FPS = 8, 36, 90, 20


def drawn(*starts, frames=26, steps=1, size=(160, 120), dark=()):
    """White people, one for each x at which they start, who go right by 2 px a frame. -> pictures [F, H, W, 3]."""
    pictures = np.full((frames, size[1], size[0], 3), 60, np.uint8)
    pictures[:, ::7, ::5] = 90
    for number in range(frames):
        for start in starts:
            left = int(start + 2 * steps * number)
            pictures[number, 15 : 15 + HEIGHT, left : left + WIDTH] = 255
    for first in dark:
        pictures[first:][(pictures[first:] < 250).all(-1)] = (20, 40, 120)
    return pictures


def find(picture):
    """MediaPipe's place: the widest white figure in a picture has the pose of a film."""
    white = (picture > 215).all(-1)
    columns = np.flatnonzero(white.sum(0) > 20)
    if len(columns) == 0:
        return None
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    widest = max(runs, key=len)
    rows = np.flatnonzero(white[:, widest].any(1))
    if min(len(widest), len(rows)) < 10:
        return None
    low, high = np.array((widest[0], rows[0])), np.array((widest[-1] + 1, rows[-1] + 1))
    shape = (POSE.pixels[0] - POSE.pixels[0].min(0)) / np.ptp(POSE.pixels[0], axis=0)
    return Found(low + shape * (high - low), np.full(33, 0.95), POSE.world[0])


VIDEOS = {  # how ffmpeg makes each from which pictures, and what becomes of it: ids, or words of the reason
    "plain.mp4": ("one", (), ("plain_0",)),
    "portrait.mp4": ("tall", (), ("portrait_0",)),
    "turned.mov": ("sideways", ("-display_rotation", "90"), ("turned_0",)),
    "fast.mp4": ("one", ("-r", "240"), "found none for more than a frame"),  # a tenth of a second
    "slow_motion.mp4": ("many", ("-r", "240"), ("slow_motion_0",)),
    "changing.mp4": ("many", ("-vf", "select='lt(n,20)+not(mod(n,4))'", "-fps_mode", "vfr"), ("changing_0",)),
    "wide_pixels.mp4": ("one", ("-vf", "scale=120:120,setsar=4/3"), ("wide_pixels_0",)),
    "cam.mts": ("one", ("-f", "mpegts"), ("cam_0",)),
    "tv.ts": ("one", (), ("tv_0",)),
    "old.flv": ("one", (), ("old_0",)),
    "phone.avi": ("one", (), ("phone_0",)),
    "cut.mp4": ("cut", (), ("cut_0", "cut_1")),
    "two.mp4": ("two", (), ("two_p0_0", "two_p1_0")),
    "two_p0.mp4": ("one", (), ("two_p0_v1_0",)),  # not the clips of the first person of two.mp4
    "sound.mp4": ("one", ("sound",), ("sound_0",)),
    "still.mp4": ("still", (), ("still_0",)),
    "nobody.mp4": ("nobody", (), "expected a person in view"),
    "short.mp4": ("short", (), "fewer"),
    "half.mkv": ("longer", (), ("half_0",)),
    "corrupt.mp4": ("one", (), "none that ffmpeg can read"),
    "empty.mp4": ("", (), "an empty file"),
    "photo.jpg": ("", (), "another ending"),
    "notes.txt": ("", (), "another ending"),
}


def write(folder):
    """The folder. Of two files the end is missing, which the second one cannot do without."""
    program = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video").get_ffmpeg_exe()
    one = drawn(20)
    pictures = {
        "one": one,
        "tall": drawn(20, size=(120, 160)),
        "sideways": np.rot90(drawn(20), -1, (1, 2)),
        "many": drawn(20, frames=250, steps=0.1),
        "cut": np.concatenate((one, drawn(50, dark=(0,)))),
        "two": drawn(4, 66, frames=26, steps=0.5),
        "longer": drawn(20, frames=40),
        "still": drawn(20, steps=0),
        "nobody": drawn(),
        "short": drawn(20, frames=8),
    }
    for name, (kind, words, _) in VIDEOS.items():
        place = folder / name
        if not kind:
            place.write_bytes(b"" if name == "empty.mp4" else b"x")
            continue
        tall, wide = pictures[kind].shape[1:3]
        rate = "60" if kind == "many" else str(FPS)
        rate = words[1] if words[:1] == ("-r",) else rate
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{wide}x{tall}", "-r", rate]
        given = [*(words if words[:1] == ("-display_rotation",) else ()), *given, "-i", "-"]
        if words == ("sound",):
            given += ["-f", "lavfi", "-i", "anullsrc=duration=4"]
        words = () if words[:1] in (("-r",), ("-display_rotation",), ("sound",)) else words
        codec = "flv" if name.endswith("flv") else "mpeg2video" if name.endswith("ts") else "mpeg4"
        codec = "mpeg2video" if name.endswith("mts") else codec
        made = ["-y", "-loglevel", "error", *given, *words, "-c:v", codec, "-q:v", "3", "-threads", "1", str(place)]
        if codec == "mpeg2video":
            made[-1:] = ["-r", "25", str(place)]
        subprocess.run([program, *made], input=pictures[kind].tobytes(), check=True)
    whole = (folder / "half.mkv").read_bytes()
    (folder / "half.mkv").write_bytes(whole[: len(whole) * 3 // 5])
    (folder / "corrupt.mp4").write_bytes((folder / "corrupt.mp4").read_bytes()[:3000])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_of_a_folder_of_twenty_mixed_videos_every_file_is_used_or_named(tmp_path, monkeypatch, capsys):
    # imageio-ffmpeg leaves a pipe to the garbage collector
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write(videos)
    monkeypatch.setattr(video_watch, "engine", lambda *, following: find)
    captions = tmp_path / "captions.tsv"
    names = [name for name in VIDEOS if not name.endswith((".jpg", ".txt"))]
    captions.write_text("".join(f"{name}\ta person moves.\n" for name in names) + "two_p1\tanother person moves.\n")
    words = ["--captions", str(captions), "--out", str(out), "--person", "all", "--fov", "60", "--no-sheets"]
    assert main(["data", "from-video", str(videos), *words]) == 0
    said = capsys.readouterr().out
    facts = json.loads((out / "videos.json").read_text())
    clips = {clip: row["video"] for one in facts["videos"].values() for clip, row in one["clips"].items()}
    expected = {clip: str(videos / name) for name, (_, _, ids) in VIDEOS.items() if ids[0] != ids[:1] for clip in ids}
    assert clips == expected
    reasons = {name: reason for name, (_, _, reason) in VIDEOS.items() if isinstance(reason, str)}
    assert set(facts["left_out"]) == set(reasons)
    assert {
        name: facts["left_out"][name] for name, words in reasons.items() if words not in facts["left_out"][name]
    } == {}
    assert all(f"left out {name}: " in said for name in reasons)
    assert sum(read_card(str(out)).counts.values()) == len(expected)
    notes = {name: " ".join(one["notes"]) for name, one in facts["videos"].items()}
    assert "still picture" in notes["still"]
    assert "sound is longer" in notes["sound"]
    assert "not downloaded whole" in notes["half"]
    texts = [(out / "texts" / f"two_p{k}_0.txt").read_text().partition("#")[0] for k in range(2)]
    assert texts == ["a person moves.", "another person moves."]

    # by default one person is taken, or it is said who is there
    one = ["--captions", str(captions), "--fov", "60", "--no-sheets"]
    assert main(["data", "from-video", str(videos / "two.mp4"), *one, "--out", str(tmp_path / "a")]) == 1
    assert "found several (0: from 0.0" in capsys.readouterr().err.replace("\n", " ")
    assert (
        main(["data", "from-video", str(videos / "two.mp4"), *one, "--out", str(tmp_path / "b"), "--person", "1"]) == 0
    )
    facts = json.loads((tmp_path / "b" / "videos.json").read_text())
    assert list(facts["videos"]["two"]["clips"]) == ["two_0"]
    assert facts["videos"]["two"]["others"] == 1
    assert "seen beside those who were taken: 1 track of people" in facts["left_out"]["two.mp4, others"]
