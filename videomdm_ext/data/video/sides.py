"""Left and right that a detector exchanges for a while, as on a person who turns: found, and put back.

The differences D_t of left and right joints, in space or in the image, turn slowly: between frames a moment apart
cos(D_t, D_t-1) is near 1, and near -1 where the sides were exchanged in between. Which frames are exchanged is the
cheapest sequence of signs s_t (Viterbi's algorithm) with the cost 1 - s_t s_t-1 cos(D_t, D_t-1) of each step and, of
each frame, PRIOR if it is exchanged; in the image also 1 - s_t cos with the lifted motion as the camera sees it.
"""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.video.comparing import direct, other_side
from videomdm_ext.data.video.people import LONGEST_GAP, SEEN, segments
from videomdm_ext.data.video.watch import Sighting
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, DIRECT, Layout, Numbers

PRIOR = 0.02  # cost of a frame with exchanged sides: of two parts the shorter one is exchanged
FLIP = -0.3  # cosine of two frames below which the sides were exchanged between them
DOUBTED = 0.5  # factor on the confidence of a part that is exchanged up to an end: it may be the other part
_LEFT = [i for i, name in enumerate(DIRECT) if name.startswith("l_")]
_RIGHT = [DIRECT.index(other_side(DIRECT[i])) for i in _LEFT]


@dataclass(frozen=True)
class Sides:
    """How many frames had exchanged sides: `repaired` between right ones, and `doubted` up to an end of a track."""

    repaired: int = 0
    doubted: int = 0


def put_right(seen: Sighting) -> tuple[Sighting, Sides]:
    """The sighting with its sides put right, and how many frames had others."""
    one_tool = seen.layout is BLAZEPOSE33  # image and space come from one network, which exchanges both
    lifted = seen.presence > 0
    space, _ = direct(seen.world, np.ones(seen.world.shape[:2]), BLAZEPOSE33)
    image, score = direct(seen.pixels, seen.score, seen.layout)
    linked = _linked(seen, image, score)
    known = (score[:, _LEFT] > SEEN) & (score[:, _RIGHT] > SEEN)
    flat = (image[:, _LEFT] - image[:, _RIGHT]) * known[..., None]
    deep = space[:, _LEFT] - space[:, _RIGHT]
    in_space = _exchanged(deep, lifted, linked, np.zeros(len(deep)))
    world = _turned(seen.world, in_space != 0, BLAZEPOSE33)
    if one_tool:
        in_image = in_space
    else:
        deep = np.where((in_space != 0)[:, None, None], -deep, deep)
        seen_from_camera = np.where(lifted, _cosine(flat, deep[..., :2] * known[..., None]), 0.0)
        in_image = _exchanged(flat, known.sum(1) >= 3, linked, seen_from_camera)
    turned = in_image != 0
    pixels, score = _turned(seen.pixels, turned, seen.layout), _turned(seen.score, turned, seen.layout)
    doubted = np.maximum(in_image, in_space) == 2
    score = np.where(doubted[:, None], DOUBTED * score, score)
    wrong = turned | (in_space != 0)
    found = Sides(int((wrong & ~doubted).sum()), int(doubted.sum()))
    return dataclasses.replace(seen, pixels=pixels, score=score, world=world), found


def _linked(seen: Sighting, image: Numbers, score: Numbers) -> NDArray[np.bool_]:
    """Whether each frame [F] continues the one before: one track, no jump or cut, a moment apart."""
    apart = np.diff(seen.times, prepend=-np.inf) > LONGEST_GAP
    apart |= (np.diff(seen.part, prepend=-2.0) != 0) | (seen.cuts > 0)
    for first, _ in segments(seen.times, image, score, seen.cuts, bad=1e-6):
        apart[first] = True
    return ~apart


def _exchanged(
    between: Numbers, known: NDArray[np.bool_], linked: NDArray[np.bool_], told: Numbers
) -> NDArray[np.int64]:
    """Which frames [F] have exchanged sides: 0 no, 1 yes, 2 as far as one can tell; differences [F, 6, C].

    `told` [F] is the cosine with another witness, 0 without.
    """
    result = np.zeros(len(between), np.int64)
    rows = np.flatnonzero(known)
    breaks = [i for i in range(1, len(rows)) if not linked[rows[i - 1] + 1 : rows[i] + 1].all()]
    for part in np.split(rows, breaks):
        if len(part) < 3:
            continue
        steps = _cosine(between[part[1:]], between[part[:-1]])
        signs = _cheapest(steps, told[part])
        edges = [0, *(np.flatnonzero(np.diff(signs)) + 1), len(part)]
        for start, stop in pairwise(edges):
            if signs[start] > 0:
                continue
            witness = told[part[start:stop]].mean()
            ends = [steps[edge - 1] for edge in (start, stop) if 0 < edge < len(part)]
            if witness < FLIP:
                result[part[start:stop]] = 1
            elif ends and max(ends) < FLIP and witness <= 0:
                result[part[start:stop]] = 1 if len(ends) == 2 else 2
    return result


def _cheapest(steps: Numbers, told: Numbers) -> NDArray[np.int64]:
    """Signs [N] by Viterbi's algorithm; steps [N - 1] are the cosines of neighbours."""
    own = np.stack((1 - told, 1 + told + PRIOR), 1)  # of sign 1 and -1
    cost, came = own[0], np.zeros((len(told), 2), np.int64)
    for at, step in enumerate(steps, 1):
        moves = cost[:, None] + np.array(((1 - step, 1 + step), (1 + step, 1 - step)))
        came[at] = moves.argmin(0)
        cost = moves.min(0) + own[at]
    signs, state = np.zeros(len(told), np.int64), int(cost.argmin())
    for at in range(len(told) - 1, -1, -1):
        signs[at], state = (1, -1)[state], int(came[at][state])
    return signs


def _cosine(one: Numbers, other: Numbers) -> Numbers:
    """Cosine of differences [..., 6, C] as vectors; 0 where one has no length."""
    lengths = np.sqrt((one**2).sum((-1, -2)) * (other**2).sum((-1, -2)))
    return np.asarray((one * other).sum((-1, -2)) / np.maximum(lengths, 1e-9))


def _turned(values: Any, rows: NDArray[np.bool_], layout: Layout) -> Numbers:
    """Values [F, K, ...] with the sides of those frames exchanged."""
    order = [layout.index(other_side(name)) for name in layout.joints]
    where = rows.reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(where, values[:, order], values)
