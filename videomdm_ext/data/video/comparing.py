"""Whether another tool's keypoints belong to the pictures: they are compared with what the watcher sees in some.

A person's 12 joints in pixels, w of the watcher and g of the other tool, are to agree up to a frame offset d, a scale s
and a view: w_i = s R g_(k(i) - d) + c, k(i) the frame of sample i; R and c are those of a picture that was mirrored or
turned, or of exchanged sides. Distances count in shares of the person's size and at most FAR each (a robust mean),
after the constant part by which two tools place a joint differently (BIAS at most). Of all views and of scales on a
grid the nearest is taken, its scale is fitted by least squares, and every offset is tried; how often it stays the best
one in random samples with replacement of the pictures (Efron's bootstrap) is how sure it is. `as_pictured`
corrects the keypoints so, or refuses them.
"""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.video.detections import Detections
from videomdm_ext.data.video.frames import Video
from videomdm_ext.data.video.people import FEWEST_JOINTS, SEEN
from videomdm_ext.errors import DatasetError, counted
from videomdm_ext.motion.joint_maps import DIRECT, Layout, Numbers

SAMPLES = 48  # pictures that are compared, about
FEWEST = 6  # pictures with a person in both, at least
MOST_PEOPLE = 4  # people of a picture that are compared, the tallest ones
FAR, BIAS = 0.3, 0.05  # shares of a person's size
GOOD, ROUGH, WRONG = 0.07, 0.08, 0.12
"""Mean distance up to which keypoints agree, beyond which they do so roughly, and belong to something else."""
BETTER = 0.75  # share of its distance by which another offset, scale or view has to be nearer
SURE = 0.95  # share of the random samples that agree
NEARER, SUREST = 0.9, 0.99  # the same for one frame
RESAMPLED = 400
OFFSET, OFFSETS = 2.0, 120  # seconds, and frames, by which keypoints may be early or late at most
SCALES = np.exp(np.arange(-14, 15) * 0.1)  # a quarter to four times
SAME_SCALE = 0.03  # scales that differ by less are a matter of the tools
SIDES = (240, 256, 360, 480, 512, 540, 640, 720, 768, 800, 960, 1024, 1080, 1280, 1333, 1440, 1920, 2160, 3840)


@dataclass(frozen=True)
class View:
    """How the other tool's picture lies to ours: `turn` [2, 2], `shift` [2] in widths and heights, and the sides."""

    name: str
    turn: Numbers
    shift: Numbers
    exchanged: bool = False

    def seen(self, points: Numbers, size: Numbers, scale: float) -> Numbers:
        """Points [..., 2] of the other tool in our picture of `size` [2]."""
        return np.asarray(scale * (points @ self.turn.T) + self.shift * size)


SAME = View("", np.eye(2), np.zeros(2))
VIEWS = (
    SAME,
    View("left and right exchanged", np.eye(2), np.zeros(2), exchanged=True),
    View("a mirrored picture", np.diag((-1.0, 1.0)), np.array((1.0, 0.0)), exchanged=True),
    View("a mirrored picture with right sides", np.diag((-1.0, 1.0)), np.array((1.0, 0.0))),
    View("a picture turned by 90 degrees", np.array(((0.0, -1.0), (1.0, 0.0))), np.array((1.0, 0.0))),
    View("a picture turned by 180 degrees", np.diag((-1.0, -1.0)), np.ones(2)),
    View("a picture turned by 270 degrees", np.array(((0.0, 1.0), (-1.0, 0.0))), np.array((0.0, 1.0))),
)


@dataclass(frozen=True)
class Fit:
    """What lets keypoints agree with the pictures best: entry k is frame k + `offset`, then `view` and `scale`.

    `before` and `after` are mean distances in shares of a person's size without and with it. `is_sure`: it may be used;
    `confirms`: the offset is as the names of the files have it, and no other one will do.
    """

    offset: int
    scale: float
    view: View
    before: float
    after: float
    is_sure: bool
    confirms: bool

    @property
    def is_none(self) -> bool:
        """Whether nothing is to be changed."""
        return self.offset == 0 and self.scale == 1.0 and self.view is SAME


Sample = tuple[int, Numbers, Numbers]  # number of the frame, pixels [P, 12, 2] and score [P, 12] of its people


def as_pictured(
    given: Detections, samples: Sequence[Sample], video: Video, place: str, *, as_given: bool = False
) -> tuple[Detections, list[str]]:
    """Detections in pixels of `video.size`, corrected where the pictures show that they are of other frames, of another
    size or side; and notes. DatasetError where they cannot be of this video."""
    notes, size, rate = list(given.notes), video.size, given.rate
    square = dataclasses.replace(given, pixels=given.pixels * video.scale.min())  # if its pixels were square already
    given = dataclasses.replace(given, pixels=given.pixels * video.scale)
    fit = compare(given, samples, size, video.fps)
    if fit is None:
        _check_reach(given, size, place)
        what = "they bring their own depth" if given.world is not None else "MediaPipe sees too few of these people"
        what = "they are taken as given" if as_given else what
        notes.append(f"{place}: nothing compares these keypoints with the picture ({what}): look at the sheets.")
        return given, [*notes, *([given.doubt] if given.doubt else [])]
    other = compare(square, samples, size, video.fps) if np.ptp(video.scale) > 0 else None
    if other and other.after < BETTER * fit.after:
        notes.append(f"{place}: the keypoints are taken to be in square pixels, as the picture is shown.")
        fit, given = other, square
    if rate > 1:
        at = np.arange(len(given.score))
        score = given.score[at // rate] * (at % rate == 0)[:, None, None]
        spread = dataclasses.replace(given, pixels=given.pixels[at // rate], score=score)
        other = compare(spread, samples, size, video.fps)
        if other and other.after < BETTER * fit.after:
            raise DatasetError(
                f"{place}: expected keypoints of every frame, found those of one in {rate}, with which the "
                "pictures agree better. Give each the number of its frame, or detect in every frame."
            )
    far, rest = (f"{100 * share:.0f} % of a person's size" for share in (fit.before, fit.after))
    if fit.before > WRONG and not fit.is_sure:
        raise DatasetError(
            f"{place}: expected the keypoints of this video, found them {far} from where MediaPipe sees the joints, "
            "and no nearer in other frames, at another scale or with other sides. Do they belong to this video, at its "
            "frame rate? Where MediaPipe is wrong, as on a sheet of the video without them, --as-given (--option "
            "as_given=yes) takes them as they are."
        )
    if fit.is_sure and not fit.is_none:
        way = "later" if fit.offset > 0 else "earlier"
        changes = [f"{counted(abs(fit.offset), 'frame')} {way}"] if fit.offset else []
        changes += [f"scaled by {fit.scale:.3f}"] if fit.scale != 1.0 else []
        changes += [f"as of {fit.view.name}"] if fit.view.name else []
        were = f"The keypoints were {far} from where MediaPipe sees the joints, now {rest}."
        notes.append(f"{place}: corrected: {', '.join(changes)}. {were}")
        given = corrected(given, fit, size)
    elif fit.before > ROUGH:
        what = f"the keypoints are {far} from where MediaPipe sees the joints, and nothing tells why"
        notes.append(f"{place}: {what}: look at the sheets.")
    if given.doubt and not fit.confirms:
        notes.append(given.doubt)
    return given, notes


def _check_reach(given: Detections, size: tuple[int, int], place: str) -> None:
    """Refuse keypoints most of which would be outside the picture."""
    points = given.pixels[given.score > 0]
    if len(points) and not np.all((np.median(points, 0) >= 0) & (np.quantile(points, 0.75, 0) <= np.array(size))):
        x, y = np.quantile(points, 0.75, 0)
        raise DatasetError(
            f"{place}: expected keypoints in a picture of {size[0]} x {size[1]}, found a quarter of them beyond "
            f"x = {x:.0f} or y = {y:.0f}. Give them in pixels of this video."
        )


def compare(given: Detections, samples: Sequence[Sample], size: tuple[int, int], fps: float) -> Fit | None:
    """The fit to what the watcher saw in some pictures.

    `given` is in pixels of a picture of `size`. None where there is too little to compare.
    """
    rows = [(k, p, s) for k, p, s in samples if len(p)]
    points, scores = direct(given.pixels[:, :MOST_PEOPLE], given.score[:, :MOST_PEOPLE], given.layout)
    frames = np.flatnonzero((scores > SEEN).sum(-1).max(-1) >= FEWEST_JOINTS)
    if len(rows) < FEWEST or len(frames) == 0:
        return None
    most = min(OFFSETS, max(2, round(OFFSET * fps)), len(points) - 1)
    offsets = np.arange(-most, most + 1)
    ground = _Ground(points, scores, rows, np.array(size, float))
    same = ground.costs(SAME, 1.0, offsets)
    if not _enough(same).any() or not np.isfinite(same).any():
        return None
    view, scale = _seen_as(ground, offsets, float(_mean(same).min()))
    scale = _usual(scale, size)
    costs = ground.costs(view, scale, offsets, unbiased=True)
    mean = _mean(costs)
    at, zero, before = int(mean.argmin()), most, float(_mean(ground.costs(SAME, 1.0, offsets, unbiased=True))[most])
    share, offset = _shares(costs, at), int(offsets[at])
    near = float(share[max(at - 1, 0) : at + 2].sum())
    if abs(offset) == 1:
        is_late = share[at] >= SUREST and mean[at] < NEARER * mean[zero]
    else:
        is_late = offset != 0 and near >= SURE and share[zero] < 1 - SURE and mean[at] < BETTER * mean[zero]
    offset, after = (offset, float(mean[at])) if is_late else (0, float(mean[zero]))
    is_same = offset == 0 and scale == 1.0 and view is SAME
    is_sure = after <= WRONG and (is_same or after < NEARER * before)
    return Fit(offset, scale, view, before, after, is_sure, bool(share[zero if offset == 0 else at] >= SURE))


def _seen_as(ground: "_Ground", offsets: NDArray[Any], same: float) -> tuple[View, float]:
    """The view and the scale that let keypoints agree best, as they are where these agree, or as well, in `same`."""
    best, view, scale = BETTER * same, SAME, 1.0
    exchanged = _mean(ground.costs(VIEWS[1], 1.0, offsets)).min()
    if exchanged < best:
        best, view = exchanged, VIEWS[1]
    if min(same, exchanged) <= GOOD:
        return view, scale
    some = offsets[:: max(1, len(offsets) // 10)]
    few = ground.thinned()
    for one in VIEWS:
        found = [(_mean(few.costs(one, s, some)), s) for s in SCALES]
        cost, factor = min(found, key=lambda row: row[0].min())
        at = int(some[cost.argmin()])
        for reach in (len(offsets) // 10, 3, 3):
            factor *= few.refit(one, factor, at)
            around = offsets[np.abs(offsets - at) <= reach]
            at = int(around[_mean(few.costs(one, factor, around)).argmin()])
        factor *= ground.refit(one, factor, at)
        nearest = _mean(ground.costs(one, factor, offsets[np.abs(offsets - at) <= 3])).min()
        if nearest < best:
            best, view, scale = nearest, one, factor
    if scale == 1.0:
        return view, scale
    # who runs through the picture is as near with a little of another scale at another offset: all of them are tried
    wide = offsets[:: max(1, len(offsets) // 60)]
    tried = [(_mean(ground.costs(view, s, wide)), s) for s in scale * np.exp(0.02 * np.arange(-5, 6))]
    cost, scale = min(tried, key=lambda row: row[0].min())
    at = int(wide[cost.argmin()])
    around = offsets[np.abs(offsets - at) <= 3]
    at = int(around[_mean(ground.costs(view, scale, around)).argmin()])
    return view, float(scale * ground.refit(view, scale, at))


def _usual(scale: float, size: tuple[int, int]) -> float:
    """1, or the scale from a picture one of whose sides is of a usual length, where that is as good."""
    if abs(np.log(scale)) < SAME_SCALE:
        return 1.0
    nice = [side / other for side in size for other in SIDES] + [a / b for a in range(1, 6) for b in range(1, 6)]
    found = min(nice, key=lambda one: abs(np.log(one / scale)))
    return float(found if abs(np.log(found / scale)) < SAME_SCALE / 2 else scale)


def corrected(given: Detections, fit: Fit, size: tuple[int, int]) -> Detections:
    """Detections as they are after a fit: moved in time, scaled, and seen as in our picture."""
    pixels, score = fit.view.seen(given.pixels, np.array(size, float), fit.scale), given.score
    if fit.view.exchanged:
        order = mirror_of(given.layout)
        pixels, score = pixels[..., order, :], score[..., order]
    came = np.arange(len(score)) - fit.offset
    inside = (came >= 0) & (came < len(score))
    came = came.clip(0, len(score) - 1)
    score = np.where(inside[:, None, None], score[came], 0.0)
    return dataclasses.replace(given, pixels=pixels[came], score=score)


def other_side(joint: str) -> str:
    """The name of the joint on the other side, its own where it has none."""
    return {"l_": "r_", "r_": "l_"}.get(joint[:2], joint[:2]) + joint[2:]


def mirror_of(layout: Layout) -> list[int]:
    """Of each joint of a layout the number of the one on the other side."""
    return [layout.index(other_side(name)) for name in layout.joints]


MIRROR = [DIRECT.index(other_side(name)) for name in DIRECT]


def direct(pixels: Numbers, score: Numbers, layout: Layout) -> tuple[Numbers, Numbers]:
    """The joints that are compared, [..., 12, 2] and [..., 12]."""
    order = [layout.index(name) for name in DIRECT]
    return pixels[..., order, :], score[..., order]


class _Ground:
    """What is compared: samples [N, P, 12, 2] of the watcher and keypoints [F, Q, 12, 2] of the other tool.

    Distances count in `spans` [N, P], the pixels of the person's longer side.
    """

    def __init__(self, points: Numbers, scores: Numbers, rows: Sequence[Any], size: Numbers) -> None:
        people = min(MOST_PEOPLE, max(len(p) for _, p, _ in rows))
        self.points, self.scores, self.size = points, scores, size
        self.frames = np.array([k for k, _, _ in rows])
        self.watched, self.sure = np.zeros((len(rows), people, 12, 2)), np.zeros((len(rows), people, 12))
        self.spans = np.ones((len(rows), people))
        for row, (_, p, s) in enumerate(rows):
            spans = np.array([np.ptp(one[sure > SEEN], axis=0).max(initial=0.0) if (sure > SEEN).any() else 0.0
                              for one, sure in zip(p, s, strict=True)])  # fmt: skip
            who = np.argsort(-spans)[:people]
            here = slice(len(who))
            self.watched[row, here], self.sure[row, here] = p[who], s[who]
            self.spans[row, here] = spans[who].clip(1.0)

    def thinned(self) -> "_Ground":
        """Fewer samples with wide spans: for a first look, which a scale that is a little off must not mislead."""
        few = copy.copy(self)
        rows = slice(None, None, max(1, len(self.frames) // 16))
        few.frames, few.watched, few.sure = self.frames[rows], self.watched[rows], self.sure[rows]
        few.spans = self.spans[rows].clip(self.size.max() / 4)
        return few

    def nearest(self, view: View, scale: float, offset: int) -> tuple[Numbers, NDArray[np.bool_], NDArray[Any]]:
        """Vectors [N, 12, 2] from keypoints to the watcher's of each sample's nearest pair, in shares of a person,
        which count, and which of the watcher's people it is [N]."""
        at = self.frames - offset
        inside = (at >= 0) & (at < len(self.points))
        at = at.clip(0, len(self.points) - 1)
        order = MIRROR if view.exchanged else slice(None)
        shown = view.seen(self.points[at][:, :, order], self.size, scale)
        known = (self.scores[at][:, :, order] > SEEN) & inside[:, None, None]
        both = known[:, None] & (self.sure > SEEN)[:, :, None]
        both &= (both.sum(-1) >= FEWEST_JOINTS)[..., None]
        apart = (self.watched[:, :, None] - shown[:, None]) / self.spans[:, :, None, None, None]
        best = np.nan_to_num(_distance(apart, both), nan=np.inf).reshape(len(at), -1).argmin(1)
        rows, who = np.arange(len(at)), np.divmod(best, apart.shape[2])
        return apart[rows, *who], both[rows, *who], who[0]

    def costs(self, view: View, scale: float, offsets: NDArray[Any], *, unbiased: bool = False) -> Numbers:
        """Distance of the nearest pair of each sample at each offset, [N, D]; NaN where there is none.

        `unbiased`: less what is constant of each joint.
        """
        found = []
        for offset in offsets:
            apart, both, _ = self.nearest(view, scale, int(offset))
            if unbiased and both.any():
                some = both.any(0)
                bias = np.zeros((12, 2))
                bias[some] = np.nanmedian(np.where(both[..., None], apart, np.nan)[:, some], axis=0)
                length = np.linalg.norm(bias, axis=-1, keepdims=True)
                apart = apart - bias * np.minimum(1.0, BIAS / length.clip(1e-9))
            found.append(_distance(apart, both))
        return np.stack(found, 1)

    def refit(self, view: View, scale: float, offset: int) -> float:
        """The factor on the scale by least squares of the nearest pairs, w - c = f s R g, outliers aside."""
        apart, both, who = self.nearest(view, scale, offset)
        rows = np.arange(len(apart))
        spans = self.spans[rows, who][:, None]
        target = self.watched[rows, who] - view.shift * self.size
        shown = target - apart * spans[..., None]
        weight = (both & (np.linalg.norm(apart, axis=-1) < FAR))[..., None] / spans[..., None] ** 2
        below = (weight * shown * shown).sum()
        return float((weight * shown * target).sum() / below) if below > 0 else 1.0


def _distance(apart: Numbers, both: NDArray[np.bool_]) -> Numbers:
    """Mean length, at most FAR, of vectors [..., 12, 2] that count; NaN where none does."""
    count = both.sum(-1)
    total = (np.minimum(np.linalg.norm(apart, axis=-1), FAR) * both).sum(-1)
    return np.where(count > 0, total / count.clip(1), np.nan)


def _enough(costs: Numbers) -> NDArray[np.bool_]:
    """Offsets [D] at which enough of the samples [N, D] can be compared."""
    count = np.isfinite(costs).sum(0)
    return np.asarray(count >= max(FEWEST, 0.6 * count.max()))


def _mean(costs: Numbers) -> Numbers:
    """Mean over the samples [D]; infinite where there are too few."""
    known = np.isfinite(costs)
    mean = np.where(known, costs, 0.0).sum(0) / known.sum(0).clip(1)
    return np.where(_enough(costs), mean, np.inf)


def _shares(costs: Numbers, at: int) -> Numbers:
    """Share of random samples of the pictures in which each offset is the best one [D]."""
    draw = np.random.default_rng(0)
    picks = draw.multinomial(len(costs), np.full(len(costs), 1 / len(costs)), RESAMPLED).astype(float)
    known = np.isfinite(costs)
    total, count = picks @ np.where(known, costs, 0.0), picks @ known
    mean = np.where((count > 0) & _enough(costs), total / count.clip(1e-9), np.inf)
    return np.bincount(mean.argmin(1), minlength=costs.shape[1]) / RESAMPLED
