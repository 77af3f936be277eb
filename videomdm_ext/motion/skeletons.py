"""Skeletons: joint names, chains and rest directions. Canonical frame: y up, facing +z, the person's left is +x."""

from dataclasses import dataclass
from functools import cached_property

from videomdm_ext.errors import ConfigError

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_RIGHT, _DOWN = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)


@dataclass(frozen=True)
class Bone:
    """A joint, its parent and the direction of the bone from the parent in the rest pose."""

    joint: str
    parent: str | None
    rest: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Skeleton:
    """A tree of J joints in file order; joint 0 is the root.

    `chain_starts` names joints whose rotation is relative to the root's heading instead of at their parent bone, as
    HumanML3D does also for the arms. `face` holds (right hip, left hip, right shoulder, left shoulder).
    `contacts` holds the four joints of the contact channels: left, left, right, right.
    """

    name: str
    bones: tuple[Bone, ...]
    chain_starts: tuple[str, ...]
    face: tuple[str, str, str, str]
    contacts: tuple[str, str, str, str]

    @cached_property
    def joints(self) -> tuple[str, ...]:
        return tuple(bone.joint for bone in self.bones)

    def index(self, joint: str) -> int:
        return self.joints.index(joint)

    @property
    def num_joints(self) -> int:
        return len(self.bones)

    @property
    def num_features(self) -> int:
        """Channels D = 12 J - 1 of the HumanML3D vector."""
        return 12 * self.num_joints - 1

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of every joint, -1 for the root."""
        return tuple(-1 if bone.parent is None else self.index(bone.parent) for bone in self.bones)

    @cached_property
    def rotation_parents(self) -> tuple[int, ...]:
        """Joint whose bone rotation the bone's local rotation is relative to; 0 is the root's heading."""
        starts = {self.index(joint) for joint in self.chain_starts}
        return tuple(0 if j in starts else max(parent, 0) for j, parent in enumerate(self.parents))

    @cached_property
    def rest_directions(self) -> tuple[tuple[float, float, float], ...]:
        return tuple(bone.rest for bone in self.bones)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """mirror[j] is the joint on the other side (j itself on the midline)."""
        return tuple(self.index(_other_side(joint)) for joint in self.joints)

    @cached_property
    def face_joints(self) -> tuple[int, int, int, int]:
        right_hip, left_hip, right_shoulder, left_shoulder = (self.index(joint) for joint in self.face)
        return right_hip, left_hip, right_shoulder, left_shoulder

    @cached_property
    def contact_joints(self) -> tuple[int, ...]:
        return tuple(self.index(joint) for joint in self.contacts)


def _other_side(joint: str) -> str:
    if joint.startswith("l_"):
        return "r_" + joint[2:]
    return "l_" + joint[2:] if joint.startswith("r_") else joint


SMPL22 = Skeleton(
    name="smpl22",
    bones=(
        Bone("pelvis", None),
        Bone("l_hip", "pelvis", _X),
        Bone("r_hip", "pelvis", _RIGHT),
        Bone("spine1", "pelvis", _Y),
        Bone("l_knee", "l_hip", _DOWN),
        Bone("r_knee", "r_hip", _DOWN),
        Bone("spine2", "spine1", _Y),
        Bone("l_ankle", "l_knee", _DOWN),
        Bone("r_ankle", "r_knee", _DOWN),
        Bone("spine3", "spine2", _Y),
        Bone("l_foot", "l_ankle", _Z),
        Bone("r_foot", "r_ankle", _Z),
        Bone("neck", "spine3", _Y),
        Bone("l_collar", "spine3", _X),
        Bone("r_collar", "spine3", _RIGHT),
        Bone("head", "neck", _Z),
        Bone("l_shoulder", "l_collar", _DOWN),
        Bone("r_shoulder", "r_collar", _DOWN),
        Bone("l_elbow", "l_shoulder", _DOWN),
        Bone("r_elbow", "r_shoulder", _DOWN),
        Bone("l_wrist", "l_elbow", _DOWN),
        Bone("r_wrist", "r_elbow", _DOWN),
    ),
    chain_starts=("l_hip", "r_hip", "spine1", "l_collar", "r_collar"),
    face=("r_hip", "l_hip", "r_shoulder", "l_shoulder"),
    contacts=("l_ankle", "l_foot", "r_ankle", "r_foot"),
)

NBA16 = Skeleton(
    name="nba16",
    bones=(
        Bone("pelvis", None),
        Bone("r_hip", "pelvis", _RIGHT),
        Bone("r_knee", "r_hip", _DOWN),
        Bone("r_ankle", "r_knee", _DOWN),
        Bone("l_hip", "pelvis", _X),
        Bone("l_knee", "l_hip", _DOWN),
        Bone("l_ankle", "l_knee", _DOWN),
        Bone("neck", "pelvis", _Y),
        Bone("nose", "neck", _Z),
        Bone("head", "nose", _Y),
        Bone("l_shoulder", "neck", _X),
        Bone("l_elbow", "l_shoulder", _DOWN),
        Bone("l_wrist", "l_elbow", _DOWN),
        Bone("r_shoulder", "neck", _RIGHT),
        Bone("r_elbow", "r_shoulder", _DOWN),
        Bone("r_wrist", "r_elbow", _DOWN),
    ),
    chain_starts=("r_hip", "l_hip", "neck", "l_shoulder", "r_shoulder"),
    face=("r_hip", "l_hip", "r_shoulder", "l_shoulder"),
    contacts=("l_ankle", "l_ankle", "r_ankle", "r_ankle"),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (SMPL22, NBA16)}


def by_name(name: str) -> Skeleton:
    """The skeleton called `name`; ConfigError lists the known ones."""
    if name not in SKELETONS:
        raise ConfigError(f"skeleton {name!r}: expected one of {', '.join(SKELETONS)}. Correct the dataset card.")
    return SKELETONS[name]
