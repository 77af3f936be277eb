"""Adapters of lifters that write joints: MotionBERT, MVLift, ElePose, MediaPipe, and any other in a declared skeleton.

Each description is a fact of the public tool, told beside it. All take a .npy, or `joints` (and perhaps `fps`)
of a .npz.
"""

from typing import ClassVar

from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.lifters.results import OPTIONS, Description, ResultsLifter


class MotionBert(ResultsLifter):
    """X3D.npy of MotionBERT's infer_wild.py: [T, 17, 3] in H36M's order at the video's rate.

    Coordinates are those of the image made to fit -1 to 1 (or pixels, with --pixel): x right, y down, z away, of no
    metric scale, and without the distance to the camera; the keypoints place the person.
    """

    name = "motionbert"
    description = Description("h36m17", scale="arbitrary", root="relative")
    changeable = ("fps",)
    written = ("X3D.npy",)


class MvLift(ResultsLifter):
    """MVLift (multi-view consistent lifting by diffusion): the 22 joints of SMPL, metres.

    Its world has its own origin and heading: level, y up. Say lifter.frame=camera for joints in the camera's axes, or
    world where they were taken into the clip's world already.
    """

    name = "mvlift"
    description = Description("smpl22", up_axis="y", frame="own")
    changeable = ("fps", "frame", "up", "root", "scale")


class ElePose(ResultsLifter):
    """ElePose: H36M's 17 joints (16 without the nose: lifter.skeleton=h36m16) about the root, of no metric scale.

    Poses in the camera's axes, x right, y down, z away, as its network takes them in and gives them out.
    """

    name = "elepose"
    description = Description("h36m17", scale="arbitrary", root="relative")
    changeable = ("fps", "skeleton", "up")


class MediaPipeResults(ResultsLifter):
    """MediaPipe's pose world landmarks: 33 joints about the hips, x right, y down, z away from the camera.

    They are meant to be metres, of a person of the size that the model expects.
    """

    name = "mediapipe"
    description = Description("blazepose33", root="relative")
    changeable = ("fps", "scale")


class Joints(ResultsLifter):
    """Joints of any lifter; the options say what they are. Undeclared: 22 joints of SMPL, metres, camera's axes."""

    name = "joints"
    description = Description("smpl22")
    changeable: ClassVar[tuple[str, ...]] = tuple(OPTIONS)


@hookimpl
def register_lifters(register: Register) -> None:
    """Offer these lifters under their names."""
    for lifter in (MotionBert, MvLift, ElePose, MediaPipeResults, Joints):
        register(lifter.name, lifter)
