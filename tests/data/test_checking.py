"""The check of a data set: every planted damage is found by its own kind, what is sound passes, the cache is honest."""

import argparse
import contextlib
import dataclasses
import io
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import change, make_clip, motion
from small_bench import make_plan

from videomdm_ext.bench import fairness
from videomdm_ext.config import Source, Supervision
from videomdm_ext.data import files, refined, seal
from videomdm_ext.data.building import contents, write_folder
from videomdm_ext.data.checks import checking, rules
from videomdm_ext.data.checks.checking import Checked, check_folder
from videomdm_ext.data.checks.rules import KINDS, Finding
from videomdm_ext.data.checks.sets import trial
from videomdm_ext.data.clip import Clip, Recording, to_clip
from videomdm_ext.data.folder import SPLITS, Card, names, read_card, read_clip, read_ids
from videomdm_ext.data.motions import Optics, find_lifter, lift, observe, own_generator
from videomdm_ext.data.refined import make_refined
from videomdm_ext.data.texts import untagged
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.mdm import resume
from videomdm_ext.mdm.data import open_dataset
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import SMPL22

CARD = Card(name="walks", skeleton="smpl22", fps=20.0, lifter="synthetic", licence="zlib", sources=("a source",))
NAMES = {"train": ("walk", "jump", "kick", "dance_a"), "test": ("dance_b",)}
VICTIM, MOVING, TESTED = "walk", "punch_0", "dance_b"
TRAINED = (*NAMES["train"], MOVING)
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
    """A data set in a folder, and the clip of it to damage."""

    path: Path
    victim: str = VICTIM

    def npy(self, name: str, change: Callable[[np.ndarray], np.ndarray], clip: str = "") -> None:
        """Change the features of a clip; `name` is teacher or truth."""
        folder = {"teacher": "teacher_vecs/synthetic", "truth": "new_joint_vecs"}[name]
        place = self.path / folder / f"{clip or self.victim}.npy"
        np.save(place, np.asarray(change(np.load(place)), dtype=np.float32))

    def joints(self, name: str, change: Callable[[torch.Tensor], torch.Tensor], clip: str = "") -> None:
        """Change the positions of a motion [T, J, 3]."""
        self.npy(name, lambda f: encode(change(decode(torch.from_numpy(f), SMPL22)), SMPL22).numpy(), clip)

    def npz(self, folder: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        place = self.path / folder / f"{self.victim}.npz"
        with np.load(place) as archive:
            arrays = dict(archive)
        arrays[name] = np.asarray(change(arrays[name]), dtype=np.float32)
        np.savez(place, **arrays)

    def points(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.npz("keypoints_2d", "points", change)

    def confidence(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.npz("keypoints_2d", "confidence", change)

    def camera(self, change: Callable[[np.ndarray], np.ndarray], *, both: bool = False) -> None:
        for name in ("extrinsics", "truth_extrinsics") if both else ("extrinsics",):
            self.npz("cameras", name, change)

    def write(self, room: str, content: bytes | None) -> None:
        """Put other content into a file of the victim, or with None remove it."""
        (place,) = (self.path / room).glob(f"{self.victim}.*")
        place.unlink() if content is None else place.write_bytes(content)

    def put(self, clip) -> None:
        """Write the victim's files anew."""
        place = names(self.victim, CARD)
        for key, data in contents(clip, untagged).items():
            (self.path / place[key]).write_bytes(data)

    def twin(self, other: str, clip: str = "") -> None:
        """A clip's files once more under another id."""
        name = clip or self.victim
        for place in [*self.path.glob(f"**/{name}.np?"), self.path / f"texts/{name}.txt"]:
            shutil.copy(place, place.with_stem(other))

    def list(self, split: str, *ids: str) -> None:
        (self.path / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))

    def card(self, **changes: object) -> None:
        place = self.path / "dataset.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | changes))

    def seal(self) -> None:
        """Make counts and hashes on the card fit, where the lists and the clips can be read."""
        if all((self.path / f"{split}.txt").exists() for split in SPLITS):
            with contextlib.suppress(DatasetError):
                card = seal.sealed(str(self.path), read_card(str(self.path)))
                (self.path / "dataset.json").write_text(card.to_json())


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


def kneeling(positions: torch.Tensor) -> torch.Tensor:
    """Both feet point backwards, as those of who kneels."""
    turned = positions.clone()
    turned[:, [10, 11]] = 2 * positions[:, [7, 8]] - positions[:, [10, 11]]
    return turned


def swelling(positions: torch.Tensor) -> torch.Tensor:
    """Everything about the pelvis grows to twice its size, there and back."""
    way = 1 + torch.sin(torch.linspace(0, math.pi, len(positions)))[:, None, None]
    return positions[:, :1] + way * (positions - positions[:, :1])


def thrown(features: np.ndarray) -> np.ndarray:
    features[20, 1:3] += 3.0
    return features


def pickled(save: Callable[..., None], **arrays: object) -> bytes:
    content = io.BytesIO()
    save(content, *([] if arrays else [PICKLE]), **arrays)
    return content.getvalue()


def replaced(values: np.ndarray, index: object, value: float) -> np.ndarray:
    values[index] = value
    return values


def halved(folder: Folder, room: str) -> None:
    (place,) = (folder.path / room).glob(f"{folder.victim}.*")
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])


def link(folder: Folder) -> None:
    place = folder.path / "keypoints_2d" / f"{folder.victim}.npz"
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
    folder.list("train", *TRAINED, "stroll")


def inverted(camera: np.ndarray) -> np.ndarray:
    return np.concatenate((camera[:, :3].T, -camera[:, :3].T @ camera[:, 3:]), 1)


def of(folder: Folder, place: str, name: str) -> np.ndarray:
    """Another clip's array, as many frames as the victim has."""
    return np.load(folder.path / f"{place}.npz")[name][: len(np.load(folder.path / f"{TEACHER}/{folder.victim}.npy"))]


def shortened(folder: Folder) -> None:
    for name in ("teacher", "truth"):
        folder.npy(name, lambda f: f[:10])
    for name in ("points", "confidence"):
        folder.npz(KEYPOINTS, name, lambda a: a[:10])


def statistics(folder: Folder, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder.path / name, change(np.load(folder.path / name)))


FLIP_U, ROLL, OPENGL, ZOOM = (np.diag(np.float32(d)) for d in ((-1, 1, 1), (-1, -1, 1), (1, -1, -1), (1.2, 1.2, 1)))
KEYPOINTS, TEACHER, TEXTS = "keypoints_2d", "teacher_vecs/synthetic", "texts"
PICKLE = np.array([{"a": 1}], dtype=object)

MEAN = np.linspace(-1, 1, 263, dtype=np.float32)

Damages = dict[str, tuple[Any, ...]]
DAMAGES: Damages = {  # of one clip: kind, damage, other kinds of error that it brings along
    "NaN in the teacher": ("not-a-number", lambda s: s.npy("teacher", lambda f: replaced(f, (3, 7), np.nan))),
    "NaN in the truth": ("not-a-number", lambda s: s.npy("truth", lambda f: replaced(f, (3, 7), np.nan))),
    "infinity in keypoints": ("not-a-number", lambda s: s.points(lambda p: replaced(p, (3, 7, 0), np.inf))),
    "NaN in the camera": ("not-a-number", lambda s: s.camera(lambda e: replaced(e, (1, 3), np.nan))),
    "NaN in the confidence": ("not-a-number", lambda s: s.confidence(lambda c: replaced(c, (5, 5), np.nan))),
    "a teacher in millimetres": ("units", lambda s: s.joints("teacher", lambda p: 1000 * p)),
    "a truth in centimetres": ("units", lambda s: s.joints("truth", lambda p: 100 * p)),
    "a camera in millimetres": ("camera-units", lambda s: s.camera(lambda e: e * np.float32([1, 1, 1, 1000]))),
    "a teacher with z up": ("up-axis", lambda s: s.joints("teacher", z_up)),
    "a teacher with its sides exchanged": ("left-right", lambda s: s.joints("teacher", lambda p: p[:, MIRROR])),
    "a truth with its sides exchanged": ("left-right", lambda s: s.joints("truth", lambda p: p[:, MIRROR])),
    "keypoints with their sides exchanged": ("left-right", lambda s: s.points(lambda p: p[:, MIRROR])),
    "keypoints in pixels": ("pixels", lambda s: s.points(lambda p: 1000 * p + 960)),
    "one keypoint far out of view": ("out-of-view", lambda s: s.points(lambda p: replaced(p, (9, 2), 40.0))),
    "v that grows upwards": ("flipped-v", lambda s: s.points(lambda p: p * np.float32([1, -1]))),
    "a mirrored image": ("flipped-u", lambda s: s.points(lambda p: p * np.float32([-1, 1]))),
    "a camera with u left and v up": ("rolled", lambda s: s.camera(lambda e: ROLL @ e)),
    "both cameras with u left and v up": ("rolled", lambda s: s.camera(lambda e: ROLL @ e, both=True)),
    "a camera of OpenGL": ("behind", lambda s: s.camera(lambda e: OPENGL @ e)),
    "a person behind the camera": ("behind", lambda s: s.camera(lambda e: replaced(e, (2, 3), e[2, 3] - 12))),
    "a camera to world": ("camera-inverse", lambda s: s.camera(inverted)),
    "a camera that mirrors": ("camera-mirrored", lambda s: s.camera(lambda e: FLIP_U @ e)),
    "a camera with intrinsics in it": ("camera-rotation", lambda s: s.camera(lambda e: ZOOM @ e)),
    "one bad matrix of a moving camera": ("camera-rotation", lambda s: s.camera(lambda e: replaced(e, (7, 0, 0), 3.0))),
    "keypoints of another": ("reprojection", lambda s: s.points(lambda p: of(s, f"{KEYPOINTS}/dance_a", "points"))),
    "a camera of another clip": (
        "reprojection", lambda s: s.camera(lambda e: of(s, "cameras/kick", "extrinsics"), both=True), "behind"
    ),
    "a teacher cut short": ("lengths", lambda s: s.npy("teacher", lambda f: f[:-3])),
    "keypoints cut short": ("lengths", lambda s: s.points(lambda p: p[:-1])),
    "a moving camera cut short": ("lengths", lambda s: s.camera(lambda e: e[:-1])),
    "a teacher of 21 joints": ("channels", lambda s: s.npy("teacher", lambda f: f[:, :251])),
    "keypoints of 17 joints": ("channels", lambda s: s.points(lambda p: p[:, :17])),
    "features that are z-scored": ("z-scored", lambda s: s.npy("teacher", lambda f: (f - MEAN) / 0.1)),
    "a clip of ten frames": ("too-short", shortened),
    "no keypoints": ("missing-file", lambda s: s.write(KEYPOINTS, None)),
    "no captions": ("missing-file", lambda s: s.write(TEXTS, None)),
    "no truth where a camera of it is": ("missing-file", lambda s: s.write("new_joint_vecs", None)),
    "an empty file": ("empty-file", lambda s: s.write(KEYPOINTS, b"")),
    "a truncated array": ("corrupt-file", lambda s: halved(s, TEACHER)),
    "a truncated archive": ("corrupt-file", lambda s: halved(s, KEYPOINTS)),
    "a pickle in an array": ("pickle", lambda s: s.write(TEACHER, pickled(np.save))),
    "a pickle in an archive": ("pickle", lambda s: s.write(KEYPOINTS, pickled(np.savez, points=PICKLE))),
    "a bare pickle": ("pickle", lambda s: s.write(TEACHER, pickle.dumps([1.0]))),
    "keypoints without confidence": ("corrupt-file", lambda s: s.write(KEYPOINTS, pickled(np.savez, points=MEAN))),
    "a link out of the folder": ("link-out", link),
    "an empty caption": ("caption-missing", lambda s: s.write(TEXTS, b"##0.0#0.0\n")),
    "no line of captions": ("caption-missing", lambda s: s.write(TEXTS, b"\n")),
    "a caption with '#'": ("caption-format", lambda s: s.write(TEXTS, b"a #1 walk#a/DET#0.0#0.0\n")),
    "a caption that moves the cursor": ("caption-format", lambda s: s.write(TEXTS, b"a \x1b[2Jwalk#a/DET#0.0#0.0\n")),
    "a caption of a book": ("caption-format", lambda s: s.write(TEXTS, b"a walk " * 300 + b"#a/DET#0.0#0.0\n")),
    "a caption in Latin-1": ("caption-encoding", lambda s: s.write(TEXTS, b"a caf\xe9#a/DET#0.0#0.0\n")),
    "confidence above 1": ("confidence", lambda s: s.confidence(lambda c: 2 * c)),
    "confidence below 0": ("confidence", lambda s: s.confidence(lambda c: replaced(c, (2, 2), -0.5))),
    "confidence of nothing": ("confidence", lambda s: s.confidence(lambda c: 0 * c)),
    "a jump of three metres": ("teleport", lambda s: s.npy("truth", thrown)),
    "a teacher that jumps away": ("reprojection", lambda s: s.npy("teacher", thrown)),
}  # fmt: skip
WARNED: Damages = {
    "a world with z up, and a camera in it": ("up-axis", lambda s: s.put(in_z_up_world())),
    "a walk at twice the pace": ("speed", lambda s: s.put(to_clip(seen(VICTIM, 2)))),
    "a text decoded twice": ("caption-encoding", lambda s: s.write(TEXTS, "a caf\xc3\xa9#a/DET#0.0#0.0\n".encode())),
    "sides exchanged for a while": (
        "left-right-flips", lambda s: s.points(lambda p: np.concatenate((p[:20], p[20:30, MIRROR], p[30:])))
    ),
    "a teacher that faces sideways": ("facing", sideways),
    "a floor three metres down": ("floor", sunk),
    "a teacher that never moves": ("frozen", lambda s: s.joints("teacher", lambda p: 0 * p + p[:1]), "reprojection"),
    "a detector that repeats itself": ("frozen", lambda s: s.points(lambda p: 0 * p + p[:1])),
    "a lifter that jumps": ("teleport", lambda s: s.npy("teacher", thrown), "reprojection"),
    "a true shin that grows": ("bones", lambda s: s.joints("truth", stretched)),
    "toes that point backwards": ("backwards", lambda s: s.joints("truth", kneeling)),
    "a teacher that swells": ("bones", lambda s: s.joints("teacher", swelling), "reprojection"),
    "a detector that hardly saw anything": (
        "confidence", lambda s: s.confidence(lambda c: np.where(np.arange(22) < 3, c, 0.01))
    ),
}  # fmt: skip
OF_SETS: Damages = {
    "an id in two splits": ("split-twice", lambda s: s.list("test", TESTED, VICTIM)),
    "an id that leaves the folder": (
        "bad-name",
        lambda s: s.list("train", *TRAINED, "../../secret"),
        "card-counts",
        "card-hash",
    ),
    "an empty training split": ("splits", lambda s: s.list("train"), "card-counts", "card-hash"),
    "a split list that is gone": ("splits", lambda s: (s.path / "test.txt").unlink(), "card-counts", "card-hash"),
    "a Std of 0": ("statistics", lambda s: statistics(s, "Std.npy", lambda m: replaced(m, 5, 0.0))),
    "a Mean of NaN": ("statistics", lambda s: statistics(s, f"{TEACHER}/Mean.npy", lambda m: replaced(m, 5, np.nan))),
}
WARNED_OF_SETS: Damages = {
    "a clip under two ids": ("duplicate", lambda s: two_ids(s, 0.0)),
    "a trial on two sides": ("split-leak", leaked),
    "a true motion on two sides": ("split-leak", leaked_truth),
    "a Mean of another set": ("statistics", lambda s: statistics(s, "Mean.npy", lambda m: m + 1)),
    "a Std of another lifter": ("statistics", lambda s: statistics(s, f"{TEACHER}/Std.npy", lambda m: 2 * m)),
    "two clips that hardly differ": ("near-duplicate", lambda s: two_ids(s, 1e-5)),
    "a clip in no split": ("not-listed", lambda s: s.twin("stroll")),
    "a text without a clip": ("orphan-file", lambda s: (s.path / "texts/nobody.txt").write_bytes(b"a#a/DET#0.0#0.0\n")),
    "a file of no kind": ("orphan-file", lambda s: (s.path / "cameras/notes.doc").write_bytes(b"hello")),
}


UNREAD = (
    "missing-file", "empty-file", "corrupt-file", "pickle", "link-out", "caption-missing", "caption-format",
    "caption-encoding",
)  # fmt: skip
"""Kinds that whoever reads the file says in words of its own."""


@pytest.fixture(scope="module")
def damaged(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Finding], str]]:
    """-> what one check finds in a set in which every damage has its own copy of a clip; how reading refuses it"""
    path, victims = Path(shutil.copytree(sound, tmp_path_factory.mktemp("damaged") / "set")), {}
    for number, (name, (_, damage, *_)) in enumerate((DAMAGES | WARNED).items()):
        folder = Folder(path, f"copy{number}")
        folder.twin(folder.victim, MOVING if "moving" in name else VICTIM)
        damage(folder)
        victims[folder.victim] = name
    folder.list("train", *TRAINED, *victims)
    found: dict[str, list[Finding]] = {name: [] for name in victims.values()}
    for item in check_folder(str(path), use_cache=False).findings:
        if item.clip_id in victims and not item.kind.endswith("duplicate"):  # what is undamaged equals the original
            found[victims[item.clip_id]].append(item)
    return {name: (found[name], refusal(path, victim)) for victim, name in victims.items()}


def refusal(path: Path, clip_id: str) -> str:
    """-> the message with which a clip is refused, empty for one that is read."""
    try:
        read_clip(str(path), CARD, clip_id)
    except DatasetError as error:
        return str(error).removeprefix(str(path))
    return ""


@pytest.mark.parametrize("name", DAMAGES | WARNED)
def test_planted_damage_is_found_by_its_own_kind_and_what_may_be_meant_is_a_warning(name: str, damaged):
    kind, _, *others = (DAMAGES | WARNED)[name]
    level, (found, message) = "error" if name in DAMAGES else "warning", damaged[name]
    assert kind in {item.kind for item in found if item.level == level}
    flips = [item.message.partition(":")[0] for item in found if item.kind == "left-right-flips"]
    assert set(flips) <= {"keypoints"}, "a detector, never the truth, takes left for right"
    errors = {item.kind for item in found if item.level == "error"}
    assert errors <= {*others, *([kind] if name in DAMAGES else [])}, found
    assert bool(message) == bool(errors)
    assert not message or re.match(r"/(\w+/)*copy\d+(\.\w+)?: ", message), "the clip or its file is named"
    if message and kind not in UNREAD:
        assert any(f"{KINDS[error].advice} Make the set again" in message for error in errors), message


def placed(name: str, change: Callable[[torch.Tensor], torch.Tensor], camera: torch.Tensor | None = None) -> Clip:
    """-> a bundled motion after a change, lifted with errors and seen, by this camera [3, 4] where there is one."""
    positions, draw = change(motion(name)[:61]), own_generator("valid", name)
    recording = observe(name, ("a person.",), positions, skeleton=SMPL22, fps=20.0, optics=Optics(), draw=draw)
    if camera is not None:
        points, _ = project(positions, camera.unsqueeze(0))
        recording = dataclasses.replace(recording, keypoints=points.clamp(-2, 2), extrinsics=camera)
    return to_clip(lift(find_lifter("synthetic", 0, SMPL22), recording))


def lying(positions: torch.Tensor) -> torch.Tensor:
    return z_up(positions) + torch.tensor([0.0, 0.3, 0.0])


def on_hands(positions: torch.Tensor) -> torch.Tensor:
    turned = positions * torch.tensor([1.0, -1.0, -1.0])
    return turned - turned[..., 1].min() * torch.tensor([0.0, 1.0, 0.0])


def upstairs(positions: torch.Tensor) -> torch.Tensor:
    rise = torch.linspace(4.0, 7.0, len(positions))[:, None, None]
    return positions + rise * torch.tensor([0.0, 1.0, 0.0])


def ahead(away: float) -> torch.Tensor:
    """-> a camera [3, 4] so many metres in front of the origin, as high as hips, that looks back at it."""
    return torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 1], [0, 0, -1, away]])


VALID = {
    "lies": lambda: placed("walk", lying),
    "stands on hands": lambda: placed("walk", on_hands),
    "kneels": lambda: placed("walk", kneeling),
    "stands still": lambda: placed("walk", lambda p: 0 * p + p[:1]),
    "climbs stairs": lambda: placed("walk", upstairs),
    "is far from a long lens": lambda: placed("walk", lambda p: p, ahead(300.0)),
    "reaches past the camera": lambda: placed("punch", lambda p: p - p[:, :1], ahead(0.6)),
    "crawls": lambda: placed("crawl", lambda p: p),
    "turns a cartwheel": lambda: placed("cartwheel", lambda p: p),
    "jumps backwards": lambda: placed("backflip", lambda p: p),
    "is seen to the hips by a detector": lambda: half_seen(placed("walk", lambda p: p)),
    "has one keypoint that is far off": lambda: one_off(placed("walk", lambda p: p)),
}


def half_seen(clip: Clip) -> Clip:
    """The head and the shoulders alone, with a detector's noise of a twentieth of them."""
    upper = np.isin(np.arange(22), (12, 15, 16, 17))
    noise = np.random.default_rng(0).normal(0, 0.004, clip.keypoints.shape).astype(np.float32)
    return dataclasses.replace(clip, keypoints=clip.keypoints + noise, confidence=clip.confidence * upper)


def one_off(clip: Clip) -> Clip:
    return dataclasses.replace(clip, keypoints=clip.keypoints + 3 * (np.arange(22) == 20)[:, None].astype(np.float32))


@pytest.mark.parametrize("who", VALID)
def test_nobody_is_refused_for_what_people_do_and_cameras_see(who: str):
    assert rules.errors_of(VALID[who]()) == []


def begins(path: str) -> dict[str, Callable[[], object]]:
    """How training, refining, a bench and lifting begin with a set, by name."""
    card = read_card(path)

    def train(supervision: Supervision) -> None:
        args = argparse.Namespace(**vars(supervision), clips=path, save_dir=f"{path}-run", resume_checkpoint="")
        resume.check_clips(args)
        open_dataset(Source(clips=path), supervision, "train", 0)

    def bench() -> None:
        plan = make_plan(Path(path), content=card.content_hash, batch_size=2)
        fairness.check_data(plan, Path(f"{path}-bench"))
        fairness.check_truth(plan)

    def lift() -> None:
        seal.verify(path)
        for clip_id in read_ids(path, "train"):
            read_clip(path, card, clip_id)

    return {
        "train 2d": lambda: train(Supervision(supervision="2d", teacher="lifted")),
        "train 3d": lambda: train(Supervision(supervision="3d", teacher="gt")),
        "refine": lambda: make_refined(path, card),
        "bench": bench,
        "lift": lift,
    }


REFUSED = {kind: name for name, (kind, *_) in reversed((DAMAGES | OF_SETS).items()) if kind != "splits"}
"""A damage of each kind of error; without a training split nothing begins anyway."""


@pytest.mark.parametrize("kind", REFUSED)
def test_training_refining_lifting_and_a_bench_refuse_every_kind_of_error_of_a_check(kind: str, folder: Folder):
    """By the clip, or the file, and with a way out, also where counts and hashes were made to fit."""
    (DAMAGES | OF_SETS)[REFUSED[kind]][1](folder)
    folder.seal()
    shutil.rmtree(folder.path / "index")
    for begin in begins(str(folder.path)).values():
        with pytest.raises(DatasetError) as refused:
            begin()
        said = str(refused.value)
        assert VICTIM in said or REFUSED[kind] in OF_SETS
        assert kind in said or kind in UNREAD or REFUSED[kind] in OF_SETS
        assert any(way in said for way in (f"data check {folder.path} --", "the data set again", "Correct", "Copy"))


@pytest.mark.parametrize("name", OF_SETS | WARNED_OF_SETS)
def test_planted_damage_of_a_set_is_found_by_its_own_kind_alone(name: str, folder: Folder):
    kind, damage, *others = (OF_SETS | WARNED_OF_SETS)[name]
    damage(folder)
    folder.seal()
    found = check_folder(str(folder.path))
    assert kind in kinds(found, "error" if name in OF_SETS else "warning")
    assert kinds(found) <= {*others, *([kind] if name in OF_SETS else [])}, found.errors
    assert all(item.clip_id in ("", VICTIM, "stroll", "walk_s1_v0") for item in found.errors)


def test_a_set_all_of_whose_people_lie_along_one_axis_is_reported(folder: Folder):
    for name in (*NAMES["train"], *NAMES["test"]):
        folder.joints("teacher", z_up, name)
    found = [item for item in check_folder(str(folder.path)).warnings if item.kind == "up-axis" and not item.clip_id]
    assert len(found) == 1
    assert "along z" in found[0].message


@pytest.mark.parametrize("fps", [10.0, 40.0])
def test_a_card_with_half_or_twice_the_frame_rate_makes_walks_too_slow_or_quick(folder: Folder, fps: float):
    folder.put(to_clip(seen(VICTIM)))
    folder.twin("walk_v1")
    folder.list("train", *TRAINED, "walk_v1")
    folder.card(fps=fps)
    found = [item for item in check_folder(str(folder.path)).warnings if item.kind == "speed"]
    assert {item.clip_id for item in found} >= {"", VICTIM, "walk_v1"}
    whole = next(item.message for item in found if not item.clip_id)
    assert f"2 walks have {0.78 * fps / 20:.2f} strides a second" in whole


def test_what_was_changed_after_the_card_was_written_and_counts_that_do_not_fit_are_told(folder: Folder):
    folder.card(counts={"train": 7, "test": 1})
    assert kinds(check_folder(str(folder.path))) == {"card-counts"}
    folder.points(lambda p: p + np.float32(1e-6))
    assert kinds(check_folder(str(folder.path))) == {"card-counts", "card-hash"}


@pytest.mark.parametrize("name", [name for name in OF_SETS if OF_SETS[name][0] != "statistics"])
def test_an_error_of_the_lists_hides_no_changed_file(name: str, folder: Folder):
    OF_SETS[name][1](folder)
    folder.seal()
    change(folder.path / TEXTS / f"{TESTED}.txt")
    assert {OF_SETS[name][0], "card-hash"} <= kinds(check_folder(str(folder.path)))


def test_where_the_table_of_files_is_gone_a_missing_file_hides_no_changed_one(folder: Folder):
    folder.write(KEYPOINTS, None)
    assert kinds(check_folder(str(folder.path))) == {"missing-file"}
    (folder.path / seal.TABLE).unlink()
    found = check_folder(str(folder.path))
    assert kinds(found) == {"missing-file", "card-hash"}
    (message,) = (item.message for item in found.errors if item.kind == "card-hash")
    assert message.startswith(
        f"expected {seal.TABLE}, which holds what the files of the other clips than {VICTIM} were"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"format": 1}', '{"format": 9}'], ids=["empty", "cut", "deep", "bare", "newer"]
)
def test_a_card_that_cannot_be_used_is_a_finding_and_nothing_else_is_done(folder: Folder, text: str):
    (folder.path / "dataset.json").write_text(text)
    found = check_folder(str(folder.path))
    assert [item.kind for item in found.findings] == ["card"]
    assert found.clips == 0


def test_an_unfinished_import_is_told_as_such_and_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    (tmp_path / "building").mkdir()
    (tmp_path / "building" / "recipe.json").write_text("{}")
    assert kinds(check_folder(str(tmp_path))) == {"unfinished"}
    with pytest.raises(DatasetError, match="nowhere: expected a data set folder, found none"):
        check_folder(str(tmp_path / "nowhere"))


def test_clips_of_motion_capture_that_no_camera_saw_pass(tmp_path: Path):
    clips = []
    for clip in (make_clip(name="walk"), make_clip(name="kick")):
        known = {"teacher": clip.truth, "extrinsics": clip.truth_extrinsics, "confidence": 0 * clip.confidence}
        clips.append(dataclasses.replace(clip, **known))
    write_folder(str(tmp_path), {"train": clips}, dataclasses.replace(CARD, lifter="none"))
    assert check_folder(str(tmp_path)).findings == ()


def test_refined_teachers_of_another_version_are_named_with_the_command_that_makes_them_and_those_of_now_are_not(
    folder: Folder,
):
    for kind, way in (("refined", "1"), ("smoothed", refined.WAY)):
        files.write_bytes(
            f"{folder.path}/{kind}/synthetic/{refined.MARK}",
            f"{read_card(str(folder.path)).content_hash} {way}\n".encode(),
        )
    (found,) = [item for item in check_folder(str(folder.path)).warnings if item.kind == "outdated"]
    assert found.message.startswith("refined/synthetic is of other clips than now, or of another version")
    assert found.message.endswith(f": videomdm data refine {folder.path} --kind refined")
    files.write_bytes(f"{folder.path}/refined/synthetic/{refined.MARK}", b"\xff\xfe\xff")
    assert found in check_folder(str(folder.path)).warnings


def test_every_kind_of_finding_says_what_to_do_and_almost_all_are_planted_here():
    planted = {kind for kind, *_ in (DAMAGES | WARNED | OF_SETS | WARNED_OF_SETS).values()}
    assert all(kind.advice.endswith(".") and kind.title for kind in KINDS.values())
    assert set(KINDS) - planted == {"card", "unfinished", "card-counts", "card-hash", "rate", "outdated"}
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


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"check": 1, "clips": 3}', ""])
def test_a_cache_that_is_broken_or_was_changed_is_left_aside(folder: Folder, content: str):
    cache = json.loads((folder.path / "checked.json").read_text())
    cache["clips"]["walk"]["findings"] = [["no such kind", "x", "error"]]
    (folder.path / "checked.json").write_text(content or json.dumps(cache))
    found = check_folder(str(folder.path))
    assert (found.findings, found.cached) == ((), 0)


def test_a_folder_that_cannot_be_written_is_checked_all_the_same(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: str, content: bytes) -> None:
        raise StorageError("read only")

    os.remove(folder.path / "checked.json")
    monkeypatch.setattr(files, "write_bytes", refuse)
    assert check_folder(str(folder.path)).findings == ()


def test_progress_counts_every_clip_and_several_damages_of_one_clip_are_all_told(folder: Folder):
    steps: list[tuple[int, int]] = []
    check_folder(str(folder.path), lambda done, total: steps.append((done, total)))
    assert steps == [(n, 6) for n in range(1, 7)]
    folder.points(lambda p: replaced(p, (0, 0, 0), np.nan))
    folder.camera(lambda e: FLIP_U @ e)
    folder.write(TEXTS, b"no caption line\n")
    folder.joints("truth", lambda p: 1000 * p)
    wrong = {"not-a-number", "camera-mirrored", "caption-format", "units", "card-hash"}
    assert kinds(check_folder(str(folder.path))) == wrong


def test_the_named_undoing_is_the_one_that_was_done_in_numpy(folder: Folder):
    """The check's own claim, by hand: with v turned round again the truth lands on the keypoints."""
    folder.points(lambda p: p * np.float32([1, -1]))
    with (
        np.load(folder.path / KEYPOINTS / f"{VICTIM}.npz") as archive,
        np.load(folder.path / f"cameras/{VICTIM}.npz") as camera,
    ):
        points, matrix = archive["points"], torch.from_numpy(camera["truth_extrinsics"])
    truth = decode(torch.from_numpy(np.load(folder.path / f"new_joint_vecs/{VICTIM}.npy")), SMPL22)
    expected, _ = project(truth, matrix.unsqueeze(0))
    np.testing.assert_allclose(points * [1, -1], expected.numpy(), atol=0.004)
    (found,) = [item for item in check_folder(str(folder.path)).errors if item.kind == "flipped-v"]
    assert found.message.startswith("teacher and truth alike, so it is the keypoints or both cameras: the projection")


def test_the_trial_of_an_id_is_what_segments_views_and_mirror_images_share():
    trials = {"walk_m0_s100_v1": "walk", "cmu_01_01_s0": "cmu_01_01", "M000123": "000123", "000123": "000123"}
    trials |= {"Mary_v2": "Mary", "s03_squat": "s03_squat"}
    assert {clip_id: trial(clip_id) for clip_id in trials} == trials
