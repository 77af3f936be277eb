"""Up and floor from people alone: cameras that look down and lean, people who walk, dance or lie."""

import math

import numpy as np
import pytest
import torch
from filmed import film

from videomdm_ext.data.clip import FLOOR, floor_height
from videomdm_ext.data.video import placing as ground
from videomdm_ext.data.video.placing import upright
from videomdm_ext.motion.skeletons import SMPL22


def angle(one, other):
    return math.degrees(math.acos(min(1.0, float(torch.as_tensor(one) @ torch.as_tensor(other)))))


def seen(name, **camera):
    """Motion in camera coordinates at 25 fps, and the true direction up there."""
    one = film(name, **camera)
    return torch.from_numpy(one.seen), torch.from_numpy(one.rotation[:, 1].copy())


@pytest.mark.parametrize(("pitch", "roll"), [(-25.0, 0.0), (-25.0, 8.0), (0.0, -12.0), (15.0, 8.0), (15.0, -12.0)])
def test_a_walking_person_tells_where_up_is(pitch, roll):
    positions, true = seen("walk", pitch=pitch, roll=roll)
    found = ground.find_up([positions], SMPL22, 25.0)
    assert angle(found.direction, true) < 7.0  # the lean of the walk, and what a level camera is trusted
    assert found.witness == "a person who stands"
    assert math.degrees(found.pitch) == pytest.approx(pitch, abs=7)
    assert math.degrees(found.roll) == pytest.approx(math.degrees(math.atan2(true[0], -true[1])), abs=7)


def test_several_clips_of_one_camera_tell_it_better_than_the_worst_of_them():
    camera = {"at": (0.5, 0.9, 0.5), "distance": 6.0, "pitch": -20.0, "roll": 10.0}
    clips = [seen(name, **camera) for name in ("walk", "dance_b", "kick")]
    each = [angle(ground.find_up([clip], SMPL22, 25.0).direction, true) for clip, true in clips]
    together = ground.find_up([clip for clip, _ in clips], SMPL22, 25.0)
    assert angle(together.direction, clips[0][1]) < max(each)
    assert together.deviation < ground.find_up([clips[0][0]], SMPL22, 25.0).deviation


def test_without_anybody_who_stands_the_camera_is_taken_to_be_level():
    positions, true = seen("crawl", pitch=-10.0)
    found = ground.find_up([positions], SMPL22, 25.0)
    assert found.witness == "a level camera"
    assert angle(found.direction, true) < 12.0
    assert found.deviation > math.radians(8)


def test_resting_feet_are_those_on_the_floor():
    positions, true = seen("walk", pitch=-20.0)
    one = film("walk", pitch=-20.0)
    feet = ground.resting_feet(positions, SMPL22, 25.0)
    centre = -one.rotation.T @ one.translation
    height = feet @ true + centre[1]
    assert len(feet) > 20
    assert float((height - one.true[:, 10:12, 1].min()).abs().max()) < 0.12


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.3, -0.8, -0.5), (0.0, -0.05, -0.999), (0.0, 0.0, 1.0)])
def test_the_world_is_right_handed_with_y_up_and_the_camera_before_it(up):
    direction = torch.nn.functional.normalize(torch.tensor(up, dtype=torch.float64), dim=0)
    turn = ground.world_from_camera(direction)
    assert torch.allclose(turn @ direction, torch.tensor((0.0, 1.0, 0.0), dtype=torch.float64), atol=1e-9)
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert float(torch.linalg.det(turn)) == pytest.approx(1.0)
    if abs(up[2]) < 0.9:
        ahead = turn @ torch.tensor((0.0, 0.0, 1.0), dtype=torch.float64)
        assert float(ahead[2]) < 0
        assert float(ahead[0]) == pytest.approx(0.0, abs=1e-9)


def test_upright_motion_stands_on_the_floor_as_its_camera_sees_it_and_one_wrong_frame_does_not_matter():
    one = film("walk", pitch=-20.0, roll=10.0)
    world, camera = upright(torch.from_numpy(one.seen), torch.from_numpy(one.rotation[:, 1].copy()))
    again = world.numpy() @ camera[:, :3].numpy().T + camera[:, 3].numpy()
    assert np.allclose(again, one.seen)
    heights = one.true[..., 1] - np.quantile(one.true[..., 1].min(1), FLOOR)
    assert np.allclose(world[..., 1].numpy(), heights, atol=1e-9)
    one = torch.from_numpy(film("walk").true)
    wrong = one.clone()
    wrong[7, 10, 1] -= 1.5
    assert floor_height(wrong) == pytest.approx(floor_height(one), abs=0.02)
    assert floor_height(torch.from_numpy(film("jump").true)) == pytest.approx(0.0, abs=0.03)
