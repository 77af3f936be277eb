"""The base class refuses a lifter that does not declare or return what the project works in."""

import pytest
from lifters.contract import LifterContract
from torch import Tensor

from videomdm_ext.errors import PluginError
from videomdm_ext.lifters.base import Lifter, LifterInfo
from videomdm_ext.motion.skeletons import NBA16, SMPL22


class Faithful(Lifter):
    """Returns the truth, or what a test makes of it."""

    def __init__(self, change=lambda truth: truth):
        self.info = LifterInfo("faithful", NBA16, fps=25.0)
        self.change = change

    def positions(self, clip_id, keypoints, confidence, extrinsics, fps, truth) -> Tensor:
        assert extrinsics.shape == (len(keypoints), 3, 4)
        return self.change(truth)


class TestFaithfulLifter(LifterContract):
    fps = 25.0

    def make(self) -> Lifter:
        return Faithful()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda truth: truth[:-1], r"returned \[39, 16, 3\] for clip, expected a tensor \[40, 16, 3\]"),
            (lambda truth: truth[:, :-1], "skeleton that it declares"),
            (lambda truth: truth.numpy(), "returned ndarray"),
            (lambda truth: truth * float("nan"), "NaN or infinite"),
        ],
    )
    def test_a_wrong_answer_is_refused_and_names_the_lifter(self, change, message: str):
        lifter = Faithful(change)
        with pytest.raises(PluginError, match=message) as caught:
            lifter.lift("clip", **self.sight(lifter), fps=25.0)
        assert "faithful" in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"units": "mm"}, "units 'mm', expected 'm'"),
        ({"up_axis": "z"}, "up_axis 'z', expected 'y'"),
        ({"fps": 0.0}, "0.0 fps"),
        ({"fps": float("nan")}, "nan fps"),
    ],
)
def test_a_lifter_in_other_units_axes_or_rates_is_refused(declared: dict, message: str):
    with pytest.raises(PluginError, match=message):
        LifterInfo("odd", SMPL22, **declared)
