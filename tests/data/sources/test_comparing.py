"""Another tool's keypoints against the pictures: known offsets, scales and sides are found, others are refused."""

import dataclasses

import numpy as np
import pytest
from filmed import SIZE, film

from videomdm_ext.data.video.comparing import VIEWS, compare, corrected, direct, mirror_of
from videomdm_ext.data.video.detections import Detections
from videomdm_ext.motion.joint_maps import BLAZEPOSE33

FPS = 25.0


def tracks(name="walk", seed=0, **camera):
    """What a tool finds in a film, with 1 % of noise, and what the watcher sees in every second frame."""
    one = film(name, **camera)
    size = np.ptp(one.pixels[..., 1], axis=1).mean()
    noise = 0.01 * size * np.random.default_rng(seed).standard_normal((2, *one.pixels.shape))
    given = Detections(BLAZEPOSE33, one.times, (one.pixels + noise[0])[:, None], one.visibility[:, None])
    watched = one.pixels + noise[1] + 0.02 * size * np.eye(33, 2)  # it places two joints differently
    samples = [
        (k, *(x[None] for x in direct(watched[k], one.visibility[k], BLAZEPOSE33)))
        for k in range(0, min(60, len(one.times)), 2)
    ]
    return given, samples


def late(given, frames):
    """The same entries in files that begin `frames` too late."""
    came = np.arange(len(given.times)) + frames
    inside = (came >= 0) & (came < len(came))
    at = came.clip(0, len(came) - 1)
    return dataclasses.replace(given, pixels=given.pixels[at], score=given.score[at] * inside[:, None, None])


@pytest.mark.parametrize(
    ("offset", "scale", "view"),
    [(0, 1.0, 0), (1, 1.0, 0), (-4, 1.0, 0), (3, 0.5, 0), (0, 1.0, 1), (0, 2.0, 2)],
)
def test_known_offsets_scales_and_sides_are_found_and_put_right(offset, scale, view):
    given, samples = tracks()
    back = np.linalg.inv(VIEWS[view].turn)
    pixels = ((given.pixels - VIEWS[view].shift * np.array(SIZE)) @ back.T) / (1 / scale)
    order = mirror_of(BLAZEPOSE33) if VIEWS[view].exchanged else np.arange(33)
    wrong = late(dataclasses.replace(given, pixels=pixels[:, :, order], score=given.score[:, :, order]), offset)
    fit = compare(wrong, samples, SIZE, FPS)
    assert fit.is_sure
    assert fit.is_none == ((offset, scale, view) == (0, 1.0, 0))
    assert (fit.offset, fit.view.name) == (offset, VIEWS[view].name)
    assert fit.scale == pytest.approx(1 / scale, rel=0.01)
    assert fit.confirms
    mended = corrected(wrong, fit, SIZE)
    kept = slice(5, -5)
    assert np.abs(mended.pixels[kept] - given.pixels[kept]).max() < 0.012 * max(SIZE)
    assert mended.score[kept].min() > 0


def test_a_person_who_stands_still_says_nothing_about_the_time():
    given, samples = tracks()
    still = dataclasses.replace(given, pixels=given.pixels[:1].repeat(len(given.pixels), 0))
    watched = [(k, samples[0][1], samples[0][2]) for k, _, _ in samples]
    fit = compare(late(still, 3), watched, SIZE, FPS)
    assert fit.is_none
    assert fit.is_sure
    assert not fit.confirms


def test_among_several_people_the_nearest_pair_counts():
    given, samples = tracks()
    away = np.array((90.0, 5.0))
    two = dataclasses.replace(
        given, pixels=np.concatenate((given.pixels + away, given.pixels), 1), score=given.score.repeat(2, 1)
    )
    fit = compare(late(two, 2), samples, SIZE, FPS)
    assert (fit.offset, fit.scale, fit.view.name) == (2, 1.0, "")


def test_nothing_is_compared_with_too_few_pictures():
    given, samples = tracks()
    assert compare(given, samples[:5], SIZE, FPS) is None
    assert compare(dataclasses.replace(given, score=0 * given.score), samples, SIZE, FPS) is None
