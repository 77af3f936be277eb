"""The importer `nba`: the basketball sequences of MAS, 16 joints in 2D, with a lifter's 3D beside them.

SOURCE/motions/NAME.npy    [T, 16, 3]: x to the right, y up, confidence; 60 fps; the hip at (0, 0) in every frame
--option lifted=DIR        DIR/NAME.npy [T, 16, 3], or [T, 17, 3] with a torso at 7, as ElePose and MotionBERT give

MAS names the joints Hip, RHip, RKnee, RAnkle, LHip, LKnee, LAnkle, Neck, Nose, Head, LShoulder, LElbow, LWrist,
RShoulder, RElbow, RWrist: the order of `nba16`. Its 3D has x to the right, y up and z away from the camera, which are
left-handed axes: read as right-handed ones they make every player his own mirror image, left where right should be.
So depth is turned round here, and whether right is right is then checked on the body: knees bend ahead, noses point
ahead. Nothing in flat 2D alone could tell a person's front from the mirror image of his back.

There is no true motion and no metric scale. Players get the height of --option height metres; the lifter's scale is
fitted to the 2D, and the parallel projection becomes a pinhole camera 50 m away. Every second frame is kept: 30 fps.
The first tenth of the sorted names is the test split, as in MAS, which takes the order of the file system.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.sources.base import Importer, ImportOptions, Member, as_long_as, read_results
from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import orbit, to_world
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.skeletons import NBA16

STRIDE = 2  # of 60 frames a second, every second one
DISTANCE = 50.0  # metres to the camera; half a metre towards it changes the image by 1 %
STATURE = 0.76  # hip to neck plus hip to ankle, as a share of a person's height
ANKLE = 0.1  # height of an ankle above the floor, m
AXES = {"right-up-away": (1.0, -1.0, 1.0), "right-down-away": (1.0, 1.0, 1.0), "right-up-near": (1.0, -1.0, -1.0)}
"""Axes of a lifter's results: what to multiply them with to get the camera's right, down, away."""
TORSO = 7  # the joint of lifters' 17 that MAS leaves out
CAPTION = "a person plays basketball."


class NBAImporter(Importer):
    """MAS's sequences with the results of a lifter."""

    name = "nba"
    about = "The basketball sequences of MAS (2D), with a lifter's results: --option lifted=DIR."
    skeleton = NBA16
    fps = 30.0
    licence = "as MAS (Kapon et al. 2024) gives it out"
    sources = ("NBA sequences of MAS (Kapon et al. 2024)",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "lifted": "folder of a lifter's joints, NAME.npy; needed",
        "lifted_name": "what to call that lifter; by default after the folder",
        "lifted_axes": f"{', '.join(AXES)}; MotionBERT's are right-down-away",
        "height": "metres from a player's soles to the crown, 2.0 by default",
        "elevation": "degrees by which the camera looks down, 0 by default",
    }

    def __init__(self, source: str, options: ImportOptions) -> None:
        super().__init__(source, options)
        if not self.results:
            raise ConfigError(
                "data import nba: expected --option lifted=DIR with a lifter's joints, for the source has no 3D, found "
                "none. MAS gives out ElePose's results."
            )
        self.axes = torch.tensor(AXES[self.extra("lifted_axes", "right-up-away", among=tuple(AXES))])
        self.elevation = math.radians(self.extra_number("elevation", 0.0, least=0.0))

    def members(self) -> Sequence[Member]:
        """One for every sequence, sorted; the first tenth is for testing."""
        names = [files.checked_id(name, self._folder) for name in files.stems(self._folder, ".npy")]
        splits = ["test" if place < len(names) // 10 else "train" for place in range(len(names))]
        return [Member(name, name, split, name) for name, split in zip(names, splits, strict=True)]

    def caption_names(self, member: Member) -> Sequence[str]:
        """Its id."""
        return (member.id,)

    def read(self, member: Member) -> Recording:
        """The sequence before a far camera, in metres."""
        points, confidence = self._seen(bf.join(self._folder, f"{member.place}.npy"))
        body = self._lifted(member.place, points, confidence)
        unit = self.extra_number("height", 2.0) * STATURE / size_of(body)
        lifted, camera = self._placed(body * unit, points[:, :1] * unit)
        vote = facing_vote(lifted)
        if vote < 0:  # it is a mirror image
            advice = "Its left and right, or its depth, are exchanged: try another --option lifted_axes."
            raise self.refuse(member.id, "knees and a nose ahead of the body", f"them behind it ({vote:.2f})", advice)
        return Recording(
            id=member.id,
            texts=self.given(*self.caption_names(member)) or (CAPTION,),
            fps=self.fps,
            skeleton=NBA16,
            keypoints=points * (unit / DISTANCE),
            confidence=confidence,
            extrinsics=camera,
            lifted=lifted,
            source=bf.join("motions", member.id),
        )

    @property
    def _folder(self) -> str:
        inner = bf.join(self.source, "motions")
        return inner if bf.isdir(inner) else self.source

    def _seen(self, place: str) -> tuple[Tensor, Tensor]:
        """Points [T, 16, 2], x right and y down, in the source's unit, and confidence [T, 16]; 30 fps."""
        stored = torch.from_numpy(files.read_array(place))[::STRIDE]
        if stored.ndim != 3 or stored.shape[1] != NBA16.num_joints or stored.shape[2] not in (2, 3) or len(stored) < 3:
            advice = "Is it a sequence of MAS's NBA set?"
            raise self.refuse(place, "[T, 16, 3] or [T, 16, 2]", list(stored.shape), advice)
        found = torch.isfinite(stored).all(-1)
        stored = torch.where(found.unsqueeze(-1), stored, 0.0)
        confidence = stored[..., 2].clamp(0, 1) if stored.shape[2] == 3 else torch.ones(stored.shape[:2])
        return stored[..., :2] * torch.tensor((1.0, -1.0)), confidence * found

    def _lifted(self, name: str, points: Tensor, confidence: Tensor) -> Tensor:
        """Joints [T, 16, 3] about the hip, right, down, away, scaled to the points' unit."""
        joints = NBA16.num_joints
        _, lifted = read_results(self.results, (name,), joints, joints + 1)
        if lifted.shape[1] > joints:
            lifted = lifted[:, [joint for joint in range(joints + 1) if joint != TORSO]]
        body = as_long_as(lifted[::STRIDE], len(points), bf.join(self.results, name)) * self.axes
        body = body - body[:, :1]
        flat, seen = body[..., :2], points - points[:, :1]
        weight = confidence.unsqueeze(-1)
        size = (weight * flat.square()).sum().clamp_min(1e-9)
        scale = (weight * flat * seen).sum() / size
        spread = (weight * seen.square()).sum().clamp_min(1e-9)
        fit = float(scale.square() * size / spread)
        if not (scale > 0 and fit > 0.5):
            advice = f"Is it of this sequence, with {joints} joints in this order and axes {self.extra('lifted_axes')}?"
            raise self.refuse(name, "a lifted motion that falls on its 2D", f"{fit:.0%} of it explained", advice)
        return body * scale

    def _placed(self, body: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
        """Joints [T, 16, 3] in a world with y up and the floor at 0, and the camera [3, 4] there. Metres."""
        across = torch.nn.functional.pad(root, (0, 1))
        seen = body + across + torch.tensor((0.0, 0.0, DISTANCE))
        azimuth, elevation, distance = torch.tensor((0.0, self.elevation, DISTANCE)).unbind()
        level = orbit(azimuth, elevation, distance, torch.zeros(3))
        world = to_world(seen, level.unsqueeze(0))
        ankles = world[:, [NBA16.index("l_ankle"), NBA16.index("r_ankle")], 1]
        floor = torch.quantile(ankles.flatten(), 0.05) - ANKLE
        up = torch.tensor((0.0, 1.0, 0.0))
        return world - floor * up, torch.cat((level[:, :3], level[:, 3:] + floor * level[:, 1:2]), 1)


def size_of(body: Tensor) -> float:
    """Median of hip to neck plus hip to ankle of a body [T, 16, 3]."""
    joint = NBA16.index
    bones = [("pelvis", "neck", 1.0)]
    bones += [(f"{s}_{a}", f"{s}_{b}", 0.5) for s in "lr" for a, b in (("hip", "knee"), ("knee", "ankle"))]
    lengths = [share * torch.linalg.vector_norm(body[:, joint(a)] - body[:, joint(b)], dim=-1) for a, b, share in bones]
    return float(torch.stack(lengths).sum(0).median())


def facing_vote(body: Tensor) -> float:
    """How far knees and nose are ahead of a body [T, 16, 3], mean over the frames, in shares of a leg; y up.

    Ahead is up x (right - left), with up along the back.
    """
    joint = NBA16.index
    up = body[:, joint("neck")] - body[:, 0]
    across = body[:, joint("r_hip")] - body[:, joint("l_hip")]
    across = across + body[:, joint("r_shoulder")] - body[:, joint("l_shoulder")]
    ahead = torch.nn.functional.normalize(torch.linalg.cross(up, across, dim=-1), dim=-1)
    total = torch.zeros(len(body))
    for side in "lr":
        hip, knee, ankle = (body[:, joint(f"{side}_{name}")] for name in ("hip", "knee", "ankle"))
        total += ((knee - (hip + ankle) / 2) * ahead).sum(-1)
    nose = body[:, joint("nose")] - (body[:, joint("neck")] + body[:, joint("head")]) / 2
    total += (nose * ahead).sum(-1)
    return float(total.mean()) / size_of(body)


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(NBAImporter.name, NBAImporter)
