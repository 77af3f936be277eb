"""The check of a data set: every planted damage is found by its own kind, what is sound passes, the cache is honest."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import make_clip, motion

from videomdm_ext.data import checking, files
from videomdm_ext.data.checking import Checked, check_folder, trial
from videomdm_ext.data.clip import Recording, to_clip
from videomdm_ext.data.folder import SPLITS, Card, content_hash, read_card, read_ids, write_folder
from videomdm_ext.data.motions import Optics, build_demo, find_lifter, lift, observe, own_generator
from videomdm_ext.data.rules import KINDS
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import SMPL22

CARD = Card(name="walks", skeleton="smpl22", fps=20.0, lifter="synthetic", licence="zlib", sources=("a source",))
NAMES = {"train": ("walk", "jump", "kick", "dance_a"), "test": ("dance_b",)}
VICTIM, MOVING, TESTED = "walk", "punch_0", "dance_b"
MIRROR = list(SMPL22.mirror)


def seen(name: str, step: int = 1, start: int = 0) -> Recording:
    """-> a bundled motion, every `step`th frame of it, lifted with errors as the demo does."""
    positions = motion(name)[start::step][:61]
    draw = own_generator("check", name)
    caption = (f"a person {name.split('_')[0]}s.",)
    recording = observe(name, caption, positions, skeleton=SMPL22, fps=20.0, optics=Optics(), draw=draw)
    return lift(find_lifter("synthetic", 0, SMPL22), recording)


@dataclass
class Folder:
    """A data set in a folder, to damage."""

    path: Path

    def npy(self, name: str, change: Callable[[np.ndarray], np.ndarray], clip: str = VICTIM) -> None:
        """Change the features of a clip; `name` is teacher or truth."""
        place = self.path / {"teacher": "teacher_vecs/synthetic", "truth": "new_joint_vecs"}[name] / f"{clip}.npy"
        np.save(place, np.asarray(change(np.load(place)), dtype=np.float32))

    def joints(self, name: str, change: Callable[[torch.Tensor], torch.Tensor], clip: str = VICTIM) -> None:
        """Change the positions of a motion [T, J, 3]."""
        self.npy(name, lambda f: encode(change(decode(torch.from_numpy(f), SMPL22)), SMPL22).numpy(), clip)

    def npz(self, folder: str, name: str, change: Callable[[np.ndarray], np.ndarray], clip: str = VICTIM) -> None:
        place = self.path / folder / f"{clip}.npz"
        with np.load(place) as archive:
            arrays = dict(archive)
        arrays[name] = np.asarray(change(arrays[name]), dtype=np.float32)
        np.savez(place, **arrays)

    def points(self, change: Callable[[np.ndarray], np.ndarray], clip: str = VICTIM) -> None:
        self.npz("keypoints_2d", "points", change, clip)

    def camera(self, change: Callable[[np.ndarray], np.ndarray], *, both: bool = False, clip: str = VICTIM) -> None:
        for name in ("extrinsics", "truth_extrinsics") if both else ("extrinsics",):
            self.npz("cameras", name, change, clip)

    def put(self, clip) -> None:
        """Write the victim's files anew."""
        from videomdm_ext.data.folder import contents
        from videomdm_ext.data.texts import untagged

        for name, data in contents(dataclasses.replace(clip, id=VICTIM), CARD, untagged).items():
            (self.path / name).write_bytes(data)

    def twin(self, other: str) -> None:
        """The victim's files once more under another id."""
        for place in list(self.path.glob(f"**/{VICTIM}.np?")) + list(self.path.glob(f"texts/{VICTIM}.txt")):
            shutil.copy(place, place.with_stem(other))

    def list(self, split: str, *ids: str) -> None:
        (self.path / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))

    def card(self, **changes: object) -> None:
        place = self.path / "dataset.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | changes))

    def seal(self) -> None:
        """Make counts and hash on the card fit, so that only the damage itself is found."""
        card = read_card(str(self.path))
        ids = {split: read_ids(str(self.path), split) for split in SPLITS if (self.path / f"{split}.txt").read_text()}
        known = dict.fromkeys(clip_id for members in ids.values() for clip_id in members)
        counts = {split: len(members) for split, members in ids.items()}
        self.card(counts=counts, content_hash=content_hash(str(self.path), card, known))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> an undamaged set with still cameras and a moving one, checked once so that its cache is there."""
    path = tmp_path_factory.mktemp("sound") / "set"
    splits = {split: [to_clip(seen(name)) for name in names] for split, names in NAMES.items()}
    splits["train"].append(make_clip(name="punch", moving=True))
    write_folder(str(path), splits, CARD)
    assert check_folder(str(path)).findings == ()
    return path


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Folder:
    return Folder(Path(shutil.copytree(sound, tmp_path / "set")))


def kinds(checked: Checked, level: str = "error") -> set[str]:
    return {item.kind for item in checked.findings if item.level == level}


def z_up(positions: torch.Tensor) -> torch.Tensor:
    """The same motion in a world whose z points up: (x, y, z) -> (x, -z, y)."""
    x, y, z = positions.unbind(-1)
    return torch.stack((x, -z, y), -1)


def in_z_up_world() -> object:
    """-> a clip that was imported from a world with z up as if y were up; its camera is in that world too."""
    recording = seen(VICTIM)
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    camera = torch.cat((recording.extrinsics[:, :3] @ turn.T, recording.extrinsics[:, 3:]), 1)
    lifted, truth = z_up(recording.lifted), z_up(recording.truth)
    return to_clip(dataclasses.replace(recording, lifted=lifted, truth=truth, extrinsics=camera))


def sideways(folder: Folder) -> None:
    """The teacher faces +x, and its camera knows."""
    angle = torch.tensor(math.pi / 2)
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])

    def change(features: np.ndarray) -> np.ndarray:
        positions = decode(torch.from_numpy(features), SMPL22) @ turn.T
        return encode(positions, SMPL22, heading(positions, SMPL22) - angle).numpy()

    folder.npy("teacher", change)
    folder.camera(lambda e: np.concatenate((e[:, :3] @ turn.numpy().T, e[:, 3:]), 1))


def sunk(folder: Folder) -> None:
    folder.joints("teacher", lambda p: p - torch.tensor([0.0, 3.0, 0.0]))
    folder.camera(lambda e: np.concatenate((e[:, :3], e[:, 3:] + e[:, 1:2] * 3.0), 1))


def stretched(positions: torch.Tensor) -> torch.Tensor:
    """The left shin grows by 60 %."""
    grown = positions.clone()
    way = torch.linspace(0.0, 0.6, len(positions))[:, None]
    shin = positions[:, 7] - positions[:, 4]
    grown[:, 7], grown[:, 10] = grown[:, 7] + way * shin, grown[:, 10] + way * shin
    return grown


def swelling(positions: torch.Tensor) -> torch.Tensor:
    """Everything about the pelvis grows to twice its size, there and back."""
    way = 1 + torch.sin(torch.linspace(0, math.pi, len(positions)))[:, None, None]
    return positions[:, :1] + way * (positions - positions[:, :1])


def thrown(features: np.ndarray) -> np.ndarray:
    features[20, 1:3] += 3.0
    return features


def pickled(folder: Folder, name: str) -> None:
    place = folder.path / name
    content = np.array([{"a": 1}], dtype=object)
    (np.save if name.endswith("npy") else np.savez)(place, content)


def replaced(values: np.ndarray, index: object, value: float) -> np.ndarray:
    values[index] = value
    return values


def write(folder: Folder, name: str, content: bytes) -> None:
    (folder.path / name).write_bytes(content)


def cut(folder: Folder, name: str) -> None:
    content = (folder.path / name).read_bytes()
    write(folder, name, content[: len(content) // 2])


def link(folder: Folder) -> None:
    place = folder.path / "keypoints_2d" / f"{VICTIM}.npz"
    shutil.move(place, folder.path.parent / "elsewhere.npz")
    place.symlink_to(folder.path.parent / "elsewhere.npz")


def leaked(folder: Folder) -> None:
    folder.twin("walk_s1_v0")
    for name in ("teacher", "truth"):
        folder.npy(name, lambda f: f + np.float32(0.002), "walk_s1_v0")
    folder.list("test", TESTED, "walk_s1_v0")


def leaked_truth(folder: Folder) -> None:
    """Another camera of the same motion under a name that does not tell."""
    folder.twin("stroll")
    folder.npy("teacher", lambda f: f + np.float32(0.001), "stroll")
    folder.list("test", TESTED, "stroll")


def two_ids(folder: Folder, noise: float) -> None:
    folder.twin("stroll")
    if noise:
        folder.npy("teacher", lambda f: f + np.float32(noise), "stroll")
    folder.list("train", *NAMES["train"], MOVING, "stroll")


def statistics(folder: Folder, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder.path / name, change(np.load(folder.path / name)))


FLIP_V, FLIP_U, ROLL = (np.diag(d).astype(np.float32) for d in ([1, -1, 1], [-1, 1, 1], [-1, -1, 1]))
OPENGL = np.diag([1, -1, -1]).astype(np.float32)
KEYPOINTS, TEACHER = f"keypoints_2d/{VICTIM}.npz", f"teacher_vecs/synthetic/{VICTIM}.npy"

# name: (kind, damage, other kinds of error that it brings along)
DAMAGES: dict[str, tuple[str, Callable[[Folder], object], set[str]]] = {
    "NaN in the teacher": ("not-a-number", lambda s: s.npy("teacher", lambda f: replaced(f, (3, 7), np.nan)), set()),
    "NaN in the truth": ("not-a-number", lambda s: s.npy("truth", lambda f: replaced(f, (3, 7), np.nan)), set()),
    "infinity in keypoints": ("not-a-number", lambda s: s.points(lambda p: replaced(p, (3, 7, 0), np.inf)), set()),
    "NaN in the camera": ("not-a-number", lambda s: s.camera(lambda e: replaced(e, (1, 3), np.nan)), set()),
    "NaN in the confidence": (
        "not-a-number",
        lambda s: s.npz("keypoints_2d", "confidence", lambda c: replaced(c, (5, 5), np.nan)),
        set(),
    ),
    "a teacher in millimetres": ("units", lambda s: s.joints("teacher", lambda p: 1000 * p), set()),
    "a truth in centimetres": ("units", lambda s: s.joints("truth", lambda p: 100 * p), set()),
    "a camera in millimetres": (
        "camera-units",
        lambda s: s.camera(lambda e: e * np.array([1, 1, 1, 1000], dtype=np.float32)),
        set(),
    ),
    "a teacher with z up": ("up-axis", lambda s: s.joints("teacher", z_up), set()),
    "a teacher with left and right exchanged": (
        "left-right",
        lambda s: s.joints("teacher", lambda p: p[:, MIRROR]),
        set(),
    ),
    "a truth with left and right exchanged": ("left-right", lambda s: s.joints("truth", lambda p: p[:, MIRROR]), set()),
    "keypoints with left and right exchanged": ("left-right", lambda s: s.points(lambda p: p[:, MIRROR]), set()),
    "keypoints in pixels": ("pixels", lambda s: s.points(lambda p: 1000 * p + 960), set()),
    "one keypoint far out of view": ("out-of-view", lambda s: s.points(lambda p: replaced(p, (9, 2), 40.0)), set()),
    "v that grows upwards": ("flipped-v", lambda s: s.points(lambda p: p * np.float32([1, -1])), set()),
    "a mirrored image": ("flipped-u", lambda s: s.points(lambda p: p * np.float32([-1, 1])), set()),
    "a camera with u left and v up": ("rolled", lambda s: s.camera(lambda e: ROLL @ e), set()),
    "both cameras with u left and v up": ("rolled", lambda s: s.camera(lambda e: ROLL @ e, both=True), set()),
    "a camera of OpenGL": ("behind", lambda s: s.camera(lambda e: OPENGL @ e), set()),
    "a person behind the camera": (
        "behind",
        lambda s: s.camera(lambda e: e - np.float32([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 12]])),
        set(),
    ),
    "a camera to world": (
        "camera-inverse",
        lambda s: s.camera(lambda e: np.concatenate((e[:, :3].T, -e[:, :3].T @ e[:, 3:]), 1)),
        set(),
    ),
    "a camera that mirrors": ("camera-mirrored", lambda s: s.camera(lambda e: FLIP_U @ e), set()),
    "a camera with intrinsics in it": (
        "camera-rotation",
        lambda s: s.camera(lambda e: np.diag([1.2, 1.2, 1.0]).astype(np.float32) @ e),
        set(),
    ),
    "one bad matrix of a moving camera": (
        "camera-rotation",
        lambda s: s.camera(lambda e: replaced(e, (7, 0, 0), 3.0), clip=MOVING),
        set(),
    ),
    "keypoints of another clip": (
        "reprojection",
        lambda s: s.points(lambda p: np.load(s.path / "keypoints_2d/dance_a.npz")["points"][: len(p)]),
        set(),
    ),
    "a camera of another clip": (
        "reprojection",
        lambda s: s.camera(lambda e: np.load(s.path / "cameras/kick.npz")["extrinsics"], both=True),
        {"behind"},
    ),
    "a teacher that faces sideways": ("facing", sideways, set()),
    "a floor three metres down": ("floor", sunk, set()),
    "a teacher cut short": ("lengths", lambda s: s.npy("teacher", lambda f: f[:-3]), set()),
    "keypoints cut short": ("lengths", lambda s: s.npz("keypoints_2d", "points", lambda p: p[:-1]), set()),
    "a moving camera cut short": ("lengths", lambda s: s.camera(lambda e: e[:-1], clip=MOVING), set()),
    "a teacher of 21 joints": ("channels", lambda s: s.npy("teacher", lambda f: f[:, :251]), set()),
    "keypoints of 17 joints": ("channels", lambda s: s.points(lambda p: p[:, :17]), set()),
    "features that are z-scored": (
        "z-scored",
        lambda s: s.npy("teacher", lambda f: (f - np.load(s.path / "Mean.npy")) / np.load(s.path / "Std.npy")),
        set(),
    ),
    "a clip of ten frames": (
        "too-short",
        lambda s: [
            s.npy("teacher", lambda f: f[:10]),
            s.npy("truth", lambda f: f[:10]),
            s.points(lambda p: p[:10]),
            s.npz("keypoints_2d", "confidence", lambda c: c[:10]),
        ],
        set(),
    ),
    "no keypoints": ("missing-file", lambda s: (s.path / KEYPOINTS).unlink(), set()),
    "no captions": ("missing-file", lambda s: (s.path / f"texts/{VICTIM}.txt").unlink(), set()),
    "no truth where a camera of it is": (
        "missing-file",
        lambda s: (s.path / f"new_joint_vecs/{VICTIM}.npy").unlink(),
        {"statistics"},
    ),
    "an empty file": ("empty-file", lambda s: write(s, KEYPOINTS, b""), set()),
    "a truncated array": ("corrupt-file", lambda s: cut(s, TEACHER), set()),
    "a truncated archive": ("corrupt-file", lambda s: cut(s, KEYPOINTS), set()),
    "a pickle in an array": ("pickle", lambda s: pickled(s, TEACHER), set()),
    "a pickle in an archive": ("pickle", lambda s: pickled(s, KEYPOINTS), set()),
    "a bare pickle": ("pickle", lambda s: write(s, TEACHER, pickle.dumps([1.0])), set()),
    "a link out of the folder": ("link-out", link, set()),
    "a clip under two ids": ("duplicate", lambda s: two_ids(s, 0.0), set()),
    "a trial on two sides": ("split-leak", leaked, set()),
    "a true motion on two sides": ("split-leak", leaked_truth, set()),
    "an id in two splits": ("split-twice", lambda s: s.list("test", TESTED, VICTIM), set()),
    "an id that leaves the folder": (
        "bad-name",
        lambda s: s.list("train", *NAMES["train"], MOVING, "../../secret"),
        {"card-counts"},
    ),
    "an empty training split": ("splits", lambda s: s.list("train"), {"card-counts", "card-hash"}),
    "a split list that is gone": ("splits", lambda s: (s.path / "test.txt").unlink(), {"card-counts"}),
    "an empty caption": ("caption-missing", lambda s: write(s, f"texts/{VICTIM}.txt", b"##0.0#0.0\n"), set()),
    "no line of captions": ("caption-missing", lambda s: write(s, f"texts/{VICTIM}.txt", b"\n"), set()),
    "a caption with '#'": (
        "caption-format",
        lambda s: write(s, f"texts/{VICTIM}.txt", b"a #1 walk#a/DET#0.0#0.0\n"),
        set(),
    ),
    "a caption in Latin-1": (
        "caption-encoding",
        lambda s: write(s, f"texts/{VICTIM}.txt", "a caf\xe9#a/DET#0.0#0.0\n".encode("latin-1")),
        set(),
    ),
    "confidence above 1": ("confidence", lambda s: s.npz("keypoints_2d", "confidence", lambda c: 2 * c), set()),
    "confidence below 0": (
        "confidence",
        lambda s: s.npz("keypoints_2d", "confidence", lambda c: replaced(c, (2, 2), -0.5)),
        set(),
    ),
    "confidence of nothing": ("confidence", lambda s: s.npz("keypoints_2d", "confidence", lambda c: 0 * c), set()),
    "a Mean of another set": ("statistics", lambda s: statistics(s, "Mean.npy", lambda m: m + 1), set()),
    "a Std of 0": ("statistics", lambda s: statistics(s, "Std.npy", lambda m: replaced(m, 5, 0.0)), set()),
    "a Std of another lifter": (
        "statistics",
        lambda s: statistics(s, "teacher_vecs/synthetic/Std.npy", lambda m: 2 * m),
        set(),
    ),
    "a teacher that never moves": (
        "frozen",
        lambda s: s.joints("teacher", lambda p: p[:1].expand(len(p), -1, -1)),
        {"reprojection"},
    ),
    "a detector that repeats itself": (
        "frozen",
        lambda s: s.points(lambda p: np.repeat(p[:1], len(p), 0)),
        {"reprojection"},
    ),
    "a jump of three metres": ("teleport", lambda s: s.npy("teacher", thrown), {"reprojection"}),
    "a true shin that grows": ("bones", lambda s: s.joints("truth", stretched), {"reprojection"}),
}
WARNED: dict[str, tuple[str, Callable[[Folder], object], set[str]]] = {
    "a world with z up, and a camera in it": ("up-axis", lambda s: s.put(in_z_up_world()), {"statistics"}),
    "a walk at twice the pace": ("speed", lambda s: s.put(to_clip(seen(VICTIM, 2))), set()),
    "two clips that hardly differ": ("near-duplicate", lambda s: two_ids(s, 1e-5), set()),
    "a clip in no split": ("not-listed", lambda s: s.twin("stroll"), set()),
    "a text without a clip": ("orphan-file", lambda s: write(s, "texts/nobody.txt", b"a#a/DET#0.0#0.0\n"), set()),
    "a file of no kind": ("orphan-file", lambda s: write(s, "cameras/notes.doc", b"hello"), set()),
    "a text decoded twice": (
        "caption-encoding",
        lambda s: write(s, f"texts/{VICTIM}.txt", "a caf\xc3\xa9#a/DET#0.0#0.0\n".encode()),
        set(),
    ),
    "left and right exchanged for a while": (
        "left-right-flips",
        lambda s: s.points(lambda p: np.concatenate((p[:20], p[20:30, MIRROR], p[30:]))),
        set(),
    ),
    "a teacher that swells": ("bones", lambda s: s.joints("teacher", swelling), {"statistics", "reprojection"}),
    "a detector that hardly saw anything": (
        "confidence",
        lambda s: s.npz("keypoints_2d", "confidence", lambda c: np.where(np.arange(22) < 3, c, 0.01)),
        set(),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_planted_damage_is_found_by_its_own_kind(name: str, folder: Folder):
    kind, damage, others = DAMAGES[name]
    damage(folder)
    seal(folder)
    found = check_folder(str(folder.path))
    assert kind in kinds(found)
    assert kinds(found) <= {kind} | others, [item for item in found.errors if item.kind != kind]
    assert all(item.clip_id in ("", VICTIM, MOVING, "stroll", "walk_s1_v0") for item in found.errors)


@pytest.mark.parametrize("name", WARNED)
def test_planted_damage_that_may_be_meant_is_a_warning(name: str, folder: Folder):
    kind, damage, others = WARNED[name]
    damage(folder)
    seal(folder)
    found = check_folder(str(folder.path))
    assert kind in kinds(found, "warning")
    assert kinds(found) <= others, found.errors


def seal(folder: Folder) -> None:
    """Let the card fit, where the set can still be hashed."""
    try:
        folder.seal()
    except (DatasetError, OSError):
        return


def test_a_set_all_of_whose_people_lie_along_one_axis_is_an_error(folder: Folder):
    for name in (*NAMES["train"], *NAMES["test"]):
        folder.joints("teacher", z_up, name)
    found = [item for item in check_folder(str(folder.path)).errors if item.kind == "up-axis" and not item.clip_id]
    assert len(found) == 1
    assert "along z" in found[0].message


@pytest.mark.parametrize("fps", [10.0, 40.0])
def test_a_card_with_half_or_twice_the_frame_rate_makes_walks_too_slow_or_quick(folder: Folder, fps: float):
    folder.put(to_clip(seen(VICTIM)))
    folder.twin("walk_v1")
    folder.list("train", *NAMES["train"], MOVING, "walk_v1")
    folder.card(fps=fps)
    found = [item for item in check_folder(str(folder.path)).warnings if item.kind == "speed"]
    assert {item.clip_id for item in found} >= {"", VICTIM, "walk_v1"}
    whole = next(item.message for item in found if not item.clip_id)
    assert f"2 walks have {0.78 * fps / 20:.2f} strides a second" in whole


def test_what_was_changed_after_the_card_was_written_is_told(folder: Folder):
    folder.points(lambda p: p + np.float32(1e-6))
    assert kinds(check_folder(str(folder.path))) == {"card-hash"}


def test_counts_on_the_card_that_do_not_fit_are_told(folder: Folder):
    folder.card(counts={"train": 7, "test": 1})
    assert kinds(check_folder(str(folder.path))) == {"card-counts"}


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format": 1}', '{"format": 9}'], ids=["empty", "cut", "deep", "bare", "newer"]
)
def test_a_card_that_cannot_be_used_is_a_finding_and_nothing_else_is_done(folder: Folder, text: str):
    (folder.path / "dataset.json").write_text(text)
    found = check_folder(str(folder.path))
    assert [item.kind for item in found.findings] == ["card"]
    assert found.clips == 0


def test_an_unfinished_import_is_told_as_such(folder: Folder):
    (folder.path / "dataset.json").unlink()
    (folder.path / "building").mkdir()
    (folder.path / "building" / "recipe.json").write_text("{}")
    assert kinds(check_folder(str(folder.path))) == {"unfinished"}


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="nowhere: expected a data set folder, found none"):
        check_folder(str(tmp_path / "nowhere"))


def test_the_demo_passes_without_a_finding(tmp_path: Path):
    build_demo(str(tmp_path), fast=True)
    found = check_folder(str(tmp_path), use_cache=False)
    assert found.findings == ()
    assert found.clips == 30
    assert all(states["found"] == 30 for states in found.counts.values())
    assert not (tmp_path / "checked.json").exists()


def test_clips_of_motion_capture_that_no_camera_saw_pass(tmp_path: Path):
    clips = []
    for name in ("walk", "kick"):
        clip = make_clip(name=name)
        nothing = np.zeros_like(clip.confidence)
        clips.append(
            dataclasses.replace(clip, teacher=clip.truth, extrinsics=clip.truth_extrinsics, confidence=nothing)
        )
    write_folder(str(tmp_path), {"train": clips}, dataclasses.replace(CARD, lifter="none"))
    assert check_folder(str(tmp_path)).findings == ()


def test_every_kind_of_finding_says_what_to_do_and_almost_all_are_planted_here():
    planted = {kind for kind, *_ in [*DAMAGES.values(), *WARNED.values()]}
    assert all(kind.advice.endswith(".") and kind.title for kind in KINDS.values())
    assert set(KINDS) - planted == {"card", "unfinished", "card-counts", "card-hash", "rate"}
    assert len(planted) >= 40


def test_a_second_check_takes_every_clip_from_the_cache_and_finds_the_same(folder: Folder):
    folder.points(lambda p: p[:, MIRROR])
    first, second = (check_folder(str(folder.path)) for _ in range(2))
    assert (first.cached, second.cached) == (5, 6)
    assert first.findings == second.findings
    assert first.counts == second.counts


def test_the_cache_is_not_believed_for_other_content_or_another_check(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    folder.points(lambda p: p[:, MIRROR])
    check_folder(str(folder.path))
    folder.points(lambda p: p[:, MIRROR])
    folder.seal()
    assert check_folder(str(folder.path)).findings == ()
    monkeypatch.setattr(checking, "version", lambda card: "another")
    assert check_folder(str(folder.path)).cached == 0


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"check": 1, "clips": 3}'])
def test_a_broken_cache_is_left_aside(folder: Folder, content: str):
    (folder.path / "checked.json").write_text(content)
    found = check_folder(str(folder.path))
    assert (found.findings, found.cached) == ((), 0)


def test_a_cache_that_was_changed_is_left_aside(folder: Folder):
    place = folder.path / "checked.json"
    cache = json.loads(place.read_text())
    cache["clips"]["walk"]["findings"] = [["no such kind", "x", "error"]]
    place.write_text(json.dumps(cache))
    found = check_folder(str(folder.path))
    assert (found.findings, found.cached) == ((), 0)


def test_a_folder_that_cannot_be_written_is_checked_all_the_same(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: str, content: bytes) -> None:
        raise DatasetError("read only")

    os.remove(folder.path / "checked.json")
    monkeypatch.setattr(files, "write_bytes", refuse)
    assert check_folder(str(folder.path)).findings == ()


def test_progress_counts_every_clip(folder: Folder):
    steps: list[tuple[int, int]] = []
    check_folder(str(folder.path), lambda done, total: steps.append((done, total)))
    assert steps == [(n, 6) for n in range(1, 7)]


def test_several_damages_of_one_clip_are_all_told(folder: Folder):
    folder.points(lambda p: replaced(p, (0, 0, 0), np.nan))
    folder.camera(lambda e: FLIP_U @ e)
    write(folder, f"texts/{VICTIM}.txt", b"no caption line\n")
    folder.joints("truth", lambda p: 1000 * p)
    assert kinds(check_folder(str(folder.path))) == {
        "not-a-number",
        "camera-mirrored",
        "caption-format",
        "units",
        "card-hash",
    }


def test_the_named_undoing_is_the_one_that_was_done_in_numpy(folder: Folder):
    """The check's own claim, by hand: with v turned round again the truth lands on the keypoints."""
    folder.points(lambda p: p * np.float32([1, -1]))
    with np.load(folder.path / KEYPOINTS) as archive, np.load(folder.path / f"cameras/{VICTIM}.npz") as camera:
        points, matrix = archive["points"], torch.from_numpy(camera["truth_extrinsics"])
    truth = decode(torch.from_numpy(np.load(folder.path / f"new_joint_vecs/{VICTIM}.npy")), SMPL22)
    expected, _ = project(truth, matrix.unsqueeze(0))
    np.testing.assert_allclose(points * [1, -1], expected.numpy(), atol=0.004)
    (found,) = [item for item in check_folder(str(folder.path)).errors if item.kind == "flipped-v"]
    assert found.message.startswith("teacher and truth alike, so it is the keypoints or both cameras: the projection")


@pytest.mark.parametrize(
    ("clip_id", "expected"),
    [
        ("walk_m0_s100_v1", "walk"),
        ("cmu_01_01_s0", "cmu_01_01"),
        ("M000123", "000123"),
        ("000123", "000123"),
        ("Mary_v2", "Mary"),
        ("s03_squat", "s03_squat"),
    ],
)
def test_the_trial_of_an_id_is_what_segments_views_and_mirror_images_share(clip_id: str, expected: str):
    assert trial(clip_id) == expected
