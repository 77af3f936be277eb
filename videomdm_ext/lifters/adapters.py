"""Adapters of lifters that ran elsewhere: each description is a fact of the public tool, stated beside it.

Joints: MotionBERT, MVLift, ElePose, MediaPipe and any other in a declared skeleton, as a .npy or `joints` (and perhaps
`fps`) of a .npz. Parameters of a body: WHAM (SMPL) and GVHMR (SMPL-X), whose model's files are the user's own (--option
lifter.smpl=DIR); without them a .npz with `joints` [T, J, 3], the first 22 of which are SMPL's, will do. Both tools
give the body in the camera of the video, and once more in a level world of their own.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.files import Array
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.lifters.results import OPTIONS, Description, ResultsLifter
from videomdm_ext.motion import body_models
from videomdm_ext.motion.body_models import BODY_JOINTS, BodyModel


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


ADVICE = "Name the folder of the body model's files with --option lifter.smpl=DIR, or write `joints` [T, 22, 3]."


class BodyLifter(ResultsLifter):
    """Joints from parameters of a body of one `kind`; the body has one shape, the median over the frames."""

    name = "body"
    description = Description("smpl22")
    changeable: ClassVar[tuple[str, ...]] = ("fps", "frame", "root")
    own: ClassVar[Mapping[str, str]] = {"smpl": "folder of the body model's files"}
    endings: ClassVar[tuple[str, ...]] = (".npz",)
    kind: ClassVar[str]
    tells: ClassVar[str]  # what a file should hold, in words

    def parameters(self, path: Path) -> dict[str, Array]:
        """What a file has of turns, moved and betas, or joints, in the frame that is declared; perhaps fps."""
        raise NotImplementedError("a subclass reads its tool's files")

    def read(self, path: Path) -> Tensor:
        """The 22 joints [T, 22, 3]."""
        arrays = self.parameters(path)
        self.check_rate(path, arrays)
        if "joints" in arrays:
            joints = torch.from_numpy(arrays["joints"])
            return joints[:, :BODY_JOINTS] if joints.ndim == 3 else joints
        missing = [name for name in ("turns", "moved", "betas") if name not in arrays]
        if missing:
            advice = "Run the tool again; of its two worlds, choose with --option lifter.frame=camera or own."
            raise self.refuse(path, f"{self.tells} in frame {self.description.frame}", f"no {missing[0]}", advice)
        if not self.said.get("smpl"):
            raise self.refuse(path, "a body model for its parameters", "none", ADVICE)
        turns, moved = self._turns(path, arrays["turns"]), torch.from_numpy(arrays["moved"]).double()
        betas = torch.from_numpy(arrays["betas"]).double()
        if tuple(moved.shape) != (len(turns), 3) or betas.ndim > 2 or not betas.numel():
            found = f"{list(moved.shape)} and {list(betas.shape)}"
            raise self.refuse(path, f"places [{len(turns)}, 3] and betas [T, 10]", found, "Run the tool again.")
        shape = betas.reshape(-1, betas.shape[-1]).median(0).values
        return body_models.posed(self._model.rest(shape), turns, moved)

    def _turns(self, path: Path, values: Array) -> Tensor:
        """Rotations [T, 22, 3, 3] of the first joints, from vectors [T, 3 K], [T, K, 3] or matrices [T, K, 3, 3]."""
        found = torch.from_numpy(values).double()
        if found.ndim == 2 and found.shape[1] % 3 == 0:
            found = found.unflatten(1, (-1, 3))
        sizes = tuple(found.shape)
        if len(sizes) not in (3, 4) or sizes[1] < BODY_JOINTS or set(sizes[2:]) != {3}:
            expected = f"turns [T, {3 * BODY_JOINTS} or more] or [T, {BODY_JOINTS} or more, 3, 3]"
            raise self.refuse(path, expected, list(values.shape), "Run the tool again.")
        found = found[:, :BODY_JOINTS]
        if not bool(torch.isfinite(found).all()):
            raise self.refuse(path, "numbers", "NaN or infinity among the turns", "Run the tool again.")
        return found if found.ndim == 4 else roma.rotvec_to_rotmat(found)

    @cached_property
    def _model(self) -> BodyModel:
        path = body_models.find_model(self.said["smpl"], self.kind, "neutral")
        return body_models.read_model(path, files.read_only)


class Wham(BodyLifter):
    """WHAM's demo writes wham_output.pkl: for each person pose [T, 72], trans [T, 3] in the camera, pose_world and
    trans_world in a level world of its own with y up, betas [T, 10] (SMPL), and frame_ids of the video.
    """

    name = "wham"
    kind = "smpl"
    tells = "pose, trans and betas (pose_world and trans_world for frame own)"
    written = ("wham_output.npz",)
    pickles: ClassVar[Mapping[str, str]] = {
        "wham_output.pkl": "python -c \"import joblib, numpy; people = joblib.load('PICKLE').values(); "
        "person = max(people, key=lambda p: len(p['frame_ids'])); numpy.savez('TARGET', **{k: person[k] for k in "
        "('pose', 'trans', 'pose_world', 'trans_world', 'betas', 'frame_ids')})\""
    }

    def parameters(self, path: Path) -> dict[str, Array]:
        """Those of the camera, or of WHAM's world."""
        end = "_world" if self.description.frame == "own" else ""
        names = {f"pose{end}": "turns", f"trans{end}": "moved"}
        found = files.read_arrays(str(path), needed=(), optional=(*names, "betas", "joints", "frame_ids", "fps"))
        frames = found.pop("frame_ids", None)
        if frames is not None and (frames.reshape(-1)[1:] - frames.reshape(-1)[:-1] != 1).any():
            what = "frame_ids with gaps"
            raise self.refuse(path, "the person in every frame", what, "Cut the clip where WHAM lost the person.")
        return {names.get(name, name): values for name, values in found.items()}


class Gvhmr(BodyLifter):
    """GVHMR's demo writes hmr4d_results.pt: smpl_params_incam and smpl_params_global, each with body_pose [T, 63],
    global_orient [T, 3], transl [T, 3] and betas [T, 10] (SMPL-X); the global world is its own, level, y up.
    """

    name = "gvhmr"
    kind = "smplx"
    tells = "global_orient, body_pose, transl and betas"
    endings: ClassVar[tuple[str, ...]] = (".pt", ".npz")
    written = ("hmr4d_results.pt", "hmr4d_results.npz")

    def parameters(self, path: Path) -> dict[str, Array]:
        """Those of the camera, or of GVHMR's world; of a .npz the only ones, with these four names."""
        names = ("global_orient", "body_pose", "transl", "betas")
        if path.suffix == ".npz":
            found = files.read_arrays(str(path), needed=(), optional=(*names, "joints", "fps"))
        else:
            group = files.read_tensors(str(path)).get(
                f"smpl_params_{'global' if self.description.frame == 'own' else 'incam'}"
            )
            parts = {name: group.get(name) for name in names} if isinstance(group, dict) else {}
            tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
            plain = {n: part for n, part in tensors.items() if part.layout == torch.strided and not part.is_complex()}
            found = {name: part.detach().float().numpy() for name, part in plain.items()}
        if "global_orient" in found and "body_pose" in found:
            root, body = found.pop("global_orient"), found.pop("body_pose")
            if not root.ndim or not body.ndim or len(root) != len(body):
                what = f"{list(root.shape)} and {list(body.shape)}"
                raise self.refuse(path, "as many turns of the root as of the body", what, "Run the tool again.")
            found["turns"] = np.concatenate([part.reshape(len(part), -1) for part in (root, body)], 1)
        return {"moved" if name == "transl" else name: values for name, values in found.items()}


@hookimpl
def register_lifters(register: Register) -> None:
    """Offer these lifters under their names."""
    for lifter in (MotionBert, MvLift, ElePose, MediaPipeResults, Joints, Wham, Gvhmr):
        register(lifter.name, lifter)
