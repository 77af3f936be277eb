"""The verb `view`: what it makes a page of, what it refuses, and what it serves."""

import functools
import runpy
import socket
import struct
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import content_of
from clips import make_clip, motion
from comparisons import write_plan

from videomdm_ext.cli import viewing
from videomdm_ext.cli.main import main
from videomdm_ext.cli.viewing import handler
from videomdm_ext.data import refined
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import Card, read_card
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.inference.sample import write_motions
from videomdm_ext.motion.features import decode
from videomdm_ext.supervision import refinement

CARD = Card(name="two", skeleton="smpl22", fps=25.0, lifter="bent", licence="zlib", sources=("a source",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips = [make_clip(name=name, fps=25.0) for name in ("walk", "jump", "kick")]
    write_folder(str(tmp_path / "set"), {"train": clips}, CARD)
    return tmp_path / "set"


def content(place: Path) -> dict[str, Any]:
    """-> what a page holds."""
    return content_of(place.read_text(encoding="utf-8"))


def shown(place: Path) -> list[tuple[str, list[str]]]:
    return [(s["caption"], [track["name"] for track in s["tracks"]]) for s in content(place)["scenes"]]


def view(*words: object) -> int:
    return main(["view", *map(str, words)])


def test_a_data_set_shows_truth_and_teacher_and_the_refined_one_where_it_is_made(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert view(folder, "--count", 2) == 0
    assert "set.html: 2 captions" in capsys.readouterr().out
    found = shown(tmp_path / "set.html")
    assert [names for _, names in found] == [["truth", "teacher"]] * 2
    assert content(tmp_path / "set.html")["fps"] == 25.0
    monkeypatch.setattr(refinement, "Refinement", functools.partial(refinement.Refinement, first=1, rounds=0))
    refined.make_refined(str(folder), read_card(str(folder)))
    chosen = (folder / "train.txt").read_text().split()[2]
    assert view(folder, "--ids", chosen) == 0
    ((caption, names),) = shown(tmp_path / "set.html")
    assert (f"({chosen})" in caption, names) == (True, ["truth", "teacher", "refined teacher"])
    assert view(folder, "--ids", "nobody") == 1
    assert "error: --ids nobody: expected a clip of" in capsys.readouterr().err


def test_samples_are_shown_from_their_folder_or_file(tmp_path: Path) -> None:
    walk, kick = motion("walk")[:30], motion("kick")[:20]
    write_motions(tmp_path / "run" / "samples" / "samples.npz", {"a": [walk, kick], "b": [kick, walk]}, ["w", "k"])
    out = tmp_path / "page.html"
    for what in ("run", "run/samples", "run/samples/samples.npz"):
        assert view(tmp_path / what, "--out", out, "--fps", 12.5) == 0
        assert shown(out) == [("w", ["a", "b"]), ("k", ["a", "b"])]
        assert content(out)["fps"] == 12.5


def test_a_comparison_shows_the_same_captions_for_all_arms_beside_truth_and_teacher(folder, tmp_path, capsys):
    out, bench = tmp_path / "page.html", write_plan(tmp_path / "bench", folder, seeds=2)
    assert view(bench, "--out", out) == 1
    assert f"videomdm view {folder}" in capsys.readouterr().err
    caption = make_clip(name="jump").texts[0]
    for arm in ("3d", "2d"):
        groups = {"samples": [motion("walk")[:20], motion("kick")[:20]]}
        write_motions(bench / "samples" / f"{arm}-0" / "000.npz", groups, ["unknown", caption])
    assert view(bench, "--out", out) == 0
    assert dict(shown(out)) == {"unknown": ["3d", "2d"], caption: ["truth", "teacher", "3d", "2d"]}
    folder.rename(tmp_path / "moved")
    assert view(bench, "--out", out) == 1
    assert "--clips" in capsys.readouterr().err
    assert view(bench, "--out", out, "--clips", tmp_path / "moved") == 0


def test_a_comparison_shows_unseen_clips_that_each_arm_made_clean_as_their_camera_sees_them(tmp_path, capsys):
    clips = [make_clip(name=name, fps=25.0) for name in ("walk", "jump", "kick")]
    write_folder(str(tmp_path / "other"), {"train": clips[:1], "test": clips[1:]}, CARD)
    out, bench = tmp_path / "page.html", write_plan(tmp_path / "bench", tmp_path / "other", seeds=2)
    seen = [
        to_camera(decode(torch.from_numpy(c.teacher[:20]), c.skeleton), torch.from_numpy(c.extrinsics)) for c in clips
    ]
    for name in ("3d-0", "2d-0", "2d-1"):
        write_motions(bench / "samples" / name / "000.npz", {"samples": [motion("walk")[:20]]}, ["unknown"])
        write_motions(bench / "samples" / name / "heldout.npz", {"prediction": seen[1:], "teacher": seen[1:]}, [])
    assert view(bench, "--out", out) == 0
    scenes = content(out)["scenes"]
    assert [scene["group"] for scene in scenes] == ["Samples for captions"] + ["Unseen clips, made clean"] * 2
    tracks = scenes[1]["tracks"]
    names = [(track["name"], track.get("seed")) for track in tracks]
    assert names == [("truth", None), ("teacher", None), ("3d", 0), ("2d", 0), ("2d", 1)]
    assert tracks[1]["positions"] == tracks[3]["positions"], "what the camera saw alike lies in one place"
    assert (scenes[1]["view"]["reference"], clips[1].id in scenes[1]["caption"]) == ("truth", True)
    assert [track["name"] for track in scenes[0]["tracks"]] == ["3d", "2d", "2d"]
    assert view(bench, "--out", out, "--seeds", 1, "--ids", clips[2].id) == 0
    (scene,) = content(out)["scenes"]
    assert [track["name"] for track in scene["tracks"]] == ["truth", "teacher", "3d", "2d"]
    assert clips[2].id in scene["caption"]
    assert view(bench, "--out", out, "--ids", clips[0].id) == 1
    assert "expected test clips of a comparison" in capsys.readouterr().err
    write_motions(bench / "samples" / "3d-0" / "heldout.npz", {"prediction": seen}, [])
    assert view(bench, "--out", out) == 1
    assert "expected predictions of the 2 test clips" in capsys.readouterr().err


def test_the_picture_of_the_readme_shows_the_clip_with_the_median_error_of_3d(tmp_path: Path) -> None:
    clips = [make_clip(name=name, fps=25.0) for name in ("walk", "jump", "kick", "dance_a")]
    write_folder(str(tmp_path / "set"), {"train": [make_clip(fps=25.0, id="other")], "test": clips}, CARD)
    bench = write_plan(tmp_path / "bench", tmp_path / "set", arms=["3d"], seeds=2)
    draw = torch.Generator().manual_seed(0)
    truth = [torch.randn(frames, 22, 3, generator=draw) for frames in (20, 20, 20, 9)]
    for seed, sizes in enumerate(((0.3, 0.0, 0.05, 0.1), (0.3, 0.1, 0.1, 0.1))):
        made = [t + size * torch.randn(t.shape, generator=draw) for t, size in zip(truth, sizes, strict=True)]
        write_motions(bench / "samples" / f"3d-{seed}" / "heldout.npz", {"prediction": made, "truth": truth}, [])
    chosen_clip = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_pictures.py"))["chosen_clip"]
    chosen, error = chosen_clip(bench, str(tmp_path / "set"))
    assert chosen == clips[2].id, "not the one of 9 frames"
    assert 0.05 < error < 0.2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((".",), "found none"),
        (("nowhere",), "found none"),
        (("odd.npz",), "[7] joints"),
        (("text.npz",), "expected motions in npz"),
        (("a run",), "Sample first: videomdm sample --checkpoint 'a run'"),
        ((".", "--count", "0"), "--count"),
        ((".", "--seeds", "0"), "--seeds"),
        ((".", "--fps", "nan"), "--fps"),
        ((".", "--split", "all"), "--split"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_message(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    write_motions(tmp_path / "odd.npz", {"a": [torch.zeros(5, 7, 3)]}, ["w"])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "model000000004.pt").touch()
    assert view(*words) == 1
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("error: ")
    assert not list(tmp_path.glob("*.html"))


def test_the_page_and_nothing_else_is_served_to_this_computer_alone_and_a_reader_may_leave(monkeypatch, capsys) -> None:
    monkeypatch.setattr(viewing, "IDLE", 0.2)
    with viewing.Server(("127.0.0.1", 0), handler(b"<p>page</p>" * 1_000_000)) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            place = f"http://127.0.0.1:{server.server_port}"
            with urllib.request.urlopen(place) as answer:
                assert answer.read(11) == b"<p>page</p>"
                assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            with pytest.raises(urllib.error.HTTPError, match="404") as refused:
                urllib.request.urlopen(f"{place}/etc/passwd")
            refused.value.close()
            for name, status in (("example.org", "403"), (f"localhost:{server.server_port}", "200"), ("", "403")):
                with socket.create_connection(server.server_address) as other:
                    other.sendall(f"GET / HTTP/1.0\r\nHost: {name}\r\n\r\n".encode())
                    assert other.recv(12).decode().endswith(status)  # the rest is not wanted
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # left by a reset
            with socket.create_connection(server.server_address) as idle:
                idle.settimeout(5)
                assert idle.recv(1) == b"", "a connection that asks for nothing is closed"
        finally:
            server.shutdown()
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_motions(tmp_path / "one.npz", {"a": [motion("walk")[:20]]}, ["w"])
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(b"")) as server:
        words = (tmp_path / "one.npz", "--out", tmp_path / "page.html", "--serve", "--port", server.server_port)
        assert view(*words) == 1
    assert "expected a free port" in capsys.readouterr().err
    np.testing.assert_equal(len(shown(tmp_path / "page.html")), 1)
