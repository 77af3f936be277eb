"""Adapters of lifters that ran elsewhere: each description is a fact of the public tool, stated beside it.

Joints: MotionBERT, MVLift, ElePose, MediaPipe and any other in a declared skeleton, as a .npy or `joints` (and perhaps
`fps`) of a .npz. Parameters of a body: WHAM, PHALP and 4D-Humans (SMPL), and GVHMR (SMPL-X), whose model's files are
the user's own (--option lifter.smpl=DIR); without them a .npz with `joints` [T, J, 3], the first 22 of which are
SMPL's, will do. WHAM and GVHMR give the body in the camera of the video, and once more in a level world of their own.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.files import Array
from videomdm_ext.data.video.lifted import Person
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.lifters import pickles
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
    written = ("{}/X3D.npy",)


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

    def tracks(self, path: Path) -> dict[str, dict[str, Array]]:
        """What a file has of everybody in it, by name: turns, moved and betas, or joints, in the frame that is
        declared, perhaps fps; perhaps `frames`, `boxes` [T, 4] and level_turns and level_moved in a level world."""
        raise NotImplementedError("a subclass reads its tool's files")

    def lens(self, path: Path, size: tuple[int, int]) -> Tensor | None:
        """The intrinsics [3, 3] that the tool takes for a video: a focal length as long as the picture's diagonal."""
        focal = math.hypot(*size)
        return torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]], dtype=torch.float64)

    def read(self, path: Path) -> Tensor:
        """The 22 joints [T, 22, 3] of the person who is in the most frames."""
        arrays = max(self.people_in(path).values(), key=lambda track: max(map(len, track.values()), default=0))
        frames = arrays.pop("frames", None)
        if frames is not None and (np.diff(frames) != 1).any():
            what = "frame_ids with gaps"
            raise self.refuse(path, "the person in every frame", what, f"Cut the clip where {self.name} lost him.")
        return self._joints(path, arrays)

    def people(self, video: str, size: tuple[int, int]) -> list[Person]:
        """Everybody in the file about a video."""
        path, found = self.find_video(video), []
        for name, arrays in self.people_in(path).items():
            facts: dict[str, Any] = {"boxes": arrays["boxes"].astype(np.float64)} if "boxes" in arrays else {}
            if "frames" in arrays:
                frames = arrays["frames"].astype(np.int64)
                if len(frames) < 2:
                    continue
                if (np.diff(frames) <= 0).any() or frames[0] < 0:
                    raise self.refuse(path, f"rising numbers of frames for {name}", "others", "Run the tool again.")
                facts |= {"frames": frames, "whole": False}
            if "level_turns" in arrays and "level_moved" in arrays:
                world = {"turns": arrays["level_turns"], "moved": arrays["level_moved"], "betas": arrays.get("betas")}
                facts["level"] = self._joints(path, {k: v for k, v in world.items() if v is not None})
            joints = self._joints(path, arrays)
            rows = {len(joints), *(len(facts[k]) for k in ("boxes", "frames", "level") if k in facts)}
            if len(rows) > 1:
                raise self.refuse(path, f"as many of everything for {name}", sorted(rows), "Run the tool again.")
            found.append(self._person(path, name, joints, lens=self.lens(path, size), **facts))
        if not found:
            raise self.refuse(path, "a person in two frames or more", "none", "Leave the video out.")
        return found

    def people_in(self, path: Path) -> dict[str, dict[str, Array]]:
        """What `tracks` finds in a file; DatasetError where it holds something else, or nobody."""
        try:
            found = self.tracks(path)
        except pickles.BROKEN as error:
            raise self.refuse(path, self.tells, f"something else ({error})", "Run the tool again.") from error
        if not found:
            raise self.refuse(path, self.tells, "nobody", "Leave it out.")
        return found

    def _joints(self, path: Path, arrays: Mapping[str, Array]) -> Tensor:
        """The 22 joints [T, 22, 3] of one person."""
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

    def sources(self) -> list[str]:
        """The file of the body model, where there is one."""
        try:
            return [str(body_models.find_model(self.said.get("smpl", ""), self.kind, "neutral"))]
        except DatasetError:
            return []


class Wham(BodyLifter):
    """WHAM's demo writes NAME/wham_output.pkl: by number of each person pose [T, 72], trans [T, 3] in the camera,
    pose_world and trans_world in a level world of its own with y up, betas [T, 10] (SMPL), and frame_ids of the video.
    """

    name = "wham"
    kind = "smpl"
    tells = "pose, trans and betas (pose_world and trans_world for frame own)"
    written = ("{}/wham_output.npz", "{}/wham_output.pkl")

    def tracks(self, path: Path) -> dict[str, dict[str, Array]]:
        """Those of the camera, or of WHAM's world, which is also the level one."""
        camera = {"pose": "turns", "trans": "moved"}
        world = {"pose_world": "level_turns", "trans_world": "level_moved"}
        if self.description.frame == "own":
            camera, world = {"pose_world": "turns", "trans_world": "moved"}, {}
        names = {**camera, **world, "betas": "betas", "joints": "joints", "frame_ids": "frames", "fps": "fps"}
        if path.suffix == ".npz":
            people = {"the only person": files.read_arrays(str(path), needed=(), optional=tuple(names))}
        else:
            people = {
                f"person {key}": {name: pickles.numbers(values[name]) for name in names if name in values}
                for key, values in pickles.read(str(path)).items()
            }
        for arrays in people.values():
            if "frame_ids" in arrays:
                arrays["frame_ids"] = arrays["frame_ids"].reshape(-1)
        return {who: {names[name]: part for name, part in arrays.items()} for who, arrays in people.items()}


class Phalp(BodyLifter):
    """PHALP's results/demo_NAME.pkl: by the picture of each frame `time`, its number, and lists with an entry a person:
    tid, bbox [4] (left, top, width, height), tracked_time (0 where the person was found) and smpl, with global_orient
    [1, 3, 3], body_pose [23, 3, 3] and betas [10] in a crop around the person; the keypoints place the person.
    """

    name = "phalp"
    kind = "smpl"
    tells = "frames with time, tid, bbox, tracked_time and smpl (global_orient, body_pose, betas)"
    description = Description("smpl22", root="relative")
    changeable: ClassVar[tuple[str, ...]] = ("fps",)
    written = ("demo_{}.pkl", "results/demo_{}.pkl")
    straight = True

    def lens(self, path: Path, size: tuple[int, int]) -> Tensor | None:
        """None: it puts people before a camera of 5000 pixels, whatever the video's."""
        return None

    def tracks(self, path: Path) -> dict[str, dict[str, Array]]:
        """Everybody by the number of the track, in the frames in which he was found."""
        if path.suffix == ".npz":
            names = ("turns", "moved", "betas", "joints", "frames", "boxes", "fps")
            return {"the only person": files.read_arrays(str(path), needed=(), optional=names)}
        found: dict[str, dict[str, list[Any]]] = {}
        for number, one in enumerate(pickles.read(str(path)).values()):
            time = one.get("time", number)
            since = one.get("tracked_time", [0] * len(one["tid"]))
            for tid, box, smpl, lost in zip(one["tid"], one["bbox"], one["smpl"], since, strict=True):
                if lost:
                    continue
                person = found.setdefault(f"track {tid}", {"frames": [], "boxes": [], "turns": [], "betas": []})
                parts = [pickles.numbers(smpl[part]).reshape(-1, 3, 3) for part in ("global_orient", "body_pose")]
                left, top, width, height = pickles.numbers(box).reshape(-1).tolist()
                person["frames"].append(time)
                person["boxes"].append((left, top, left + width, top + height))
                person["turns"].append(np.concatenate(parts))
                person["betas"].append(pickles.numbers(smpl["betas"]).reshape(-1))
        made = {}
        for name, lists in found.items():
            order = np.argsort(lists["frames"], kind="stable")
            made[name] = {key: np.asarray(rows, np.float32)[order] for key, rows in lists.items()}
            made[name]["moved"] = np.zeros((len(order), 3), np.float32)
        return made


class FourDHumans(Phalp):
    """4D-Humans' track.py, which tracks by PHALP: outputs/results/demo_NAME.pkl."""

    name = "4dhumans"


class Gvhmr(BodyLifter):
    """GVHMR's demo writes NAME/hmr4d_results.pt: smpl_params_incam and smpl_params_global, each with body_pose [T, 63],
    global_orient [T, 3], transl [T, 3] and betas [T, 10] (SMPL-X), and K_fullimg [T, 3, 3], the intrinsics; the global
    world is its own, level, y up.
    """

    name = "gvhmr"
    kind = "smplx"
    tells = "global_orient, body_pose, transl and betas"
    endings: ClassVar[tuple[str, ...]] = (".pt", ".npz")
    written = ("{}/hmr4d_results.pt", "{}/hmr4d_results.npz")

    def tracks(self, path: Path) -> dict[str, dict[str, Array]]:
        """Those of the camera, or of GVHMR's world, which is also the level one; of a .npz the only ones."""
        names = ("global_orient", "body_pose", "transl", "betas")
        if path.suffix == ".npz":
            found = files.read_arrays(str(path), needed=(), optional=(*names, "joints", "fps"))
            return {"the only person": self._gathered(path, found)}
        content, own = files.read_tensors(str(path)), self.description.frame == "own"
        made = self._gathered(path, self._plain(content.get(f"smpl_params_{'global' if own else 'incam'}"), names))
        if not own:
            level = self._gathered(path, self._plain(content.get("smpl_params_global"), names))
            made |= {f"level_{name}": level[name] for name in ("turns", "moved") if name in level}
        return {"the only person": made}

    def lens(self, path: Path, size: tuple[int, int]) -> Tensor | None:
        """K_fullimg of the file, where it has one."""
        content = {} if path.suffix == ".npz" else files.read_tensors(str(path))
        found = self._plain(content, ("K_fullimg",)).get("K_fullimg")
        if found is None or found.shape[-2:] != (3, 3) or not found.reshape(-1, 3, 3)[0, 0, 0] > 0:
            return super().lens(path, size)
        return torch.from_numpy(found.reshape(-1, 3, 3)[0]).double()

    def _plain(self, group: Any, names: tuple[str, ...]) -> dict[str, Array]:
        """The tensors of a group, which may be anything, as arrays."""
        parts = {name: group.get(name) for name in names} if isinstance(group, dict) else {}
        tensors = {name: part for name, part in parts.items() if isinstance(part, Tensor)}
        plain = {n: part for n, part in tensors.items() if part.layout == torch.strided and not part.is_complex()}
        return {name: part.detach().float().numpy() for name, part in plain.items()}

    def _gathered(self, path: Path, found: dict[str, Array]) -> dict[str, Array]:
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
    for lifter in (MotionBert, MvLift, ElePose, MediaPipeResults, Joints, Wham, Gvhmr, Phalp, FourDHumans):
        register(lifter.name, lifter)
