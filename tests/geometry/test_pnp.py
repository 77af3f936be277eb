"""Laws of cameras from poses: exact data give the camera back, bad data nearly, nonsense is refused.

Every projection here is written out in numpy.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clips import camera, motion
from scipy.spatial.transform import Rotation

from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import pnp, pnp_moving
from videomdm_ext.geometry.pnp_refine import Sight, normal_equations, normalised_cameras

FIVE_PIXELS = 0.005  # at a focal length of 1000


def scenes(count, *, frames=1, distance=(2.0, 4.0), seed=0):
    """Poses of bundled motions [B, frames * 22, 3] anywhere in a world, and cameras of any roll and tilt [B, 3, 4]."""
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
    return np.stack(poses), np.stack(cameras)


def projected(points, extrinsics):
    """[..., N, 3] by [..., 3, 4] -> [..., N, 2]"""
    seen = np.einsum("...ij,...nj->...ni", extrinsics[..., :3], points) + extrinsics[..., None, :, 3]
    return seen[..., :2] / seen[..., 2:]


def spoilt(image, *, noise=0.0, wrong=0.0, seed=1):
    """The image with Gaussian noise and a share of keypoints anywhere about the person, and which those are."""
    random = np.random.default_rng(seed)
    bad = random.random(image.shape[:-1]) < wrong
    low, high = (getattr(image, end)(-2, keepdims=True) for end in ("min", "max"))
    anywhere = random.uniform(low - 0.1, high + 0.1, image.shape)
    return np.where(bad[..., None], anywhere, image + random.normal(0, noise, image.shape)), bad


def degrees_between(found, true):
    trace = np.einsum("...ij,...ij->...", found[..., :3], true[..., :3])
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def run(function, points, image, weight=None, **options):
    weight = np.ones(image.shape[:-1]) if weight is None else weight
    return function(*(torch.from_numpy(np.asarray(part)) for part in (points, image, weight)), **options)


def test_exact_keypoints_give_any_camera_back():
    points, cameras = scenes(200)
    pose = run(pnp.solve, points, projected(points, cameras))
    np.testing.assert_allclose(pose.extrinsics.numpy(), cameras, atol=1e-7)
    assert pose.error.max() < 1e-9
    assert pose.inliers.all()


def test_wrong_and_noisy_keypoints_turn_the_camera_of_one_frame_by_less_than_two_degrees():
    points, cameras = scenes(150)
    image, bad = spoilt(projected(points, cameras), noise=FIVE_PIXELS, wrong=0.2)
    pose = run(pnp.solve, points, image, limit=1.0)  # by chance some frames have ten wrong ones of 22
    assert np.median(degrees_between(pose.extrinsics.numpy(), cameras)) < 2.0
    found = pose.inliers.numpy()
    assert found[~bad].mean() > 0.97
    assert found[bad].mean() < 0.3
    assert 0.8 < float(pose.pixels(1000.0).median()) / (5 * math.sqrt(2)) < 1.3


def test_wrong_and_noisy_keypoints_of_a_clip_hardly_turn_its_camera():
    points, cameras = scenes(8, frames=30)
    image, bad = spoilt(projected(points, cameras), noise=FIVE_PIXELS, wrong=0.2)
    clips = (part.reshape(8, 30, 22, -1) for part in (points, image))
    pose = run(pnp.solve_static, *clips)
    assert np.median(degrees_between(pose.extrinsics.numpy(), cameras)) < 0.5
    assert pose.inliers.shape == (8, 30, 22)
    assert (pose.inliers.numpy().reshape(8, -1) == ~bad).mean() > 0.95


def test_weights_say_which_keypoints_to_believe():
    points, cameras = scenes(40, seed=3)
    exact = projected(points, cameras)
    image, weight = exact.copy(), np.ones(exact.shape[:-1])
    image[:, 10:], weight[:, 10:] = np.nan, 0.0
    np.testing.assert_allclose(run(pnp.solve, points, image, weight).extrinsics.numpy(), cameras, atol=1e-6)
    image = exact + np.random.default_rng(0).normal(0, 0.001, exact.shape)
    image[:, ::2] += np.random.default_rng(1).normal(0, 0.02, exact[:, ::2].shape)
    weight[:] = np.where(np.arange(22) % 2, 1.0, 0.0025)
    even, weighted = (
        np.median(degrees_between(run(pnp.solve, points, image, w).extrinsics.numpy(), cameras)) for w in (None, weight)
    )
    assert weighted < 0.7 * even


def test_the_order_of_the_points_does_not_matter():
    points, cameras = scenes(20, seed=4)
    image, _ = spoilt(projected(points, cameras), noise=FIVE_PIXELS, wrong=0.1)
    order = np.random.default_rng(2).permutation(22)
    one, other = run(pnp.solve, points, image), run(pnp.solve, points[:, order], image[:, order])
    turned = degrees_between(one.extrinsics.numpy(), other.extrinsics.numpy())
    assert np.median(turned) < 1e-3
    assert (turned < 0.2).mean() >= 0.9


def test_a_moved_world_moves_the_camera_with_it():
    points, cameras = scenes(20, seed=5)
    image, _ = spoilt(projected(points, cameras), noise=FIVE_PIXELS)
    turn, shift = Rotation.from_rotvec((0.3, -1.2, 0.5)).as_matrix(), np.array((4.0, -1.0, 2.0))
    still, moved = run(pnp.solve, points, image), run(pnp.solve, points @ turn.T + shift, image)
    rotation = still.extrinsics.numpy()[:, :, :3] @ turn.T
    np.testing.assert_allclose(moved.extrinsics.numpy()[:, :, :3], rotation, atol=1e-5)
    expected = still.extrinsics.numpy()[:, :, 3] - rotation @ shift
    np.testing.assert_allclose(moved.extrinsics.numpy()[:, :, 3], expected, atol=1e-4)


def test_flat_sets_of_points_are_solved_also_near_and_at_a_slant():
    points, cameras = scenes(40, seed=6, distance=(1.2, 3.0))
    centre = points.mean(1, keepdims=True)
    flat = (points - centre) * (1, 1, 0) + centre
    pose = run(pnp.solve, flat, projected(flat, cameras))
    np.testing.assert_allclose(pose.extrinsics.numpy(), cameras, atol=1e-6)


def test_the_same_generator_draws_the_same_camera_and_others_agree():
    points, cameras = scenes(5, seed=7)
    image, _ = spoilt(projected(points, cameras), noise=FIVE_PIXELS)
    found = [run(pnp.solve, points, image, draw=torch.Generator().manual_seed(seed)).extrinsics for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], atol=1e-4, rtol=0)


def test_a_moving_camera_is_followed():
    true = camera(55).double().numpy()
    points = motion("cartwheel")[:55].double().numpy()
    exact = projected(points, true)
    pose = run(pnp.solve_moving, points, exact)
    assert degrees_between(pose.extrinsics.numpy(), true).max() < 0.05
    image, _ = spoilt(exact, noise=FIVE_PIXELS, wrong=0.2)
    pose = run(pnp.solve_moving, points, image)
    assert np.median(degrees_between(pose.extrinsics.numpy(), true)) < 1.0
    assert pose.error < 1.5 * FIVE_PIXELS * math.sqrt(2)
    alone = run(pnp.solve, points, image, limit=1.0).extrinsics.numpy()
    assert np.median(degrees_between(alone, true)) > 1.5 * np.median(degrees_between(pose.extrinsics.numpy(), true))


def test_a_moving_camera_goes_smoothly_through_frames_without_keypoints():
    true = camera(40).double().numpy()
    points = motion("dance_a")[:40].double().numpy()
    image, weight = projected(points, true), np.ones((40, 22))
    image[15:20], weight[15:20] = np.nan, 0.0
    pose = run(pnp.solve_moving, points, image, weight)
    assert degrees_between(pose.extrinsics.numpy(), true).max() < 0.5
    assert not pose.inliers[15:20].any()
    assert pose.inliers[:15].float().mean() > 0.9


@pytest.mark.parametrize("field", [25.0, 45.0, 70.0, 100.0])
def test_an_unknown_focal_length_is_found(field):
    points, cameras = scenes(1, frames=10, seed=8)
    focal = 960 / math.tan(math.radians(field) / 2)
    pixels = projected(points, cameras)[0] * focal + (960, 540)
    found = run(pnp.solve_with_focal, points[0], pixels, image_size=(1920, 1080))
    assert found.focal == pytest.approx(focal, rel=1e-3)
    np.testing.assert_allclose(found.pose.extrinsics.numpy(), cameras[0], atol=1e-4)
    expected = [[focal, 0, 960], [0, focal, 540], [0, 0, 1]]
    np.testing.assert_allclose(found.intrinsics.numpy(), expected, rtol=1e-3)


def test_the_deviation_of_a_focal_length_is_about_its_error():
    ratios = []
    for seed in range(5):
        points, cameras = scenes(1, frames=3, seed=seed)
        image, _ = spoilt(projected(points, cameras)[0] * 1000 + (640, 360), noise=2.0, seed=seed)
        found = run(pnp.solve_with_focal, points[0], image, image_size=(1280, 720))
        ratios.append(math.log(found.focal / 1000) / found.deviation)
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 2.0


def test_a_focal_length_that_the_keypoints_do_not_tell_is_refused():
    points, cameras = scenes(1, distance=(40.0, 41.0))
    pixels, _ = spoilt(projected(points, cameras)[0] * 1000 + (640, 360), noise=1.0)
    with pytest.raises(DatasetError, match=r"clip: expected a (focal length known|field of view).*give"):
        run(pnp.solve_with_focal, points[0], pixels, image_size=(1280, 720))


def nonsense(kind):
    """Points, image and weight of a camera that cannot be."""
    points, cameras = scenes(1, frames=4, seed=9)
    points, cameras = points[0], cameras[0]
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
    elif kind == "shape":
        image = image[:-1]
    elif kind == "nan":
        image[3] = np.nan
    elif kind == "negative":
        weight[3] = -1
    elif kind == "one place":
        image[:] = (0.1, 0.2)
    return points, image, weight


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("few", "at least 6 keypoints with a weight to find a camera, found 5"),
        ("none", "found none"),
        ("line", "found them on a line"),
        ("shuffled", "reprojection error of at most|of the keypoints fit"),
        ("pixels", r"within \+-5 on the normalised image plane"),
        ("behind", "expected the person in front of the camera, found 2. %"),
        ("shape", r"found \[88, 3\], \[87, 2\] and \[88\]"),
        ("nan", "expected numbers in the keypoints, found NaN"),
        ("negative", "weights of 0 or more"),
        ("one place", "found one farther away"),
    ],
)
def test_nonsense_is_refused(kind, message):
    with pytest.raises(DatasetError, match=rf"a\.mp4: .*({message})"):
        run(pnp.solve, *nonsense(kind), place="a.mp4")


def test_the_gradient_is_that_of_the_reprojection_error():
    points, cameras = scenes(2, seed=10)
    given = [torch.from_numpy(part) for part in (points, projected(points, cameras) + 0.01, np.ones((2, 22)))]
    start = normalised_cameras(*(torch.from_numpy(part) for part in (cameras[..., :3], cameras[..., 3])))

    def cost(step):
        moved = start.moved(step)
        seen = given[0] @ moved.rotation.transpose(-1, -2) + moved.translation.unsqueeze(-2)
        found = moved.log_focal.exp()[:, None, None] * seen[..., :2] / seen[..., 2:]
        return 0.5 * (found - given[1]).square().sum()

    step = torch.zeros(2, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(cost(step + 1e-12), step)
    torch.testing.assert_close(normal_equations(start, Sight(*given), given[2])[1], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
def test_the_banded_solver_agrees_with_a_dense_one(frames):
    random = torch.Generator().manual_seed(0)
    roots = torch.randn(frames, 6, 6, generator=random, dtype=torch.float64)
    blocks = roots @ roots.transpose(-1, -2) + torch.eye(6)
    right, stiffness = torch.randn(frames, 6, generator=random, dtype=torch.float64), torch.arange(1.0, 7.0).double()
    second = torch.zeros(max(frames - 2, 0), frames, dtype=torch.float64)
    for row in range(len(second)):
        second[row, row : row + 3] = torch.tensor((1.0, -2.0, 1.0))
    dense = torch.block_diag(*blocks) + torch.kron(second.T @ second, torch.diag(stiffness))
    expected = torch.linalg.solve(dense, right.flatten()).reshape(frames, 6)
    torch.testing.assert_close(pnp_moving.solve_banded(blocks, right, stiffness), expected)
