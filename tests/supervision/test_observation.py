"""What was not seen is silent; the weight is validity times squared confidence."""

import dataclasses
import math

import torch
from people import observe, orbiting, random_motion

from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.observation import PREFIX, Observation


def test_unseen_padded_and_infinite_keypoints_weigh_nothing_and_hold_zeros(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (2,), 4, generator)
    seen = observe(motion, orbiting((2,), generator))
    keypoints, confidence, valid = seen.keypoints.clone(), torch.ones(2, 4, 22), seen.valid.clone()
    keypoints[0, 0, 3, 0], keypoints[0, 1, 4, 1] = math.nan, math.inf
    confidence[0, 2, 5], confidence[0, 2, 6] = 0.0, math.nan
    valid[1, 2:] = False
    found = observe(motion, seen.extrinsics[:, 0], keypoints=keypoints, confidence=confidence, valid=valid)
    silent = torch.zeros(2, 4, 22, dtype=torch.bool)
    silent[0, 0, 3] = silent[0, 1, 4] = silent[0, 2, 5] = silent[0, 2, 6] = True
    silent[1, 2:] = True
    assert torch.equal(found.weight == 0, silent)
    assert (found.keypoints[silent] == 0).all()
    assert torch.equal(found.keypoints[~silent], seen.keypoints[~silent])
    assert torch.equal(found.extrinsics[1, 2], torch.eye(3, 4))


def test_taking_an_observation_leaves_the_hosts_own_entries(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (2,), 4, generator)
    seen = observe(motion, orbiting((2,), generator))
    flat = {
        "keypoints": seen.keypoints,
        "confidence": torch.full((2, 4, 22), 0.5),
        "extrinsics": seen.extrinsics,
        "initial_heading": seen.initial_heading,
    }
    y = {"text": ["a", "b"], "mask": torch.ones(2, 1, 1, 4, dtype=torch.bool), "lengths": torch.tensor((4, 4))}
    y["mask"][1, ..., 3] = False
    found, rest = Observation.take(y | {PREFIX + name: value for name, value in flat.items()})
    assert set(rest) == set(y)
    assert found.valid.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert found.weight[0].unique().tolist() == [0.25]
    assert found.weight[1, 3].max() == 0
    assert torch.equal(found.keypoints[0], seen.keypoints[0])


def test_repeating_an_observation_repeats_the_whole_batch_in_order(generator: torch.Generator) -> None:
    seen = observe(random_motion(SMPL22, (2,), 4, generator), orbiting((2,), generator))
    assert seen.repeat(2).known is None
    seen = dataclasses.replace(seen, known=torch.tensor([True, False]))
    twice = seen.repeat(2)
    for name, value in vars(seen).items():
        assert torch.equal(getattr(twice, name), torch.cat((value, value)))
