"""Folders in the official layouts of Fit3D and of MAS's NBA sequences, written of bundled motion."""

import json

import numpy as np
from people import real_motions

from videomdm_ext.motion.skeletons import NBA16, SMPL22

CAMERAS = {"50591643": ((4.0, 2.0, 1.5), 1.1), "65906101": ((-3.5, -3.0, 1.6), 0.9)}
"""Place, m, and a factor of the focal length."""
DIRECT = {1: "r_hip", 2: "r_knee", 3: "r_ankle", 4: "l_hip", 5: "l_knee", 6: "l_ankle"}
DIRECT |= {11: "l_shoulder", 12: "l_elbow", 13: "l_wrist", 14: "r_shoulder", 15: "r_elbow", 16: "r_wrist"}
J = NBA16.index
FRAMES = 90


def joints25(name, *, exchanged=False):
    """-> [T, 25, 3] at 50 fps, z up, as Fit3D has them; `exchanged` puts left where right should be."""
    slow = real_motions()[name].double().numpy()
    at = np.arange(0, len(slow) - 1, 0.4)
    low, share = at.astype(int), (at % 1)[:, None, None]
    smpl = slow[low] * (1 - share) + slow[low + 1] * share
    by_name = {joint: smpl[:, number] for number, joint in enumerate(SMPL22.joints)}
    found = np.zeros((len(smpl), 25, 3))
    for number, joint in DIRECT.items():
        side = {"l": "r", "r": "l"}[joint[0]] if exchanged else joint[0]
        found[:, number] = by_name[side + joint[1:]]
    found[:, 0] = (by_name["l_hip"] + by_name["r_hip"]) / 2
    found[:, 8] = by_name["neck"]
    found[:, 7] = (found[:, 0] + found[:, 8]) / 2
    found[:, 9], found[:, 10] = by_name["head"] - (0, 0.05, 0), by_name["head"] + (0, 0.1, 0)
    for ankle, points in ((3, (17, 18)), (6, (19, 20))):
        joint = DIRECT[ankle]
        side = {"l": "r", "r": "l"}[joint[0]] if exchanged else joint[0]
        toe = by_name[f"{side}_foot"] - by_name[f"{side}_ankle"]
        found[:, points[0]], found[:, points[1]] = found[:, ankle] + 0.5 * toe, found[:, ankle] + toe / 0.7
    for wrist, points in ((13, (21, 22)), (16, (23, 24))):
        found[:, points] = found[:, wrist, None] + (0, -0.05, 0)
    x, y, z = np.moveaxis(found, -1, 0)
    return np.stack((x, -z, y), -1)  # y up to z up


def camera_file(place, factor):
    """A level camera that looks at one metre above the origin, as the source writes it."""
    forward = np.array((0, 0, 1.0)) - place
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, (0, 0, 1.0))
    right = right / np.linalg.norm(right)
    rotation = np.stack((right, np.cross(forward, right), forward))
    lens = {"f": [[1000.0 * factor, 1010.0 * factor]], "c": [[450.0, 448.0]]}
    distorted = {**lens, "k": [[-0.1, 0.1, 0.0]], "p": [[0.001, 0.002]]}
    outside = {"R": rotation.tolist(), "T": [list(place)]}
    return {"extrinsics": outside, "intrinsics_w_distortion": distorted, "intrinsics_wo_distortion": lens}


def write_fit3d(
    root, subjects=("s03", "s04", "s05"), actions=(("squat", "walk"), ("dumbbell_biceps_curls", "dance_a"))
):
    """Write ROOT/train: joints and cameras of every subject's takes, of these motions."""
    for number, subject in enumerate(subjects):
        folder = root / "train" / subject
        (folder / "joints3d_25").mkdir(parents=True)
        for action, motion in actions:
            joints = joints25(motion) + np.array((0.1 * number, 0.2, 0))
            (folder / "joints3d_25" / f"{action}.json").write_text(json.dumps({"joints3d_25": joints.tolist()}))
            for camera, (place, factor) in CAMERAS.items():
                (folder / "camera_parameters" / camera).mkdir(parents=True, exist_ok=True)
                text = json.dumps(camera_file(np.array(place), factor))
                (folder / "camera_parameters" / camera / f"{action}.json").write_text(text)
    return root


def player(turned=0.4):
    """-> [T, 16, 3] of a right-handed world with y up, facing +z turned by `turned`: he bends his knees and waves
    with the right hand."""
    rest = {"pelvis": (0, 1.0, 0), "neck": (0, 1.55, 0), "nose": (0, 1.65, 0.12), "head": (0, 1.85, 0.02)}
    for side, sign in (("l", 1), ("r", -1)):
        rest |= {f"{side}_hip": (0.12 * sign, 0.97, 0), f"{side}_knee": (0.12 * sign, 0.52, 0.06)}
        rest |= {f"{side}_ankle": (0.12 * sign, 0.1, -0.03), f"{side}_shoulder": (0.2 * sign, 1.5, 0)}
        rest |= {f"{side}_elbow": (0.3 * sign, 1.2, -0.03), f"{side}_wrist": (0.3 * sign, 1.0, 0.1)}
    body = np.array([rest[joint] for joint in NBA16.joints])[None].repeat(FRAMES, 0)
    time = np.linspace(0, 2 * np.pi, FRAMES)
    body[:, J("r_wrist")] += np.stack((-0.2 + 0 * time, 0.5 + 0.2 * np.sin(time), 0 * time), -1)
    body[:, J("l_knee"), 2] += 0.05 * np.sin(time)
    angle = turned + 0.2 * np.sin(time / 2)
    c, s, o = np.cos(angle), np.sin(angle), 0 * angle
    turn = np.stack((np.stack((c, o, s), -1), np.stack((o, o + 1, o), -1), np.stack((-s, o, c), -1)), -2)
    return np.einsum("tij,tkj->tki", turn, body)


def write_nba(root, names="bacdefghij", *, turned=0.4, torso=False, near=False):
    """MAS's files: x right, y up, about the hip; and a lifter's with z away from the camera, of half the size."""
    for folder in ("motions", "lifted"):
        (root / folder).mkdir(parents=True)
    body = player(turned)
    about = (body - body[:, :1]) * 2.2  # the source's unit
    for name in names:
        confidence = np.full((FRAMES, 16, 1), 0.8)
        confidence[3, 5] = 0
        np.save(root / "motions" / f"{name}.npy", np.concatenate((about[..., :2], confidence), -1))
        away = 0.5 * about * (1, 1, 1 if near else -1)
        if torso:
            away = np.insert(away, 7, away[:, 7] / 2, axis=1)
        np.save(root / "lifted" / f"{name}.npy", away)
    return str(root), str(root / "lifted")
