"""Converting DeepMimic's clips: axes, joints, seams and errors on a made-up humanoid, and the real files."""

import json
import os
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from videomdm_ext.data.motions import BUNDLED, load_motions
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22

PLACE = Path(__file__).parents[2] / "third_party" / "deepmimic" / "convert.py"
SPEC = spec_from_file_location("deepmimic_convert", PLACE)
assert SPEC is not None
assert SPEC.loader is not None
deepmimic = module_from_spec(SPEC)
sys.modules[SPEC.name] = deepmimic  # for its dataclasses
SPEC.loader.exec_module(deepmimic)

IDENTITY = [1.0, 0.0, 0.0, 0.0]
OFFSETS = {
    "root": "0 0 0", "chest": "0 0.96 0", "neck": "0 0.88 0",
    "right_hip": "0 0 0.36", "right_knee": "0 -1.68 0", "right_ankle": "0 -1.64 0",
    "right_shoulder": "-0.08 0.96 0.72", "right_elbow": "0 -1.08 0", "right_wrist": "0 -1.04 0",
    "left_hip": "0 0 -0.36", "left_knee": "0 -1.68 0", "left_ankle": "0 -1.64 0",
    "left_shoulder": "-0.08 0.96 -0.72", "left_elbow": "0 -1.08 0", "left_wrist": "0 -1.04 0",
}  # fmt: skip
KNEE, ELBOW = slice(20, 21), slice(29, 30)  # where the right knee's and the right elbow's angles are in a frame


def humanoid() -> bytes:
    joints = "".join(f'<joint name="{name}"><origin xyz="{xyz}"/></joint>' for name, xyz in OFFSETS.items())
    return f"<robot>{joints}</robot>\n\0".encode()


def standing(count: int = 61, seconds: float = 0.05) -> NDArray[np.float64]:
    """Frames [T, 44] of a person who stands upright, facing DeepMimic's +x."""
    ball, hinge = IDENTITY, [0.0]
    pose = [*ball * 3, *ball, *hinge, *ball * 2, *hinge, *ball, *hinge, *ball * 2, *hinge]
    return np.tile([seconds, 0.0, 0.88, 0.0, *pose], (count, 1))


def clip(frames: NDArray[np.float64], loop: str = "none") -> bytes:
    return json.dumps({"Loop": loop, "Frames": frames.tolist()}).encode()


def converted(frames: NDArray[np.float64], loop: str = "none") -> NDArray[np.float32]:
    sources = {"humanoid.urdf": humanoid(), "humanoid3d_made_up.txt": clip(frames, loop)}
    return deepmimic.convert_sources(sources)["made_up"].positions


def at(positions: NDArray[np.float32], joint: str) -> NDArray[np.float32]:
    return positions[:, SMPL22.index(joint)]


def test_a_standing_humanoid_becomes_a_standing_person() -> None:
    positions = converted(standing())
    assert positions.shape == (60, 22, 3)
    assert at(positions, "l_shoulder")[0, 0] == pytest.approx(0.18, abs=1e-4)
    assert at(positions, "r_hip")[0, 0] == pytest.approx(-0.09, abs=1e-4)
    assert at(positions, "l_foot")[0, 2] > 0.1 > at(positions, "l_ankle")[0, 2] > -0.01
    heights = [at(positions, name)[0, 1] for name in ("r_foot", "r_knee", "pelvis", "spine1", "spine3", "neck", "head")]
    assert heights == sorted(heights)
    assert heights[0] == pytest.approx(0, abs=1e-4)


def test_a_person_moves_to_our_right_a_negative_knee_bends_backwards_and_a_positive_elbow_forwards() -> None:
    frames = standing()
    frames[:, KNEE], frames[:, ELBOW] = -np.pi / 2, np.pi / 2
    positions = converted(frames)
    assert at(positions, "r_ankle")[0, 2] == pytest.approx(at(positions, "r_knee")[0, 2] - 0.41, abs=1e-4)
    assert at(positions, "r_wrist")[0, 2] == pytest.approx(at(positions, "r_elbow")[0, 2] + 0.26, abs=1e-4)
    assert at(positions, "l_ankle")[0, 2] == pytest.approx(at(positions, "l_knee")[0, 2], abs=1e-4)
    frames = standing()
    frames[:, 3] = np.linspace(0, 3, len(frames))
    assert at(converted(frames), "pelvis")[-1] == pytest.approx([-2.95, 0.965, 0], abs=1e-4)


def test_resampling_follows_rotations_at_constant_speed() -> None:
    frames = standing(count=16, seconds=0.2)
    angle = np.linspace(0, -1.5, 16)
    frames[:, KNEE] = angle[:, None]
    positions = converted(frames)
    shin = at(positions, "r_ankle") - at(positions, "r_knee")
    measured = np.arctan2(shin[:, 2], -shin[:, 1])
    assert measured == pytest.approx(np.linspace(0, -1.5, 61)[:-1], abs=1e-3)


def test_a_cycle_is_repeated_and_goes_on_where_it_arrived() -> None:
    frames = standing(count=21)
    frames[:, 1] = np.linspace(0, 1, 21)
    positions = converted(frames, loop="wrap")
    assert len(positions) == 60
    assert np.allclose(np.diff(at(positions, "pelvis")[:, 2]), 0.05, atol=1e-4)


def test_a_seam_is_closed_without_a_jump_in_place_speed_or_height() -> None:
    frames = standing(count=21)
    frames[:, KNEE] = np.linspace(-0.5, -1.5, 21)[:, None]
    knee = at(converted(frames, loop="wrap"), "r_ankle")
    step = np.linalg.norm(np.diff(knee, axis=0), axis=-1)
    bend = np.linalg.norm(np.diff(knee, axis=0, n=2), axis=-1)
    assert step.max() < 0.1  # 0.41 m times 1 rad spread over 0.6 s, at most one and a half times the mean speed
    assert bend.max() < 0.03
    frames = standing(count=21)
    frames[:, 2] = np.linspace(0.88, 0.48, 21)
    height = at(converted(frames, loop="wrap"), "pelvis")[:, 1]
    assert np.abs(np.diff(height)).max() < 0.05


def test_what_lies_far_from_a_seam_is_left_alone() -> None:
    frames = standing(count=61)
    frames[:, KNEE] = np.linspace(-0.5, -1.5, 61)[:, None]
    recorded = deepmimic.repeat(deepmimic.recording(torch.from_numpy(frames)), 2)
    closed = deepmimic.close_seams(recorded, [60])
    before, after = recorded.rotations["right_knee"], closed.rotations["right_knee"]
    assert torch.equal(before[:54], after[:54])
    assert torch.equal(before[67:], after[67:])
    assert not torch.allclose(before[58], after[58])


def test_quaternions_of_other_lengths_are_normalised_and_an_unknown_clip_gets_a_caption_of_its_name() -> None:
    frames = standing()
    frames[:, 8:12] *= 0.6
    assert np.allclose(converted(frames), converted(standing()), atol=1e-5)
    sources = {"humanoid.urdf": humanoid(), "humanoid3d_tai_chi.txt": clip(standing())}
    assert deepmimic.convert_sources(sources)["tai_chi"].captions == ("a person does a tai chi.",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a clip of DeepMimic"),
        (b'{"Frames": []}', "not a clip of DeepMimic"),
        (clip(standing()[:, :30]), r"expected at least 4 frames of 44 values, found \[61, 30\]"),
        (clip(standing()[:2]), r"found \[2, 44\]"),
    ],
)
def test_a_broken_clip_is_an_error_that_names_the_file(content: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"humanoid3d_odd\.txt: .*{message}"):
        deepmimic.convert_sources({"humanoid.urdf": humanoid(), "humanoid3d_odd.txt": content})


def test_a_broken_skeleton_file_is_an_error() -> None:
    for content, message in ((b"<robot>", "cannot be read"), (b"<robot></robot>", "no offset of root, chest")):
        with pytest.raises(DatasetError, match=rf"humanoid\.urdf: {message}"):
            deepmimic.read_offsets(content)


def test_the_command_converts_a_folder_and_reports_what_is_missing(tmp_path: Path, capsys) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "clips.npz"
    source.mkdir()
    arguments = ["--from", str(source), "--to", str(target)]
    assert deepmimic.main(arguments) == 1
    assert "found none of them" in capsys.readouterr().err
    assert not target.exists()
    (source / "humanoid.urdf").write_bytes(humanoid())
    (source / "humanoid3d_made_up.txt").write_bytes(clip(standing()))
    assert deepmimic.main(arguments) == 0
    assert "1 clips, 60 frames, 3.0 s" in capsys.readouterr().out
    assert [motion.name for motion in load_motions(target)] == ["made_up"]
    assert deepmimic.main(["--from", str(tmp_path / "nowhere"), "--to", str(target)]) == 1


def test_a_saved_bundle_reads_back_the_same_and_has_the_same_bytes(tmp_path: Path) -> None:
    bundled = {motion.name: motion for motion in load_motions()}
    for name in ("a.npz", "b.npz"):
        deepmimic.save_motions(tmp_path / name, list(bundled.values()), {"file": "digest"})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for motion in load_motions(tmp_path / "a.npz"):
        assert np.array_equal(motion.positions, bundled[motion.name].positions)
        assert motion.captions == bundled[motion.name].captions
        assert motion.loop == bundled[motion.name].loop


@pytest.fixture
def pybullet() -> Path:
    """The real files: $VIDEOMDM_DEEPMIMIC (pybullet's wheel or a folder), or an installed pybullet."""
    if named := os.environ.get("VIDEOMDM_DEEPMIMIC"):
        return Path(named)
    found = find_spec("pybullet_data")
    if found is None or found.origin is None:
        pytest.skip("no pybullet: set VIDEOMDM_DEEPMIMIC to its wheel, or install it")
    return Path(found.origin).parent


def test_the_real_files_give_the_bundle_again(pybullet: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        assert deepmimic.main(["--from", str(pybullet), "--to", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as made, np.load(BUNDLED) as bundled:
        assert made.files == bundled.files
        for name in bundled.files:
            if name.startswith("meta."):
                assert np.array_equal(made[name], bundled[name])
            else:
                assert np.allclose(made[name], bundled[name], atol=2e-5)
