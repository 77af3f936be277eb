"""Descriptions of lifters' files: what they say is checked, and axes and units are turned the right way."""

import pytest
import torch

from videomdm_ext.errors import ConfigError
from videomdm_ext.lifters.results import Description

AXES = torch.eye(3)  # x, y and z, one a row


@pytest.mark.parametrize(
    ("frame", "up", "expected"),
    [
        ("world", "y", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        ("world", "z", ((1, 0, 0), (0, 0, -1), (0, 1, 0))),
        ("own", "-y", ((1, 0, 0), (0, -1, 0), (0, 0, -1))),
        ("camera", "-y", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        ("camera", "y", ((1, 0, 0), (0, -1, 0), (0, 0, -1))),
    ],
)
def test_axes_come_out_as_ours_and_right_handed(frame: str, up: str, expected: tuple):
    found = Description("smpl22", frame=frame, up_axis=up).turned(AXES)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    assert torch.linalg.det(found) == 1


@pytest.mark.parametrize(("units", "metres"), [("m", 2.0), ("cm", 0.02), ("mm", 0.002)])
def test_units_become_metres(units: str, metres: float):
    assert Description("smpl22", units=units).turned(torch.full((3,), 2.0))[0].item() == pytest.approx(metres)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"skeleton": "smpl99"}, "skeleton of the lifter: expected one of smpl22, .*, found 'smpl99'"),
        ({"units": "inch"}, "units of the lifter: expected one of m, cm, mm, found 'inch'"),
        ({"frame": "room"}, "frame of the lifter: expected one of camera, world, own, found 'room'"),
        ({"up_axis": "z"}, "up of the lifter: expected one of -y, y of frame camera, found 'z'"),
        ({"scale": "big"}, "scale of the lifter: expected one of metric, arbitrary, found 'big'"),
        ({"root": "gone"}, "root of the lifter: expected one of absolute, relative, found 'gone'"),
        ({"fps": 0.0}, "expected a number above 0, found 0"),
        ({"fps": float("nan")}, "expected a number above 0, found nan"),
        ({"frame": "own", "up_axis": "y", "root": "relative"}, "expected absolute with frame own"),
        ({"frame": "world", "up_axis": "y", "scale": "arbitrary"}, "Say root=relative"),
    ],
)
def test_a_description_that_cannot_be_is_refused(wrong: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Description(**{"skeleton": "smpl22", **wrong})


def test_options_change_a_description_and_another_frame_brings_its_usual_up_axis():
    given = {"skeleton": "coco17", "units": "mm", "up": "z", "fps": "30", "frame": "world", "root": "relative"}
    changed = Description("smpl22").changed(given)
    assert changed == Description("coco17", "mm", "z", 30.0, "world", "metric", "relative")
    assert Description("smpl22").changed({"frame": "own"}).up_axis == "y"
    assert Description("smpl22", frame="own", up_axis="z").changed({"frame": "world"}).up_axis == "z"
    assert Description("smpl22", frame="own", up_axis="y").changed({"frame": "camera"}).up_axis == "-y"
    with pytest.raises(ConfigError, match="found nan"):
        Description("smpl22").changed({"fps": "fast"})
    with pytest.raises(ConfigError, match="found 'room'"):
        Description("smpl22").changed({"frame": "room"})
