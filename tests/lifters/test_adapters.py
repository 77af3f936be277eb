"""The adapters of public lifters: each gives back, in the clip's world, the motion that was written in its layout."""

import pickle

import clips
import numpy as np
import pytest
import torch
from lifters import tools
from lifters.contract import LifterContract

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.lifters.adapters import ElePose, Gvhmr, Joints, MediaPipeResults, MotionBert, MvLift, Wham
from videomdm_ext.lifters.base import Lifter
from videomdm_ext.motion.joint_maps import to_skeleton
from videomdm_ext.motion.measures import mpjpe, pa_mpjpe, root_aligned_mpjpe
from videomdm_ext.motion.skeletons import NBA16, SMPL22

ADAPTERS = {kind.name: kind for kind in (Wham, Gvhmr, MotionBert, MvLift, ElePose, MediaPipeResults, Joints)}


def make(name: str, folder, **options) -> Lifter:
    return ADAPTERS[name](results=str(folder), **(tools.JOINTS_OPTIONS if name == "joints" else {}), **options)


class Adapted(LifterContract):
    """The contract with files written for the camera of each sight."""

    name = ""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self) -> Lifter:
        return make(self.name, self.folder)

    def sight(self, lifter: Lifter, *, moving: bool = False):
        """Of a real person: a lifter's files are refused where arms and legs are not a person's."""
        sight = super().sight(lifter, moving=moving)
        truth = clips.motion("walk")[: self.frames]
        camera = sight["extrinsics"]
        points, _ = cameras.project(truth, camera if moving else camera.unsqueeze(0))
        sight |= {"truth": truth, "keypoints": points}
        world = truth.double().numpy()
        points = tools.into_camera(world, sight["extrinsics"].double().numpy())
        for clip in ("clip", "another clip"):
            tools.WRITERS[self.name](self.folder, clip, points, world)
        return sight


@pytest.mark.parametrize("_named", ADAPTERS, indirect=True)
class TestAdapters(Adapted):
    @pytest.fixture(autouse=True)
    def _named(self, request):
        self.name = request.param


def scene(moving: bool = False, motion: str = "dance_a", frames: int = 65):
    """-> true positions [T, 22, 3] and camera in numpy, and what `lift` is given."""
    truth = clips.motion(motion)[:frames]
    camera = clips.camera(len(truth) if moving else None)
    world, eye = truth.double().numpy(), camera.double().numpy()
    points = torch.from_numpy(tools.seen(world, eye)).float()
    given = {"keypoints": points, "confidence": torch.full(points.shape[:2], 0.9), "extrinsics": camera}
    return world, eye, {**given, "fps": 20.0}


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("name", ["wham", "gvhmr", "joints", "mvlift"])
def test_files_that_hold_everything_give_the_motion_back(name: str, moving: bool, tmp_path):
    world, eye, given = scene(moving)
    tools.WRITERS[name](tmp_path, "dance", tools.into_camera(world, eye), world)
    lifted = make(name, tmp_path).lift("dance", **given)
    assert mpjpe(lifted, torch.from_numpy(world).float()) < (0.01 if name == "mvlift" else 1e-4)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize(("name", "pose"), [("motionbert", 0.035), ("elepose", 0.035), ("mediapipe", 0.03)])
def test_files_without_place_or_size_give_pose_size_and_place_nearly(name: str, pose: float, moving: bool, tmp_path):
    """The pose to centimetres (toes, spine and head are derived), the place by the keypoints to about a decimetre."""
    world, eye, given = scene(moving)
    tools.WRITERS[name](tmp_path, "dance", tools.into_camera(world, eye), world)
    lifted, truth = make(name, tmp_path).lift("dance", **given), torch.from_numpy(world).float()
    assert pa_mpjpe(lifted, truth) < pose
    assert root_aligned_mpjpe(lifted, truth) < 2 * pose
    assert mpjpe(lifted, truth) < 0.2
    limbs = [tools.NAMES.index(f"{s}_{j}") for s in "lr" for j in ("hip", "knee", "ankle", "elbow", "wrist")]
    assert pa_mpjpe(lifted[:, limbs], truth[:, limbs]) < 0.005, "direct joints lose nothing: are left and right right?"
    off = np.abs(tools.seen(lifted.double().numpy(), eye)[:, limbs] - given["keypoints"].numpy()[:, limbs])
    assert np.median(off) < 0.01


def test_elepose_fits_the_skeleton_of_the_nba_directly(tmp_path):
    world, eye, given = scene()
    truth = tools.as_layout(world, tools.NBA)
    tools.write_elepose(tmp_path, "dance", tools.into_camera(world, eye), world)
    given |= {"keypoints": torch.from_numpy(tools.seen(truth, eye)).float(), "confidence": torch.ones(len(world), 16)}
    lifted = ElePose(results=str(tmp_path), target=NBA16).lift("dance", **given)
    assert pa_mpjpe(lifted, torch.from_numpy(truth).float()) < 1e-4


@pytest.mark.parametrize("frame", ["camera", "own"])
@pytest.mark.parametrize("name", ["wham", "gvhmr"])
def test_parameters_of_a_body_become_the_joints_that_they_pose(name: str, frame: str, tmp_path):
    """In the camera, and in a world of the tool's own that is turned by a right angle and moved."""
    kind = {"wham": "smpl", "gvhmr": "smplx"}[name]
    resting = tools.rest() + tools.body(tmp_path / "models", kind) @ np.array((1.5, -1.0))
    pose, moved = tools.acted()
    world, betas = tools.walked(resting, pose, moved), np.tile((1.5, -1.0), (len(pose), 1))
    eye = clips.camera(len(pose)).double().numpy()
    seen = [tools.filmed(pose, moved, resting, e) for e in (eye, np.broadcast_to(tools.LEVEL, eye.shape))]
    (tmp_path / "out" / "clip").mkdir(parents=True)
    if name == "wham":
        np.savez(tmp_path / "out" / "clip" / "wham_output.npz", **tools.wham_arrays(*seen, betas))
    else:
        torch.save(tools.gvhmr_tensors(*seen, betas), tmp_path / "out" / "clip" / "hmr4d_results.pt")
    points = torch.from_numpy(tools.seen(world, eye)).float()
    lifter = make(name, tmp_path / "out", smpl=str(tmp_path / "models"), frame=frame)
    given = {"keypoints": points, "confidence": torch.ones(points.shape[:2]), "extrinsics": torch.from_numpy(eye)}
    given["extrinsics"] = given["extrinsics"].float()
    lifted = lifter.lift("clip", **given, fps=20.0)
    assert mpjpe(lifted, torch.from_numpy(world).float()) < (0.01 if frame == "own" else 1e-4)


def test_parameters_without_a_body_model_are_refused(tmp_path):
    _, _, given = scene()
    pose, moved = tools.acted()
    np.savez(tmp_path / "dance.npz", pose=pose, trans=moved, betas=np.zeros((50, 10)))
    with pytest.raises(DatasetError, match=r"dance.npz: expected a body model .* lifter.smpl=DIR"):
        make("wham", tmp_path).lift("dance", **given)
    with pytest.raises(DatasetError, match=r"pose_world and trans_world .*found no turns"):
        make("wham", tmp_path, frame="own").lift("dance", **given)


def test_code_in_a_file_of_gvhmr_is_not_run(tmp_path, capsys):
    _, _, given = scene()
    torch.save({"smpl_params_incam": tools.Harmful()}, tmp_path / "dance.pt")
    with pytest.raises(DatasetError, match=r"dance.pt: expected a dictionary of tensors and nothing else"):
        make("gvhmr", tmp_path).lift("dance", **given)
    assert "harm" not in capsys.readouterr().out
    (tmp_path / "dance.pt").write_bytes(pickle.dumps(tools.Harmful()))
    with pytest.raises(DatasetError, match=r"dance.pt: expected"):
        make("gvhmr", tmp_path).lift("dance", **given)


def test_frames_that_wham_lost_are_refused(tmp_path):
    world, _eye, given = scene()
    ids = np.arange(len(world)) + (np.arange(len(world)) > 20)
    np.savez(tmp_path / "dance.npz", joints=np.zeros((len(world), 24, 3)), frame_ids=ids)
    with pytest.raises(DatasetError, match="frame_ids with gaps"):
        make("wham", tmp_path).lift("dance", **given)


@pytest.mark.parametrize(("layout", "off"), [("blazepose33", 0.02), ("h36m17", 0.07)])
def test_feet_lie_ahead_of_the_ankles(layout: str, off: float):
    """From toes and heels nearly exact, without them to some centimetres of a person who walks."""
    world, _, _ = scene(motion="walk")
    names = {"blazepose33": tools.BLAZE, "h36m17": tools.H36M}[layout]
    found = to_skeleton(torch.from_numpy(tools.as_layout(world, names)), layout, SMPL22).numpy()
    for foot in (tools.NAMES.index("l_foot"), tools.NAMES.index("r_foot")):
        assert np.linalg.norm(found[:, foot] - world[:, foot], axis=-1).mean() < off
