"""The importer `humanml3d`: the official folder, its motion seen by seeded orbit cameras, its feature vectors kept.

SOURCE/new_joint_vecs/NAME.npy    [T, 263], written as the truth bit for bit
SOURCE/texts/NAME.txt             captions; one that names a time is a clip of its own, A_NAME, B_NAME ...
SOURCE/train.txt val.txt test.txt names

As in MDM, clips and parts of fewer than 40 or more than 199 frames are left out. The cameras stand in the world that
the vectors decode to. A teacher is made by the same rules as the files (`HUMANML3D_FILES`); a part of a clip is cut
from the vectors of the whole clip, truth and teacher alike.

A real lifter works on 2D, so there are two passes: import once, lift DIR/keypoints_2d, then import again with the same
seed and views and with --option lifted=RESULTS, joints [T, 22, 3] a clip in RESULTS/ID.npy.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.sources.base import (
    FRAMES_OF,
    Importer,
    ImportOptions,
    Member,
    as_long_as,
    lifter_name,
    placed,
    read_results,
)
from videomdm_ext.data.synthetic_camera import observe, own_generator
from videomdm_ext.data.texts import Caption, read_captions, tags_of
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.features import channels, decode, decode_root
from videomdm_ext.motion.kinematics import HUMANML3D_FILES
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

SHORTEST, LONGEST = 40, 199  # frames of the clips that MDM reads
VECTORS = "new_joint_vecs"


class HumanML3DImporter(Importer):
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
    }

    def __init__(self, source: str, options: ImportOptions) -> None:
        super().__init__(source, options)
        self.results = self.extra("lifted")
        if self.results:
            self.has_lifter = lifter_name(self.results, self.extra("lifted_name"))
        self.lifted_frame = self.extra("lifted_frame", "camera", among=FRAMES_OF)

    def members(self) -> Sequence[Member]:
        """One for every clip, part and view. Reads the captions of all clips, and no motion."""
        found = []
        folder = bf.join(self.source, VECTORS)
        # without lists, every clip there is, to be split by trial
        names = self.listed() or [(files.checked_id(name, folder), "") for name in files.stems(folder, ".npy")]
        for name, split in names:
            for clip_id, caption in self._parts(name):
                for view in range(self.options.views):
                    own = clip_id if self.options.views == 1 else f"{clip_id}_v{view}"
                    found.append(Member(own, name.removeprefix("M"), split, (name, caption, view)))
        return found

    def read(self, member: Member) -> Recording:
        """The whole clip as one camera saw it, with what to keep of it."""
        name, caption, view = member.place
        place = bf.join(self.source, VECTORS, f"{name}.npy")
        features = torch.from_numpy(files.read_array(place))
        self._check(features, place)
        captions = [caption] if caption else [c for c in self._captions(name) if c.is_whole]
        self.tagged = tags_of(captions)
        seen = observe(
            member.id,
            tuple(caption.text for caption in captions),
            positions_of(features, SMPL22),
            skeleton=SMPL22,
            fps=self.fps,
            optics=self.options.optics,
            draw=own_generator(self.name, self.options.seed, name, view),
        )
        part = self._rows(caption, len(features), place) if caption else None
        lifted = None
        if self.results:
            lifted = placed(self._lifted(member, len(seen.keypoints), part), self.lifted_frame, seen.extrinsics)
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
        return read_captions(place) if bf.exists(place) else []

    def _check(self, features: Tensor, place: str) -> None:
        width = SMPL22.num_features
        if features.ndim != 2 or features.shape[1] != width:
            advice = "KIT-ML's 251 channels are of another skeleton, which is not supported."
            raise self.refuse(place, f"features [T, {width}]", list(features.shape), advice)
        self._check_length(len(features), place)
        if not bool(torch.isfinite(features).all()):
            raise self.refuse(place, "numbers", "NaN or infinite ones", "Leave the clip out.")

    def _check_length(self, frames: int, place: str) -> None:
        if not SHORTEST <= frames <= LONGEST:
            raise self.refuse(place, f"{SHORTEST} to {LONGEST} frames, as MDM reads", frames, "Leave the clip out.")

    def _rows(self, caption: Caption, frames: int, place: str) -> tuple[int, int]:
        """The rows of a caption's part, as MDM cuts them."""
        start, stop = int(caption.start * self.fps), min(int(caption.stop * self.fps), frames)
        self._check_length(max(stop - start, 0), f"{place}, frames {start} to {stop}")
        return start, stop

    def _lifted(self, member: Member, frames: int, part: tuple[int, int] | None) -> Tensor:
        """What the lifter outside made of the whole clip, [T + 1, 22, 3], or of its part, then held before and after.

        Results in the camera's axes belong to one view; those in the world's may serve all.
        """
        name, _, view = member.place
        whole = name if self.options.views == 1 else f"{name}_v{view}"
        shared = (name,) if self.lifted_frame == "world" else ()
        tried = tuple(dict.fromkeys((*((member.id,) if part else ()), whole, *shared)))
        found, lifted = read_results(self.results, tried, SMPL22.num_joints)
        place = bf.join(self.results, found)
        if part is None or found != member.id:
            return as_long_as(lifted, frames, place)
        start, stop = part
        lifted = as_long_as(lifted, stop - start + 1, place)
        return lifted[(torch.arange(frames) - start).clamp(0, len(lifted) - 1)]


def positions_of(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Positions [T + 1, J, 3] of all frames that raw features [T, D] hold: the last row's velocities give one more."""
    positions = decode(features, skeleton)
    headings, _ = decode_root(features, skeleton)
    step = features[-1, channels(skeleton).velocities].unflatten(-1, (-1, 3))
    return torch.cat((positions, (positions[-1] + rotate_yaw_together(step, headings[-1])).unsqueeze(0)))


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(HumanML3DImporter.name, HumanML3DImporter)
