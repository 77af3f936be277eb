"""What adapters of lifters' files refuse, how they resample, and how they find size and place."""

import dataclasses

import clips
import numpy as np
import pytest
import torch
from lifters import tools
from lifters.test_adapters import make, scene

from videomdm_ext.data.importing import find_importer, run_import
from videomdm_ext.data.motions import Optics, find_lifter, load_motions
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.video.placing import stand
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.lifters.adapters import Joints
from videomdm_ext.lifters.results import LIMBS, size_ratio
from videomdm_ext.motion.measures import mpjpe
from videomdm_ext.motion.skeletons import SMPL22


def lift(folder, points, given, **options):
    np.save(folder / "dance.npy", points)
    return Joints(results=str(folder), **options).lift("dance", **given)


@pytest.mark.parametrize("rate", [30.0, 60.0, 25.0, 15.0])
def test_results_at_another_rate_come_out_at_the_rate_of_the_clip(rate: float, tmp_path):
    """Cubic motion sampled at both rates; linear interpolation between the file's frames costs millimetres."""
    _, eye, _ = scene()
    pose = clips.motion("dance_a")[0].double().numpy()

    def at(times):
        return pose + np.stack((0.3 * times, 0.1 * np.sin(2 * times), 0.2 * times**2), -1)[:, None]

    world, other = at(np.arange(41) / 20.0), at(np.arange(int(2.0 * rate + 1e-6) + 1) / rate)
    given = {"keypoints": torch.from_numpy(tools.seen(world, eye)).float(), "confidence": torch.ones(41, 22)}
    given |= {"extrinsics": torch.from_numpy(eye).float(), "fps": 20.0}
    lifted = lift(tmp_path, tools.into_camera(other, eye), given, fps=f"{rate:g}")
    assert mpjpe(lifted, torch.from_numpy(world).float()) < 0.002
    with pytest.raises(DatasetError, match=rf"expected 41 frames at the clip's rate .*, found {len(other)}.*fps=RATE"):
        lift(tmp_path, tools.into_camera(other, eye), given)


def test_a_missing_last_frame_goes_on_as_the_motion_was_going(tmp_path):
    world, eye, given = scene()
    points = tools.into_camera(world, eye)
    lifted = lift(tmp_path, points[:-1], given)
    expected = torch.from_numpy(2 * world[-2] - world[-3]).float()
    torch.testing.assert_close(lifted[-1], expected, atol=1e-5, rtol=0)
    with pytest.raises(DatasetError, match="expected 65 frames"):
        lift(tmp_path, points[:-2], given)


def at_frame(points, number):
    return np.arange(len(points))[:, None, None] == number


SIDES = [tools.NAMES.index({"l": "r", "r": "l"}.get(n[0], n[0]) + n[1:] if n[1] == "_" else n) for n in tools.NAMES]


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, lambda w, c: c[:, :21], r"dance.npy: expected joints \[T, 22, 3\] of smpl22, found \[65, 21, 3\]"),
        ({"skeleton": "h36m17"}, lambda w, c: c, r"expected joints \[T, 17, 3\] of h36m17, found \[65, 22, 3\]"),
        ({}, lambda w, c: np.where(at_frame(c, 7), np.nan, c), "NaN or infinity in 1 frames, the first 7"),
        ({}, lambda w, c: c[:60], "expected 65 frames .*, found 60"),
        ({"fps": "30"}, lambda w, c: c, "frames at 30 fps .*, found 65"),
        ({}, lambda w, c: 1000 * c, r"expected a person in m, found arms and legs .* these are mm"),
        ({"units": "mm"}, lambda w, c: c, r"expected a person in mm"),
        ({}, lambda w, c: 0 * c, "expected a person with arms and legs, found none"),
        ({"frame": "world"}, lambda w, c: tools.z_up(w), "expected y up, found a body along z of the world"),
        ({"frame": "world"}, lambda w, c: w * (1, -1, -1), "found a body along -y of the world"),
        ({"up": "y"}, lambda w, c: c, "poses as the keypoints show"),
        ({}, lambda w, c: c[:, SIDES], "left and right as in the keypoints"),
        ({}, lambda w, c: np.add(c, (1.5, 0, 0)), "expected the person where the keypoints are"),
        ({}, lambda w, c: c - (0, 0, 12), "found the person behind the camera"),
        ({}, lambda w, c: c.astype(object), "dance.npy: expected one array of numbers .*pickled"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(options: dict, change, message: str, tmp_path):
    world, eye, given = scene()
    with pytest.raises(DatasetError, match=message):
        lift(tmp_path, change(world, tools.into_camera(world, eye)), given, **options)


def test_a_person_who_lies_is_not_taken_for_one_with_another_axis_up(tmp_path):
    """The same file, declared rightly: what the keypoints show counts, not whether people stand."""
    world, _, given = scene()
    lying = tools.z_up(world)
    eye = given["extrinsics"].double().numpy()
    given["keypoints"] = torch.from_numpy(tools.seen(lying, eye)).float()
    lifted = lift(tmp_path, lying, given, frame="world")
    assert mpjpe(lifted, torch.from_numpy(lying).float()) < 1e-4


@pytest.mark.parametrize("frame", ["camera", "world"])
def test_a_relative_root_is_placed_by_noisy_keypoints_and_smooth_in_depth(frame: str, tmp_path):
    world, eye, given = scene(moving=True)
    rng = np.random.default_rng(0)
    given["keypoints"] = given["keypoints"] + torch.from_numpy(rng.normal(0, 0.002, given["keypoints"].shape)).float()
    given["confidence"] = given["confidence"].clone()
    given["confidence"][40:46] = 0.0
    given["keypoints"][40:46] = float("nan")
    points = tools.into_camera(world, eye) if frame == "camera" else world
    lifted = lift(tmp_path, points - points[:, :1], given, frame=frame, root="relative")
    error = np.linalg.norm(lifted.double().numpy() - world, axis=-1)
    assert error.mean() < 0.06
    assert error.max() < 0.25
    depth = tools.into_camera(lifted.double().numpy(), eye)[:, 0, 2] - tools.into_camera(world, eye)[:, 0, 2]
    assert np.abs(np.diff(depth)).max() < 0.05


def test_exact_keypoints_place_a_still_person_exactly():
    world, eye, _given = scene()
    still = np.repeat(world[:1], 30, 0)
    offsets = torch.from_numpy(tools.into_camera(still, eye) - tools.into_camera(still, eye)[:, 3:4])
    points = torch.from_numpy(tools.seen(still, eye))
    weight = torch.linspace(0.2, 1.0, 22, dtype=torch.float64).expand(30, 22)
    placed = stand(offsets, points, weight, 3.0)
    np.testing.assert_allclose(placed.numpy(), tools.into_camera(still, eye), atol=1e-9)
    assert stand(offsets, points, 0 * weight, 3.0) is None
    assert stand(-offsets, points, weight, 3.0) is None, "a person upside down would be behind the camera"


def test_the_usual_person_is_the_mean_of_the_bundled_motions():
    for joint, length in LIMBS.items():
        found = []
        for motion in load_motions():
            for side in "lr":
                end = tools.NAMES.index(f"{side}_{joint}")
                bone = motion.positions[:, end] - motion.positions[:, SMPL22.parents[end]]
                found.append(np.median(np.linalg.norm(bone, axis=-1)))
        assert np.mean(found) == pytest.approx(length, abs=0.002)


def test_an_arbitrary_scale_is_fixed_by_the_limbs(tmp_path):
    world, eye, given = scene()
    for factor in (0.01, 1.0, 370.0):
        lifted = lift(tmp_path, factor * tools.into_camera(world, eye), given, scale="arbitrary", root="relative")
        assert size_ratio(lifted, SMPL22) == pytest.approx(1.0, abs=1e-3)


def test_a_clip_without_results_or_with_another_rate_in_its_file_is_refused(tmp_path):
    _, _, given = scene()
    with pytest.raises(DatasetError, match=r"expected dance.npy or dance.npz or dance/X3D.npy, found none"):
        make("motionbert", tmp_path).lift("dance", **given)
    with pytest.raises(DatasetError, match=r"found '\.\./dance'"):
        make("motionbert", tmp_path).lift("../dance", **given)
    world, eye, given = scene()
    np.savez(tmp_path / "dance.npz", joints=tools.into_camera(world, eye), fps=30.0)
    with pytest.raises(DatasetError, match=r"dance.npz: expected the clip's rate, found 30 fps .* lifter.fps=30"):
        Joints(results=str(tmp_path)).lift("dance", **given)
    with pytest.raises(DatasetError, match="expected 25 fps, as declared"):
        Joints(results=str(tmp_path), fps="25").lift("dance", **given)


class OfNba(Joints):
    name = "other"
    description = dataclasses.replace(Joints.description, skeleton="nba16")


def test_unknown_options_and_skeletons_that_cannot_be_mapped_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--option smpl: expected one that lifter motionbert knows, results, fps"):
        make("motionbert", tmp_path, smpl="x")
    with pytest.raises(ConfigError, match="--option results=DIR: expected the folder"):
        Joints()
    with pytest.raises(ConfigError, match="joints that smpl22 can be told from, found nba16"):
        OfNba(results=str(tmp_path))


def test_options_of_an_import_reach_the_adapter(tmp_path):
    lifter = find_lifter("joints", 0, SMPL22, {"results": str(tmp_path), "units": "mm"})
    assert lifter.folder == tmp_path
    assert lifter.description.units == "mm"
    assert find_lifter("synthetic", 3, SMPL22, {}).seed == 3
    kind = find_importer("joints")
    options = ImportOptions(lifter="joints", extra={"results": "a", "fps": "30", "lifter.fps": "60", "units": "mm"})
    assert kind("here", options).lifter_extra == {"results": "a", "fps": "60", "units": "mm"}
    for wrong in ({"results": "a"}, {"lifter.results": "a"}):
        with pytest.raises(ConfigError, match="--option"):
            kind("here", ImportOptions(extra=wrong))
    with pytest.raises(ConfigError, match=r"--option lifter\.smpl"):
        kind("here", ImportOptions(lifter="joints", extra={"lifter.smpl": "a"}))


def test_an_import_with_a_lifters_files_makes_teachers_of_them(tmp_path):
    """Files as the adapter needs them, of the cameras that the importer draws; the card shows how good they are."""
    for folder in ("in/joints", "in/texts", "results"):
        (tmp_path / folder).mkdir(parents=True)
    optics = Optics(noise=0.0)
    for number, motion in enumerate(load_motions()[:4]):
        np.save(tmp_path / "in/joints" / f"{number}.npy", motion.positions)
        (tmp_path / "in/texts" / f"{number}.txt").write_text("a person moves.#a/DET person/NOUN move/VERB#0.0#0.0\n")
        np.save(tmp_path / "results" / f"{number}.npy", 1000 * tools.z_up(motion.positions))
    extra = {"results": str(tmp_path / "results"), "lifter.up": "z", "units": "mm", "frame": "world"}
    options = ImportOptions(lifter="joints", optics=optics, extra=extra)
    done = run_import(find_importer("joints")(str(tmp_path / "in"), options), str(tmp_path / "out"))
    assert not done.left_out
    assert done.card.lifter == "joints"
    assert done.card.lifter_error["mpjpe"] < 1e-3
    assert sum(done.card.counts.values()) == 4
