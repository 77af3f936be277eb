"""The verb `export`: what it writes, what it says, and what it refuses."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import body_arrays, write_body

from videomdm_ext.cli.main import main
from videomdm_ext.data.motions import load_motions
from videomdm_ext.inference.sample import write_motions

WALK = torch.from_numpy(next(m.positions for m in load_motions() if m.name == "walk"))


@pytest.fixture
def motions(tmp_path: Path) -> Path:
    """-> two motions of 12 and 9 frames"""
    write_motions(tmp_path / "samples.npz", {"samples": [WALK[:12], WALK[20:29]]}, ["a person walks.", "steps"])
    return tmp_path / "samples.npz"


def words_of(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())


def test_every_motion_is_written_as_bvh_and_glb_beside_its_file(motions: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(motions)]) == 0
    names = sorted(p.name for p in motions.parent.iterdir())
    assert names == ["samples.npz", "samples_000.bvh", "samples_000.glb", "samples_001.bvh", "samples_001.glb"]
    assert "Frames: 12" in (motions.parent / "samples_000.bvh").read_text()
    glb = (motions.parent / "samples_001.glb").read_bytes()
    assert struct.unpack_from("<4sII", glb) == (b"glTF", 2, len(glb))
    said = words_of(capsys)
    assert "samples_000: 12 frames; bones of one length are off by 0.0 mm, at most 0 mm" in said
    assert "2 motions written as bvh, glb" in said


def test_formats_count_folder_and_frame_rate_are_as_asked_for(motions: Path, tmp_path: Path):
    words = ["--format", "gif,bvh", "--count", "1", "--fps", "30", "--out", str(tmp_path / "new")]
    assert main(["export", str(motions), *words]) == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["samples_000.bvh", "samples_000.gif"]
    assert "Frame Time: 0.03333333" in (tmp_path / "new" / "samples_000.bvh").read_text()
    assert (tmp_path / "new" / "samples_000.gif").read_bytes()[:6] == b"GIF89a"


def test_positions_in_a_npy_are_one_motion(tmp_path: Path):
    np.save(tmp_path / "walk.npy", WALK[:10].numpy())
    assert main(["export", str(tmp_path / "walk.npy"), "--format", "bvh"]) == 0
    assert (tmp_path / "walk.bvh").is_file()


def test_a_body_of_the_users_own_replaces_the_figure(motions: Path, tmp_path: Path):
    words = ["--smpl", write_body(tmp_path / "models"), "--count", "1", "--format", "glb"]
    assert main(["export", str(motions), *words]) == 0
    content = (motions.parent / "samples_000.glb").read_bytes()
    document = json.loads(content[20 : 20 + struct.unpack_from("<I", content, 12)[0]])
    assert [material["name"] for material in document["materials"]] == ["skin"]
    assert document["accessors"][0]["count"] == len(body_arrays()["v_template"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "fbx"], "--format: expected any of bvh,glb,mp4,gif, found 'fbx'"),
        (["--fps", "0"], "--fps: a number above 0"),
        (["--count", "-1"], "--count: expected 0 or more"),
        (["--smpl", "x", "--format", "bvh"], "--smpl: expected glb among the formats"),
        (["--smpl", "nowhere"], "--smpl nowhere: expected a body model of gender neutral, found none"),
    ],
)
def test_what_cannot_be_is_refused_before_any_file(words, message, motions: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["export", str(motions), *words]) == 1
    assert message in words_of(capsys)
    assert [p.name for p in motions.parent.iterdir()] == ["samples.npz"]


def test_files_that_hold_no_motion_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "flat.npy", np.zeros((5, 66)))
    assert main(["export", str(tmp_path / "flat.npy")]) == 1
    assert "flat.npy: expected positions [T, J, 3] of 22 (smpl22), 16 (nba16) joints, found [5, 66]" in words_of(capsys)
    np.save(tmp_path / "empty.npy", np.zeros((0, 22, 3)))
    assert main(["export", str(tmp_path / "empty.npy"), "--format", "gif"]) == 1
    assert "empty.npy: expected positions [T, J, 3] of" in words_of(capsys)
    np.save(tmp_path / "broken.npy", np.full((5, 22, 3), np.nan))
    assert main(["export", str(tmp_path / "broken.npy")]) == 1
    assert "expected numbers, found others in 5 of 5 frames" in words_of(capsys)
    assert main(["export", str(tmp_path / "none.npz")]) == 1
    assert "none.npz: expected a file of motions, found none that can be read" in words_of(capsys)
