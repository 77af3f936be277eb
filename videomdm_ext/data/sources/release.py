"""The importer `release`: data as the paper's released program reads it, its camera axes turned to ours.

SOURCE/keypoints_2d/NAME.npy or .npz    [T, J, 2], or [T, J, 3] with confidence, on the normalised plane
SOURCE/cameras/NAME.npy or .npz         [3, 4], [4, 4], [T, 3, 4] or [T, 4, 4]
SOURCE/mvlift_vecs/NAME.npy             [T, D] the teacher's features; or wham_vecs, or --option teacher=FOLDER
SOURCE/new_joint_vecs/NAME.npy          [T, D] the true motion's features (optional)
SOURCE/texts/NAME.txt                   captions; train.txt, val.txt and test.txt the splits

There u points left and v up, and there are no intrinsics (METHOD 1): camera and image are rolled by 180 degrees about
the viewing axis. The cameras stand in the frame that the teacher decodes to. The stored vectors are kept bit for bit.
A true motion has the same camera only where both start alike, so it is kept where it falls on the keypoints.
Folders have other names through options, and files in .npz hold one array or those named below.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.sources.base import Importer, ImportOptions, Member, lifter_name
from videomdm_ext.data.sources.humanml3d import positions_of
from videomdm_ext.data.texts import read_captions, tags_of
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.kinematics import HUMANML3D_FILES
from videomdm_ext.motion.skeletons import by_name

TEACHERS = ("mvlift_vecs", "wham_vecs", "elepose_vecs", "teacher_vecs")  # folders that are looked for
ARRAYS = {
    "keypoints": ("points", "keypoints", "keypoints_2d", "kp2d", "arr_0"),
    "confidence": ("confidence", "conf", "scores"),
    "cameras": ("extrinsics", "camera", "cameras", "arr_0"),
}
"""Names of arrays in .npz files."""
FITS = 0.05  # median distance on the image up to which a true motion counts as seen by this camera
AXES = ("left-up", "right-down")  # where u and v point


class ReleaseImporter(Importer):
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

    def __init__(self, source: str, options: ImportOptions) -> None:
        super().__init__(source, options)
        self.skeleton = by_name(self.extra("skeleton", "smpl22", among=("smpl22", "nba16")))
        self.fps = self.extra_number("fps", 20.0)
        self.teacher = self._teacher()
        self.has_lifter = lifter_name(self.teacher.removesuffix("_vecs"), self.extra("lifted_name"))
        sign = -1.0 if self.extra("axes", AXES[0], among=AXES) == AXES[0] else 1.0
        self.roll = torch.tensor((sign, sign, 1.0))

    def members(self) -> Sequence[Member]:
        """One for every name in the lists of the splits, or without lists for every teacher."""
        if listed := self.listed():
            return [Member(name, name.removeprefix("M"), split) for name, split in listed]
        names = files.stems(self._place(self.teacher), ".npy")
        return [Member(files.checked_id(name, self.source)) for name in names]

    def read(self, member: Member) -> Recording:
        """The clip with its camera in our axes."""
        place = self._place(self.teacher, f"{member.id}.npy")
        vectors = self._vectors(place)
        points, confidence = self._seen(member.id, len(vectors))
        camera = self._camera(member.id, len(vectors))
        truth = self._truth(member.id, vectors, points, confidence, camera)
        texts = [caption for caption in read_captions(self._place("texts", f"{member.id}.txt")) if caption.is_whole]
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
    """Offer this importer under its name."""
    register(ReleaseImporter.name, ReleaseImporter)
