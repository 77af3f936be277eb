"""Laws of cameras from poses: exact data give the camera back, bad data nearly, nonsense is refused.

Every projection here is written out in numpy.
"""

import sys

import numpy as np
import pytest
import torch
from clips import camera, motion
from scipy.spatial.transform import Rotation

from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry import pnp, pnp_moving
from videomdm_ext.geometry.pnp_moving import Cameras, Sight

pytest.importorskip("cv2", reason="OpenCV is in the extras `video` and `test`")
FIVE_PIXELS = 0.005  # at a focal length of 1000


def scenes(count, *, frames=1, distance=(2.0, 4.0), seed=0):
    """Poses of bundled motions [B, frames, 22, 3] anywhere in a world, and cameras of any roll and tilt [B, 3, 4]."""
    random = np.random.default_rng(seed)
    motions = [m.positions for m in load_motions() if len(m.positions) > frames]
    poses, cameras = [], []
    for number in range(count):
        positions = motions[number % len(motions)]
        start = random.integers(len(positions) - frames)
        person = positions[start : start + frames].reshape(-1, 3).astype(np.float64) + random.normal(0, 3, 3)
        turn = Rotation.random(random_state=random).as_matrix()
        seen = (person - person.mean(0)) @ turn.T
        aside = random.uniform(-0.6, 0.6, 2)
        depth = random.uniform(*distance) - seen[:, 2].min()
        shift = np.array([*aside, depth]) - turn @ person.mean(0)
        poses.append(person)
        cameras.append(np.concatenate((turn, shift[:, None]), 1))
    return np.stack(poses).reshape(count, frames, 22, 3), np.stack(cameras)


def projected(points, extrinsics):
    """[..., N, 3] by [..., 3, 4] -> [..., N, 2]"""
    extrinsics = extrinsics.reshape(*extrinsics.shape[:-2], *(1,) * (points.ndim - extrinsics.ndim), 3, 4)
    seen = np.einsum("...ij,...nj->...ni", extrinsics[..., :3], points) + extrinsics[..., None, :, 3]
    return seen[..., :2] / seen[..., 2:]


def spoilt(image, *, noise=0.0, wrong=0.0, seed=1):
    """The image with Gaussian noise and a share of keypoints anywhere about the person, and which those are."""
    random = np.random.default_rng(seed)
    bad = random.random(image.shape[:-1]) < wrong
    low, high = (getattr(image, end)((-3, -2), keepdims=True) for end in ("min", "max"))
    anywhere = random.uniform(low - 0.1, high + 0.1, image.shape)
    return np.where(bad[..., None], anywhere, image + random.normal(0, noise, image.shape)), bad


def degrees_between(found, true):
    trace = np.einsum("...ij,...ij->...", found[..., :3], true[..., :3])
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def centres(extrinsics):
    return -np.einsum("...ji,...j->...i", extrinsics[..., :3], extrinsics[..., 3])


def run(function, points, image, weight=None, **options):
    weight = np.ones(image.shape[:-1]) if weight is None else weight
    return function(*(torch.from_numpy(np.asarray(part)) for part in (points, image, weight)), **options)


def found(points, image, weight=None, function=pnp.solve_static):
    """The cameras of several clips [B, T, J, ...]. -> [B, 3, 4], or [B, T, 3, 4] of moving ones"""
    weight = np.ones(image.shape[:-1]) if weight is None else weight
    each = zip(points, image, weight, strict=True)
    return np.stack([run(function, *parts, limit=1.0).extrinsics.numpy() for parts in each])


def test_exact_keypoints_give_any_camera_back():
    points, cameras = scenes(20)
    np.testing.assert_allclose(found(points, projected(points, cameras)), cameras, atol=1e-5)
    pose = run(pnp.solve_static, points[0], projected(points, cameras)[0])
    assert pose.error < 1e-8
    assert pose.inliers.all()


LAW = {
    ("frame", 0.002, 0.0): (0.4719, 0.02674), ("frame", 0.01, 0.3): (3.2897, 0.20377),
    ("clip", 0.002, 0.0): (0.135, 0.0088), ("clip", 0.01, 0.3): (0.9056, 0.06479),
    ("moving", 0.01, 0.3): (2.7145, 0.29307),
}  # fmt: skip
"""Median errors, in degrees and metres, of the search that this one replaced (40 draws of six points, the direct linear
transform and orthography, Geman and McClure's cost), with this noise and share of wrong keypoints."""
SIZES = {"frame": (1, 30), "clip": (30, 6), "moving": (40, 4)}


@pytest.mark.parametrize(("kind", "noise", "wrong"), LAW)
def test_no_camera_is_worse_than_1_1_times_the_search_before(kind, noise, wrong):
    frames, count = SIZES[kind]
    if kind == "moving":
        cameras = np.stack([camera(frames).double().numpy()] * count)
        names = [m.name for m in load_motions() if len(m.positions) >= frames][:count]
        points = np.stack([motion(name)[:frames].double().numpy() for name in names])
        exact = projected(points, cameras)
    else:
        points, cameras = scenes(count, frames=frames, seed=11)
        exact = projected(points, cameras)
    image, _ = spoilt(exact, noise=noise, wrong=wrong, seed=12)
    made = found(points, image, function=pnp.solve_moving if kind == "moving" else pnp.solve_static)
    turned, shifted = LAW[kind, noise, wrong]
    assert np.median(degrees_between(made, cameras)) < 1.1 * turned
    assert np.median(np.linalg.norm(centres(made) - centres(cameras), axis=-1)) < 1.1 * shifted


def test_wrong_keypoints_of_a_clip_are_no_inliers():
    points, cameras = scenes(3, frames=30)
    image, bad = spoilt(projected(points, cameras), noise=FIVE_PIXELS, wrong=0.2)
    for number in range(3):
        pose = run(pnp.solve_static, points[number], image[number])
        assert (pose.inliers.numpy() == ~bad[number]).mean() > 0.95
        assert 0.8 < pose.error / (FIVE_PIXELS * np.sqrt(2)) < 1.3


def test_weights_say_which_keypoints_to_believe():
    points, cameras = scenes(12, seed=3)
    exact = projected(points, cameras)
    image, weight = exact.copy(), np.ones(exact.shape[:-1])
    image[..., 10:, :], weight[..., 10:] = np.nan, 0.0
    np.testing.assert_allclose(found(points, image, weight), cameras, atol=1e-6)
    image = exact + np.random.default_rng(0).normal(0, 0.001, exact.shape)
    image[..., ::2, :] += np.random.default_rng(1).normal(0, 0.02, exact[..., ::2, :].shape)
    weight[:] = np.where(np.arange(22) % 2, 1.0, 0.0025)
    even, weighted = (np.median(degrees_between(found(points, image, w), cameras)) for w in (None, weight))
    assert weighted < 0.7 * even


def test_a_moved_world_moves_the_camera_with_it():
    points, cameras = scenes(6, seed=5)
    image, _ = spoilt(projected(points, cameras), noise=FIVE_PIXELS)
    turn, shift = Rotation.from_rotvec((0.3, -1.2, 0.5)).as_matrix(), np.array((4.0, -1.0, 2.0))
    still, moved = found(points, image), found(points @ turn.T + shift, image)
    rotation = still[..., :3] @ turn.T
    assert np.median(np.abs(moved[..., :3] - rotation).max((1, 2))) < 1e-4
    assert np.median(np.abs(moved[..., 3] - still[..., 3] + rotation @ shift).max(1)) < 1e-3


def test_flat_sets_of_points_are_solved_also_near_and_at_a_slant():
    points, cameras = scenes(12, seed=6, distance=(1.2, 3.0))
    centre = points.mean(2, keepdims=True)
    flat = (points - centre) * (1, 1, 0) + centre
    np.testing.assert_allclose(found(flat, projected(flat, cameras)), cameras, atol=1e-5)


def test_the_same_keypoints_give_the_same_camera_to_the_last_bit():
    points, cameras = scenes(1, frames=60, seed=7)
    image, _ = spoilt(projected(points, cameras), noise=FIVE_PIXELS, wrong=0.1)
    assert np.array_equal(found(points, image), found(points, image))


def test_without_opencv_the_extra_is_named(monkeypatch):
    points, cameras = scenes(1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"expected the package cv2.*\.\[video\]"):
        run(pnp.solve_static, points[0], projected(points, cameras)[0])


def test_a_moving_camera_is_followed():
    true = camera(55).double().numpy()[:30]
    points = motion("cartwheel")[:30].double().numpy()
    exact = projected(points, true)
    pose = run(pnp.solve_moving, points, exact)
    assert degrees_between(pose.extrinsics.numpy(), true).max() < 0.05
    image, _ = spoilt(exact, noise=FIVE_PIXELS, wrong=0.2)
    pose = run(pnp.solve_moving, points, image)
    assert np.median(degrees_between(pose.extrinsics.numpy(), true)) < 1.0
    assert pose.error < 1.5 * FIVE_PIXELS * np.sqrt(2)
    alone = found(points[::3, None], image[::3, None])
    assert np.median(degrees_between(alone, true[::3])) > 1.5 * np.median(
        degrees_between(pose.extrinsics.numpy(), true)
    )


def test_a_moving_camera_goes_smoothly_through_frames_without_keypoints():
    true = camera(40).double().numpy()
    points = motion("dance_a")[:40].double().numpy()
    image, weight = projected(points, true), np.ones((40, 22))
    image[15:20], weight[15:20] = np.nan, 0.0
    pose = run(pnp.solve_moving, points, image, weight)
    assert degrees_between(pose.extrinsics.numpy(), true).max() < 0.5
    assert not pose.inliers[15:20].any()
    assert pose.inliers[:15].float().mean() > 0.9


def test_one_frame_of_a_moving_camera_is_a_list_of_one():
    points, cameras = scenes(1)
    pose = run(pnp.solve_moving, points[0], projected(points, cameras)[0])
    np.testing.assert_allclose(pose.extrinsics.numpy(), cameras, atol=1e-5)


def test_too_few_keypoints_in_a_row_for_a_moving_camera_are_refused():
    points, cameras = scenes(1, frames=40)
    weight = np.zeros((40, 22))
    weight[::5, 0] = 1.0
    with pytest.raises(DatasetError, match="a quarter of the keypoints in at least 5 frames in a row"):
        run(pnp.solve_moving, points[0], projected(points, cameras)[0], weight)


def nonsense(kind):
    """Points, image and weight of a camera that cannot be."""
    points, cameras = scenes(1, frames=4, seed=9)
    points, cameras = points[0].reshape(-1, 3), cameras[0]
    image, weight = projected(points, cameras), np.ones(len(points))
    if kind == "few":
        weight[5:] = 0
    elif kind == "none":
        weight[:] = 0
    elif kind == "line":
        points = np.linspace(0, 1, len(points))[:, None] * np.array((0.3, 1.0, 0.2))
        image = projected(points, cameras)
    elif kind == "shuffled":
        image = np.random.default_rng(0).permutation(image)
    elif kind == "pixels":
        image = image * 1000 + 500
    elif kind == "behind":
        seen = (points - points.mean(0)) @ cameras[:, :3].T
        seen[:, 2] += np.quantile(-seen[:, 2], 0.75)  # the camera stands within the crowd
        cameras[:, 3] = (seen - points @ cameras[:, :3].T)[0]
        image = projected(points, cameras)
    elif kind == "nan":
        image[3] = np.nan
    elif kind == "one place":
        image[:] = (0.1, 0.2)
    return points[None], image[None], weight[None]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("few", "at least 6 keypoints with a weight to find a camera, found 5"),
        ("none", "found none"),
        ("line", "found them on a line"),
        ("shuffled", "reprojection error of at most|of the keypoints fit"),
        ("pixels", r"within \+-5 on the normalised image plane"),
        ("behind", "expected the person in front of the camera, found 2. %"),
        ("nan", "expected numbers in the keypoints, found NaN"),
        ("one place", "found none|reprojection error|fit"),
    ],
)
def test_nonsense_is_refused(kind, message):
    with pytest.raises(DatasetError, match=rf"a\.mp4: .*({message})"):
        run(pnp.solve_static, *nonsense(kind), place="a.mp4")


def test_the_gradient_and_the_matrix_are_those_of_the_reprojection_error():
    points, cameras = scenes(2, seed=10)
    sight = Sight(points[:, 0], projected(points, cameras)[:, 0] + 0.01, np.random.default_rng(0).random((2, 22)))
    start = Cameras(cameras[..., :3], cameras[..., 3])

    def errors(step):
        turned = pnp_moving.moved(start, step)
        seen = pnp_moving.camera_points(turned, sight)
        return np.sqrt(sight.weight)[..., None] * (seen[..., :2] / seen[..., 2:] - sight.image)

    steps = 1e-6 * np.eye(6)
    jacobian = np.stack([(errors(s + np.zeros((2, 6))) - errors(np.zeros((2, 6)) - s)) / 2e-6 for s in steps], -1)
    matrix, gradient = pnp_moving.normal_equations(start, sight, sight.weight)
    np.testing.assert_allclose(gradient, np.einsum("tnci,tnc->ti", jacobian, errors(np.zeros((2, 6)))), atol=1e-6)
    np.testing.assert_allclose(matrix, np.einsum("tnci,tncj->tij", jacobian, jacobian), rtol=1e-5, atol=1e-6)
