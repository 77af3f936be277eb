"""Results in the layouts of public lifters, written from known motion in numpy."""

from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

NAMES = (
    *("pelvis", "l_hip", "r_hip", "spine1", "l_knee", "r_knee", "spine2", "l_ankle", "r_ankle", "spine3", "l_foot"),
    *("r_foot", "neck", "l_collar", "r_collar", "head", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist"),
    "r_wrist",
)
"""SMPL's 22 joints, written out."""
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)  # its tree
LEGS = ("hips", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle")
ARMS = ("l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist")
H36M = (*LEGS, "spine", "thorax", "nose", "crown", *ARMS)
NBA = (*LEGS, "thorax", "nose", "crown", *ARMS)
BLAZE = (
    *("nose", "l_eye_inner", "l_eye", "l_eye_outer", "r_eye_inner", "r_eye", "r_eye_outer", "l_ear", "r_ear"),
    *("l_mouth", "r_mouth", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow", "l_wrist", "r_wrist", "l_pinky"),
    *("r_pinky", "l_index", "r_index", "l_thumb", "r_thumb", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle"),
    *("r_ankle", "l_heel", "r_heel", "l_toe", "r_toe"),
)


def into_camera(world: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """X_c = R X + t, frame by frame. [T, J, 3] with [3, 4] or [T, 3, 4]"""
    camera = np.broadcast_to(camera, (len(world), 3, 4))
    return np.einsum("tij,tkj->tki", camera[:, :, :3], world) + camera[:, None, :, 3]


def seen(world: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Keypoints [T, J, 2] on the normalised plane."""
    x, y, z = np.moveaxis(into_camera(world, camera), -1, 0)
    return np.stack((x / z, y / z), -1)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """About +y, z towards x."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack((np.cos(angle) * x + np.sin(angle) * z, y, np.cos(angle) * z - np.sin(angle) * x), -1)


def z_up(points: np.ndarray) -> np.ndarray:
    """The same motion in a right-handed world with z up: y is where -z was."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack((x, -z, y), -1)


def as_layout(body: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Joints of another skeleton from SMPL's [T, 22, 3], in any right-handed axes, the head by anatomy."""
    at = {name: body[:, i] for i, name in enumerate(NAMES)}
    hips, shoulders = (at["l_hip"] + at["r_hip"]) / 2, (at["l_shoulder"] + at["r_shoulder"]) / 2
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    up, left = unit(shoulders - hips), unit(at["l_shoulder"] - at["r_shoulder"])
    ahead = np.cross(left, up)
    ears = at["head"] + 0.05 * up
    at |= {"hips": hips, "thorax": at["neck"], "spine": at["spine2"]}
    at |= {"nose": ears + 0.09 * ahead, "crown": ears + 0.13 * up, "l_ear": ears + 0.08 * left}
    at["r_ear"] = ears - 0.08 * left
    for side in "lr":
        foot = at[f"{side}_foot"] - at[f"{side}_ankle"]
        at[f"{side}_toe"], at[f"{side}_heel"] = at[f"{side}_ankle"] + 1.4 * foot, at[f"{side}_ankle"] - 0.1 * foot
    return np.stack([at.get(name, at["nose"]) for name in names], 1)


def write_wham(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID/wham_output.npz, with SMPL's 24 joints instead of parameters."""
    (folder / clip).mkdir(parents=True, exist_ok=True)
    hands = camera_points[:, 20:22]
    np.savez(folder / clip / "wham_output.npz", joints=np.concatenate((camera_points, hands), 1))


def write_gvhmr(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID.npz."""
    np.savez(folder / f"{clip}.npz", joints=camera_points)


def write_motionbert(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID/X3D.npy: about a point that wanders, in units of a third of the image."""
    (folder / clip).mkdir(parents=True, exist_ok=True)
    points = as_layout(camera_points, H36M)
    wander = np.sin(np.arange(len(points)) / 7)[:, None, None] * np.array((0.2, 0.05, 0.0))
    np.save(folder / clip / "X3D.npy", (0.4 * (points - points[:, :1]) + wander).astype(np.float32))


def write_mvlift(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID.npz in a level world that is turned and moved."""
    np.savez(folder / f"{clip}.npz", joints=turned(world, 2.2) + np.array((3.0, 0.4, -2.0)))


def write_elepose(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID.npy: about the root, head to root of length 1 or so."""
    points = as_layout(camera_points, H36M)
    np.save(folder / f"{clip}.npy", 1.8 * (points - points[:, :1]))


def write_mediapipe(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID.npz: 33 joints about the hips."""
    points = as_layout(camera_points, BLAZE)
    np.savez(folder / f"{clip}.npz", joints=points - points[:, 23:25].mean(1, keepdims=True))


def write_joints(folder: Path, clip: str, camera_points: np.ndarray, world: np.ndarray) -> None:
    """DIR/ID.npy: millimetres in the clip's world, but with z up."""
    np.save(folder / f"{clip}.npy", 1000 * z_up(world))


def body_arrays(joints: int = 24, shapes: int = 2) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A small body model with the joints of `rest`, whatever its vertices are. -> arrays, what betas add [22, 3, S]"""
    random = np.random.default_rng(0)
    regressor = random.random((joints, 60))
    regressor /= regressor.sum(1, keepdims=True)
    wanted = np.concatenate((rest(), random.normal(size=(joints - 22, 3))))
    added = random.normal(0, 0.01, (60, 3, shapes))
    arrays = {"J_regressor": regressor, "v_template": np.linalg.pinv(regressor) @ wanted, "shapedirs": added}
    return arrays, np.einsum("jv,vcs->jcs", regressor, added)[:22]


def body(folder, kind: str) -> np.ndarray:
    """Write a small body model with two shapes. -> what betas add [22, 3, 2]"""
    arrays, added = body_arrays()
    (folder / kind).mkdir(parents=True)
    np.savez(folder / kind / f"{kind.upper()}_NEUTRAL.npz", **arrays)
    return added


def rest() -> np.ndarray:
    """A standing body [22, 3]: y up, facing z, left at x."""
    steps = {
        "l_hip": (0.07, -0.09, 0), "spine1": (0, 0.11, 0), "l_knee": (0.03, -0.4, 0), "spine2": (0, 0.13, 0.02),
        "l_ankle": (0, -0.41, -0.03), "spine3": (0, 0.06, 0), "l_foot": (0.02, -0.06, 0.12), "neck": (0, 0.2, -0.03),
        "l_collar": (0.08, 0.11, -0.02), "head": (0, 0.1, 0.04), "l_shoulder": (0.1, 0.04, 0),
        "l_elbow": (0.26, 0, -0.02), "l_wrist": (0.25, 0, 0),
    }  # fmt: skip
    at = [np.array((0.0, -0.2, 0.03))]
    for name, parent in zip(NAMES[1:], PARENTS[1:], strict=True):
        step = np.array(steps["l_" + name[2:]]) * (-1, 1, 1) if name[:2] == "r_" else np.array(steps[name])
        at.append(at[parent] + step)
    return np.stack(at)


def walked(resting: np.ndarray, pose: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Joints [T, 22, 3] by walking down the tree."""
    turns = Rotation.from_rotvec(pose[:, :66].reshape(-1, 3)).as_matrix().reshape(-1, 22, 3, 3)
    at, frame = [resting[0] + moved], [turns[:, 0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        at.append(at[parent] + frame[parent] @ (resting[joint] - resting[parent]))
        frame.append(frame[parent] @ turns[:, joint])
    return np.stack(at, 1)


def acted(frames: int = 50, fps: float = 20.0):
    """Parameters of someone who moves every joint and wanders through a level world. -> pose [T, 72], trans [T, 3]"""
    time = np.arange(frames)[:, None] / fps
    pose = 0.25 * np.sin(2 * time + np.arange(72))
    pose[:, :3] = np.array((0, 0.6, 0)) * time
    return pose, np.concatenate((0.3 * time, 1.1 + 0.03 * np.sin(4 * time), -0.2 * time), 1)


def filmed(pose, moved, resting, eye):
    """The same parameters in a camera's axes [T, 3, 4]; a body turns about its own root, not about the origin."""
    root = Rotation.from_matrix(eye[:, :, :3]) * Rotation.from_rotvec(pose[:, :3])
    there = np.einsum("tij,tj->ti", eye[:, :, :3], resting[0] + moved) + eye[:, :, 3] - resting[0]
    return np.concatenate((root.as_rotvec(), pose[:, 3:]), 1), there


LEVEL = np.array(((0, 0, 1, 5.0), (0, 1, 0, 0.5), (-1, 0, 0, 2.0)))
"""A level world of a tool's own, turned by a right angle and moved, as seen from the clip's."""


def wham_arrays(camera, level, betas) -> dict[str, np.ndarray]:
    """What WHAM writes of a person, from pose and place in the camera and in a level world."""
    arrays = {"pose": camera[0], "trans": camera[1], "pose_world": level[0], "trans_world": level[1], "betas": betas}
    return {**arrays, "frame_ids": np.arange(len(betas))}


def gvhmr_tensors(camera, level, betas) -> dict[str, dict[str, torch.Tensor]]:
    """What GVHMR writes of a person."""
    found = {}
    for group, (pose, moved) in (("incam", camera), ("global", level)):
        parts = {"global_orient": pose[:, :3], "body_pose": pose[:, 3:66], "transl": moved, "betas": betas}
        found[f"smpl_params_{group}"] = {name: torch.from_numpy(part).float() for name, part in parts.items()}
    return found


class Harmful:
    def __reduce__(self):
        return print, ("harm",)


JOINTS_OPTIONS = {"units": "mm", "frame": "world", "up": "z"}
WRITERS = {
    "wham": write_wham, "gvhmr": write_gvhmr, "motionbert": write_motionbert, "mvlift": write_mvlift,
    "elepose": write_elepose, "mediapipe": write_mediapipe, "joints": write_joints,
}  # fmt: skip
