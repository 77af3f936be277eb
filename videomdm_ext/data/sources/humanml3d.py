"""Importers of folders that look like HumanML3D's: `joints`, `humanml3d` and `release`.

joints      a folder of 22 SMPL joints a clip, seen by seeded orbit cameras
    SOURCE/joints/NAME.npy    [T, 22, 3], metres, 20 fps and y up unless options say otherwise
    SOURCE/texts/NAME.txt     HumanML3D's lines; those about a part of a clip are left out
    SOURCE/index.csv          optional, with a column `name` and perhaps `caption` and `split`: which clips there are
    Names that end in _s0, _s1 ... are pieces of one trial and stay on one side of the split.

humanml3d   the official folder, its motion seen by seeded orbit cameras, its feature vectors kept bit for bit
    SOURCE/new_joint_vecs/NAME.npy    [T, 263], written as the truth
    SOURCE/texts/NAME.txt             captions; one that names a time is a clip of its own, A_NAME, B_NAME ...
    SOURCE/train.txt val.txt test.txt names
    As in MDM, clips and parts of fewer than 40 or more than 199 frames are left out. The cameras stand in the world
    that the vectors decode to. A teacher is made by the same rules as the files (`HUMANML3D_FILES`); a part of a clip
    is cut from the vectors of the whole clip, truth and teacher alike. A real lifter works on 2D, so there are two
    passes: import once, lift DIR/keypoints_2d, then import again with the same seed and views and with --option
    lifted=RESULTS, joints [T, 22, 3] a clip in RESULTS/ID.npy, or with --lifter NAME --option results=RESULTS. With
    cameras=pnp the lifter's motion alone tells where the camera stands, as for a video.

release     data as the paper's released program reads it, its camera axes turned to ours
    SOURCE/keypoints_2d/NAME.npy or .npz    [T, J, 2], or [T, J, 3] with confidence, on the normalised plane
    SOURCE/cameras/NAME.npy or .npz         [3, 4], [4, 4], [T, 3, 4] or [T, 4, 4]
    SOURCE/mvlift_vecs/NAME.npy             [T, D] the teacher's features; or wham_vecs, or --option teacher=FOLDER
    SOURCE/new_joint_vecs/NAME.npy          [T, D] the true motion's features (optional)
    SOURCE/texts/NAME.txt                   captions; train.txt, val.txt and test.txt the splits
    There u points left and v up, and there are no intrinsics (METHOD 1): camera and image are rolled by 180 degrees
    about the viewing axis. The cameras stand in the frame that the teacher decodes to. The stored vectors are kept bit
    for bit. A true motion has the same camera only where both start alike, so it is kept where it falls on the
    keypoints. Folders have other names through options, and files in .npz hold one array or those named below.
"""

import csv
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from string import ascii_uppercase
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.sources import base
from videomdm_ext.data.texts import Caption, read_captions, tags_of
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.geometry.pnp import solve_static
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.features import channels, decode, decode_root
from videomdm_ext.motion.kinematics import HUMANML3D_FILES
from videomdm_ext.motion.skeletons import SMPL22, Skeleton, by_name

PIECE = re.compile(r"_s\d+$")  # the end of the name of a piece of a longer trial
SMALLEST, LARGEST = 0.2, 5.0  # metres; the largest extent of a pose lies between


class JointsImporter(base.Importer):
    """A folder of joints; several views become clips NAME_v0, NAME_v1 ..."""

    name = "joints"
    about = "A folder of 22 joints a clip (joints/NAME.npy, texts/NAME.txt)."
    sources = ("joints of 3D motion, projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "fps": "frames per second of the files, 20 by default",
        "up": "their upward axis, y or z",
    }

    def members(self) -> Sequence[base.Member]:
        """One for every clip and view."""
        names = [row["name"] for row in self._index] or files.stems(bf.join(self.source, "joints"), ".npy")
        splits = {row["name"]: row.get("split") or "" for row in self._index}
        return [
            base.Member(files.checked_id(name, self.source) + view, PIECE.sub("", name), splits.get(name, ""), name)
            for name in names
            for view in self.views
        ]

    def caption_names(self, member: base.Member) -> Sequence[str]:
        """Its file's."""
        return (member.place,)

    def read(self, member: base.Member) -> Recording:
        """The motion as one camera saw it."""
        name, place = member.place, bf.join(self.source, "joints", f"{member.place}.npy")
        return self.observed(member.id, self._texts(name), self._positions(place))

    def _positions(self, place: str) -> Tensor:
        """Joints [T, 22, 3] at 20 fps, y up."""
        positions = torch.from_numpy(files.read_array(place))
        if positions.ndim != 3 or tuple(positions.shape[1:]) != (SMPL22.num_joints, 3) or len(positions) < 2:
            advice = "Write the joints in the order of HumanML3D."
            raise self.refuse(place, f"joints [T, {SMPL22.num_joints}, 3]", list(positions.shape), advice)
        if not bool(torch.isfinite(positions).all()):
            raise self.refuse(place, "positions without gaps", "NaN or infinite ones", "Fill or cut the gaps.")
        size = float((positions.amax(-2) - positions.amin(-2)).amax(-1).median())
        if not SMALLEST < size < LARGEST:
            advice = "Are the units metres, not millimetres? Convert the file."
            raise self.refuse(place, f"a person of {SMALLEST:g} to {LARGEST:g} m", f"one of {size:.4g}", advice)
        if self.extra("up", "y", among=("y", "z")) == "z":
            positions = base.y_up(positions)
        return self.at_rate(positions, self.extra_number("fps", self.fps))

    def _texts(self, name: str) -> tuple[str, ...]:
        place = bf.join(self.source, "texts", f"{name}.txt")
        if bf.exists(place):
            captions = [caption for caption in read_captions(place, self.refused) if caption.is_whole]
            self.tagged = tags_of(captions)
            texts = tuple(caption.text for caption in captions)
        else:
            texts = self.given(name, path=bf.join(self.source, "joints", f"{name}.npy")) or tuple(
                row["caption"] for row in self._index if row["name"] == name and row.get("caption")
            )
        if not texts:
            raise self.refuse(place, "a caption of the whole clip", "none", "Write it, or name a file with --captions.")
        return texts

    @cached_property
    def _index(self) -> list[dict[str, str]]:
        place = bf.join(self.source, "index.csv")
        if not bf.exists(place):
            return []
        rows = list(csv.DictReader(files.read_text(place).splitlines()))
        if not rows or any(not row.get("name") for row in rows):
            raise DatasetError(f"{place}: expected a column `name`, found none or empty names. Correct or remove it.")
        return rows


SHORTEST, LONGEST = 40, 199  # frames of the clips that MDM reads
VECTORS = "new_joint_vecs"


class HumanML3DImporter(base.Importer):
    """The official data set with cameras and a lifter; several views become clips NAME_v0, NAME_v1 ..."""

    name = "humanml3d"
    about = "The official HumanML3D folder, seen by orbit cameras; its vectors are kept bit for bit."
    heading = HUMANML3D_FILES
    licence = "HumanML3D (MIT); its motion under the terms of AMASS and HumanAct12"
    sources = ("HumanML3D (Guo et al. 2022), projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "lifted": "folder of a lifter's joints, ID.npy or NAME.npy",
        "lifted_frame": "whose axes they are in, camera or world",
        "lifted_name": "what to call that lifter",
        "cameras": "given, or pnp: found from the lifted motion and its keypoints (extra `video`)",
    }

    def finished(self, recording: Recording) -> Recording:
        """With cameras=pnp the camera that the lifted motion and its keypoints give, beside the true one."""
        if self.extra("cameras", "given", among=("given", "pnp")) == "given" or recording.lifted is None:
            return recording
        rows = slice(*recording.part) if recording.part else slice(None)
        seen = (part[rows] for part in (recording.lifted, recording.keypoints, recording.confidence))
        found = solve_static(*seen, place=recording.id)
        return dataclasses.replace(recording, extrinsics=found.extrinsics, truth_extrinsics=recording.extrinsics)

    def members(self) -> Sequence[base.Member]:
        """One for every clip, part and view. Reads the captions of all clips, and no motion."""
        found = []
        folder = bf.join(self.source, VECTORS)
        # without lists, every clip there is, to be split by trial
        names = self.listed() or [(files.checked_id(name, folder), "") for name in files.stems(folder, ".npy")]
        for name, split in names:
            for clip_id, caption in self._parts(name):
                for view, ending in enumerate(self.views):
                    place = name, caption, view
                    found.append(base.Member(clip_id + ending, name.removeprefix("M"), split, place))
        return found

    def read(self, member: base.Member) -> Recording:
        """The whole clip as one camera saw it, with what to keep of it."""
        name, caption, view = member.place
        place = bf.join(self.source, VECTORS, f"{name}.npy")
        features = torch.from_numpy(files.read_array(place))
        if features.ndim != 2 or features.shape[1] != SMPL22.num_features:
            advice = "KIT-ML's 251 channels are of another skeleton, which is not supported."
            raise self.refuse(place, f"features [T, {SMPL22.num_features}]", list(features.shape), advice)
        self._check_length(len(features), place)
        if not bool(torch.isfinite(features).all()):
            raise self.refuse(place, "numbers", "NaN or infinite ones", "Leave the clip out.")
        captions = [caption] if caption else [c for c in self._captions(name) if c.is_whole]
        self.tagged = tags_of(captions)
        texts = tuple(caption.text for caption in captions)
        seen = self.observed(member.id, texts, positions_of(features, SMPL22), name, view)
        part, lifted = None, None
        if caption:  # the rows of the part, as MDM cuts them
            start, stop = int(caption.start * self.fps), min(int(caption.stop * self.fps), len(features))
            self._check_length(max(stop - start, 0), f"{place}, frames {start} to {stop}")
            part = (start, stop)
        if self.results:
            lifted = base.placed(self._lifted(member, len(seen.keypoints), part), self.lifted_frame, seen.extrinsics)
        return dataclasses.replace(seen, lifted=lifted, truth_features=features, part=part)

    def _parts(self, name: str) -> Iterator[tuple[str, Caption | None]]:
        """Ids of the clips that a clip's captions make, with the caption of a part, None for the whole clip."""
        captions = self._captions(name)
        parts = [caption for caption in captions if not caption.is_whole]
        if len(parts) < len(captions) or not captions:
            yield name, None
        for letter, caption in zip(ascii_uppercase, parts, strict=False):
            yield f"{letter}_{name}", caption

    def _captions(self, name: str) -> list[Caption]:
        place = bf.join(self.source, "texts", f"{name}.txt")
        try:
            return read_captions(place, self.refused) if bf.exists(place) else []
        except DatasetError as error:
            self.refused[place] = str(error)
            return []

    def _check_length(self, frames: int, place: str) -> None:
        if not SHORTEST <= frames <= LONGEST:
            raise self.refuse(place, f"{SHORTEST} to {LONGEST} frames, as MDM reads", frames, "Leave the clip out.")

    def _lifted(self, member: base.Member, frames: int, part: tuple[int, int] | None) -> Tensor:
        """What the lifter outside made of the whole clip, [T + 1, 22, 3], or of its part, then held before and after.

        Results in the camera's axes belong to one view; those in the world's may serve all.
        """
        name, _, view = member.place
        whole = name + self.views[view]
        tried = [*([member.id] if part else []), whole, *([name] if self.lifted_frame == "world" else [])]
        found, lifted = base.read_results(self.results, tuple(dict.fromkeys(tried)), SMPL22.num_joints)
        place = bf.join(self.results, found)
        if part is None or found != member.id:
            return base.as_long_as(lifted, frames, place)
        start, stop = part
        lifted = base.as_long_as(lifted, stop - start + 1, place)
        return lifted[(torch.arange(frames) - start).clamp(0, len(lifted) - 1)]


def positions_of(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Positions [T + 1, J, 3] of all frames that raw features [T, D] hold: the last row's velocities give one more."""
    positions = decode(features, skeleton)
    headings, _ = decode_root(features, skeleton)
    step = features[-1, channels(skeleton).velocities].unflatten(-1, (-1, 3))
    return torch.cat((positions, (positions[-1] + rotate_yaw_together(step, headings[-1])).unsqueeze(0)))


TEACHERS = ("mvlift_vecs", "wham_vecs", "elepose_vecs", "teacher_vecs")  # folders that are looked for
ARRAYS = {
    "keypoints": ("points", "keypoints", "keypoints_2d", "kp2d", "arr_0"),
    "confidence": ("confidence", "conf", "scores"),
    "cameras": ("extrinsics", "camera", "cameras", "arr_0"),
}
"""Names of arrays in .npz files."""
FITS = 0.05  # median distance on the image up to which a true motion counts as seen by this camera
AXES = ("left-up", "right-down")  # where u and v point


class ReleaseImporter(base.Importer):
    """Keypoints, cameras and teachers in the layout of the release."""

    name = "release"
    about = "Keypoints, cameras and lifted vectors in the layout of the paper's release."
    heading = HUMANML3D_FILES
    sources = ("data in the layout of the VideoMDM release",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "keypoints": "folder of the keypoints, keypoints_2d by default",
        "cameras": "folder of the cameras, cameras by default",
        "teacher": f"folder of the teacher's vectors; by default the first of {', '.join(TEACHERS)}",
        "truth": "folder of the true motion's vectors, new_joint_vecs by default; none: leave it out",
        "lifted_name": "what to call the lifter; by default after the folder of its vectors",
        "axes": f"where u and v point: {', '.join(AXES)}",
        "fps": "frames per second, as the source has them; 20 by default",
        "skeleton": "smpl22 or nba16",
    }

    def __init__(self, source: str, options: base.ImportOptions) -> None:
        super().__init__(source, options)
        self.skeleton = by_name(self.extra("skeleton", "smpl22", among=("smpl22", "nba16")))
        self.fps = self.extra_number("fps", 20.0)
        self.teacher = self._teacher()
        self.has_lifter = base.lifter_name(self.teacher.removesuffix("_vecs"), self.extra("lifted_name"))
        sign = -1.0 if self.extra("axes", AXES[0], among=AXES) == AXES[0] else 1.0
        self.roll = torch.tensor((sign, sign, 1.0))

    def members(self) -> Sequence[base.Member]:
        """One for every name in the lists of the splits, or without lists for every teacher."""
        if listed := self.listed():
            return [base.Member(name, name.removeprefix("M"), split) for name, split in listed]
        names = files.stems(self._place(self.teacher), ".npy")
        return [base.Member(files.checked_id(name, self.source)) for name in names]

    def read(self, member: base.Member) -> Recording:
        """The clip with its camera in our axes."""
        place = self._place(self.teacher, f"{member.id}.npy")
        vectors = self._vectors(place)
        points, confidence = self._seen(member.id, len(vectors))
        camera = self._camera(member.id, len(vectors))
        truth = self._truth(member.id, vectors, points, confidence, camera)
        place_of_texts = self._place("texts", f"{member.id}.txt")
        texts = [caption for caption in read_captions(place_of_texts, self.refused) if caption.is_whole]
        self.tagged = tags_of(texts)
        return Recording(
            id=member.id,
            texts=tuple(caption.text for caption in texts),
            fps=self.fps,
            skeleton=self.skeleton,
            keypoints=one_more(points),
            confidence=one_more(confidence),
            extrinsics=camera if camera.ndim == 2 else one_more(camera),
            lifted=positions_of(vectors, self.skeleton),
            truth=None if truth is None else positions_of(truth, self.skeleton),
            source=place,
            truth_features=truth,
            lifted_features=vectors,
        )

    def _place(self, *parts: str) -> str:
        return bf.join(self.source, *parts)

    def _teacher(self) -> str:
        given = self.extra("teacher")
        for name in (given,) if given else TEACHERS:
            if bf.isdir(self._place(name)):
                return name
        expected = f"a folder {given or ', '.join(TEACHERS)} with the teacher's vectors"
        raise self.refuse(self.source, expected, "none", "Name it with --option teacher=FOLDER.")

    def _vectors(self, place: str) -> Tensor:
        vectors, width = torch.from_numpy(files.read_array(place)), self.skeleton.num_features
        if vectors.ndim != 2 or vectors.shape[1] != width or not bool(torch.isfinite(vectors).all()):
            advice = "Raw vectors of HumanML3D's kind are needed, not z-scored ones."
            raise self.refuse(place, f"features [T, {width}] of {self.skeleton.name}", list(vectors.shape), advice)
        return vectors

    def _seen(self, name: str, frames: int) -> tuple[Tensor, Tensor]:
        """Points [T, J, 2] with u right and v down, and confidence [T, J]."""
        arrays, place = self._arrays(self.extra("keypoints", "keypoints_2d"), name)
        points = chosen(arrays, "keypoints", place)
        confidence = next((arrays[key] for key in ARRAYS["confidence"] if key in arrays), None)
        joints = self.skeleton.num_joints
        if points.ndim != 3 or points.shape[1] != joints or points.shape[2] not in (2, 3) or len(points) < frames:
            expected = f"keypoints [{frames} or more, {joints}, 2 or 3]"
            raise self.refuse(place, expected, list(points.shape), "Is it of this clip and skeleton?")
        if confidence is None:
            confidence = points[..., 2] if points.shape[2] == 3 else torch.ones(points.shape[:2])
        return points[:frames, :, :2] * self.roll[:2], confidence[:frames].reshape(frames, joints)

    def _camera(self, name: str, frames: int) -> Tensor:
        """Extrinsics [3, 4] or [T, 3, 4] with x right and y down."""
        arrays, place = self._arrays(self.extra("cameras", "cameras"), name)
        stored = chosen(arrays, "cameras", place)
        if stored.ndim not in (2, 3) or tuple(stored.shape[-2:]) not in ((3, 4), (4, 4)):
            raise self.refuse(place, "[3, 4] or [T, 3, 4]", list(stored.shape), "Write X_camera = R X + t as [R | t].")
        if stored.ndim == 3 and len(stored) < frames:
            raise self.refuse(place, f"{frames} cameras, one a frame", len(stored), "Is it of this clip?")
        rolled = stored[..., :3, :] * self.roll[:, None]
        return rolled[:frames] if stored.ndim == 3 else rolled

    def _truth(self, name: str, teacher: Tensor, points: Tensor, confidence: Tensor, camera: Tensor) -> Tensor | None:
        """The true motion's features where there are any, which this camera must have seen."""
        folder = self.extra("truth", "new_joint_vecs")
        place = self._place(folder, f"{name}.npy")
        if folder == "none" or not bf.exists(place):
            return None
        vectors = self._vectors(place)[: len(teacher)]
        if len(vectors) < len(teacher):
            advice = "Cut both to the same frames, or leave it out with --option truth=none."
            raise self.refuse(place, f"{len(teacher)} frames, as the teacher has", len(vectors), advice)
        seen, _ = project(positions_of(vectors, self.skeleton)[:-1], camera if camera.ndim == 3 else camera[None])
        apart = torch.linalg.vector_norm(seen - points, dim=-1)[confidence > 0]
        if len(apart) and apart.median() > FITS:
            advice = "Its frame is not the camera's: leave it out with --option truth=none, or correct --option axes."
            raise self.refuse(place, "a true motion that falls on its keypoints", f"{apart.median():.3f} off", advice)
        return vectors

    def _arrays(self, folder: str, name: str) -> tuple[dict[str, Tensor], str]:
        """The arrays of FOLDER/NAME.npz, or that of FOLDER/NAME.npy, and the place."""
        place = self._place(folder, f"{name}.npz")
        if bf.exists(place):
            return {key: torch.from_numpy(value) for key, value in files.read_arrays(place, needed=()).items()}, place
        place = self._place(folder, f"{name}.npy")
        return {"arr_0": torch.from_numpy(files.read_array(place))}, place


def chosen(arrays: dict[str, Tensor], what: str, place: str) -> Tensor:
    """The array that has one of the usual names, or the only one."""
    names = [name for name in ARRAYS[what] if name in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not names:
        raise DatasetError(
            f"{place}: expected an array {', '.join(ARRAYS[what])}, found {', '.join(arrays) or 'none'}. Rename it."
        )
    return arrays[names[0]]


def one_more(values: Tensor) -> Tensor:
    """Values [T, ...] with the last frame repeated: a recording has one frame more than its features."""
    return torch.cat((values, values[-1:]))


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer these importers under their names."""
    for importer in (JointsImporter, HumanML3DImporter, ReleaseImporter):
        register(importer.name, importer)
