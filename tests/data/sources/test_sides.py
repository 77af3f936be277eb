"""Sides that a detector exchanges for a while are put right; a person who turns is not touched."""

import dataclasses

import numpy as np
import pytest
from filmed import SIZE, film

from videomdm_ext.data.video.comparing import mirror_of
from videomdm_ext.data.video.pieces import Sides, put_right
from videomdm_ext.data.video.watch import Sighting
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, COCO17


def turning(*, turns=1.0, noise=0.01, layout=BLAZEPOSE33):
    """A person who walks and turns about the vertical axis, as MediaPipe sees it, or another tool beside it."""
    one = film("walk", noise=0.0)
    count = len(one.times)
    angle = np.linspace(0, 2 * np.pi * turns, count)
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(count)
    turn = np.stack((cos, zero, sin, zero, zero + 1, zero, -sin, zero, cos), 1).reshape(count, 3, 3)
    world = np.einsum("fij,fkj->fki", turn, one.world)
    world += noise * np.random.default_rng(0).standard_normal(world.shape)
    shown = world + np.array((0.0, 0.0, 4.0))
    pixels = 300 * shown[..., :2] / shown[..., 2:] + np.array(SIZE) / 2
    pick = [BLAZEPOSE33.index(name) for name in layout.joints]
    ones, zeros = np.ones(count), np.zeros(count)
    return Sighting(
        layout, SIZE, one.times, pixels[:, pick], np.full((count, len(pick)), 0.9), world, ones, zeros, zeros
    )


def exchange(seen, rows, *, image=True, space=True):
    pixels, score, world = seen.pixels.copy(), seen.score.copy(), seen.world.copy()
    order = mirror_of(seen.layout)
    if image:
        pixels[rows], score[rows] = pixels[rows][:, order], score[rows][:, order]
    if space:
        world[rows] = world[rows][:, mirror_of(BLAZEPOSE33)]
    return dataclasses.replace(seen, pixels=pixels, score=score, world=world)


@pytest.mark.parametrize("layout", [BLAZEPOSE33, COCO17], ids=lambda one: one.name)
@pytest.mark.parametrize("turns", [0.0, 1.0, -2.0])
def test_a_person_who_turns_is_untouched_and_exchanged_stretches_are_repaired(layout, turns):
    seen = turning(turns=turns, layout=layout)
    kept, found = put_right(seen)
    assert found == Sides()
    assert np.array_equal(kept.pixels, seen.pixels)
    assert np.array_equal(kept.world, seen.world)
    wrong = exchange(
        exchange(seen, slice(12, 25), space=layout is BLAZEPOSE33), slice(40, 43), space=layout is BLAZEPOSE33
    )
    mended, found = put_right(wrong)
    assert found == Sides(repaired=16)
    assert np.array_equal(mended.pixels, seen.pixels)
    assert np.array_equal(mended.world, seen.world)
    assert np.array_equal(mended.score, seen.score)


def test_a_lifted_motion_that_is_exchanged_alone_is_repaired_too():
    seen = turning(layout=COCO17)
    mended, found = put_right(exchange(seen, slice(20, 30), image=False))
    assert found == Sides(repaired=10)
    assert np.array_equal(mended.world, seen.world)
    assert np.array_equal(mended.pixels, seen.pixels)


def test_where_one_cannot_tell_which_part_is_exchanged_the_shorter_one_counts_less():
    seen = turning()
    mended, found = put_right(exchange(seen, slice(50, None)))
    assert found == Sides(doubted=len(seen.times) - 50)
    assert np.array_equal(mended.pixels, seen.pixels)
    assert mended.score[50:].max() == pytest.approx(0.45)
    assert mended.score[:50].min() == pytest.approx(0.9)


def test_behind_a_jump_of_the_person_the_sides_begin_anew():
    seen = turning()
    other = exchange(seen, slice(50, None))  # as at a cut between pictures of like colours
    other.pixels[50:] += 3 * np.ptp(other.pixels[0], axis=0)
    assert put_right(other)[1] == Sides()


def test_another_track_begins_anew():
    seen = turning()
    half = len(seen.times) // 2
    part = np.where(np.arange(len(seen.times)) < half, 0.0, 1.0)
    other = dataclasses.replace(exchange(seen, slice(half, None)), part=part)  # perhaps a person seen from behind
    assert put_right(other)[1] == Sides()
