"""From detected joints to SMPL's 22: right names, right sides, and torso joints where real bodies have them."""

import numpy as np
import pytest
from clips import motion
from filmed import DIRECT, blaze

from videomdm_ext.motion.joint_maps import BLAZEPOSE33, BY_COUNT, COCO17, DETECTORS, LAYOUTS, confidence22, to_smpl22
from videomdm_ext.motion.skeletons import SMPL22


@pytest.mark.parametrize("layout", DETECTORS, ids=[layout.name for layout in DETECTORS])
def test_maps_follow_a_moved_person_and_exchanged_sides(layout):
    points = np.random.default_rng(0).standard_normal((len(layout.joints), 3))
    shift = np.array((1.0, -2.0, 3.0))
    assert np.allclose(to_smpl22(points + shift, layout), to_smpl22(points, layout) + shift)
    other = {"l": "r", "r": "l"}
    swap = [layout.index(other[j[0]] + j[1:]) if j[1] == "_" else layout.index(j) for j in layout.joints]
    points = np.random.default_rng(1).standard_normal((len(layout.joints), 2))
    assert np.allclose(to_smpl22(points[swap], layout), to_smpl22(points, layout)[list(SMPL22.mirror)])


@pytest.mark.parametrize(
    ("layout", "left_wrist", "right_ankle", "left_hip"),
    [("coco17", 9, 16, 11), ("halpe26", 9, 16, 11), ("body25", 7, 11, 12), ("blazepose33", 15, 28, 23)],
)
def test_direct_joints_are_where_each_detector_has_them(layout, left_wrist, right_ankle, left_hip):
    points = np.arange(len(LAYOUTS[layout].joints) * 2.0).reshape(-1, 2)
    found = to_smpl22(points, LAYOUTS[layout])
    for joint, index in (("l_wrist", left_wrist), ("r_ankle", right_ankle), ("l_hip", left_hip)):
        assert np.array_equal(found[SMPL22.index(joint)], points[index])


def test_derived_joints_are_the_stated_fractions_of_the_torso_near_those_of_real_motion():
    points = np.random.default_rng(2).standard_normal((33, 3))
    found = dict(zip(SMPL22.joints, to_smpl22(points, BLAZEPOSE33), strict=True))
    hips, shoulders, ears = points[[23, 24]].mean(0), points[[11, 12]].mean(0), points[[7, 8]].mean(0)
    u = shoulders - hips
    assert np.allclose(found["pelvis"], hips + 0.201 * u)
    assert np.allclose(found["neck"], hips + 1.074 * u)
    assert np.allclose(found["head"], shoulders + 0.8 * (ears - shoulders))
    collar = hips + 0.936 * u
    assert np.allclose(found["r_collar"], collar + 0.4 * (points[12] - collar))
    assert np.allclose(found["l_foot"], points[31] + 0.3 * (points[29] - points[31]))
    true = motion("walk").double().numpy()
    found = to_smpl22(blaze(true), BLAZEPOSE33)
    apart = np.linalg.norm(found - true, axis=-1).mean(0)
    assert apart[DIRECT].max() < 1e-9
    assert apart[SMPL22.index("head")] < 1e-9
    assert apart.max() < 0.12, apart  # 12 cm: the motions' spines are not those the fractions were measured on


def test_confidence_is_that_of_the_least_sure_joint_low_where_it_is_derived_and_none_of_feet_without_toes():
    score = np.full(33, 0.9)
    score[15] = 0.4
    found = dict(zip(SMPL22.joints, confidence22(score, BLAZEPOSE33), strict=True))
    assert found["l_wrist"] == pytest.approx(0.4)
    assert found["r_wrist"] == pytest.approx(0.9)
    assert found["spine2"] == pytest.approx(0.27)
    assert found["l_foot"] == pytest.approx(0.63)
    score[24] = 0.0
    assert confidence22(score, BLAZEPOSE33)[SMPL22.index("pelvis")] == 0
    found = dict(zip(SMPL22.joints, confidence22(np.ones(17), COCO17), strict=True))
    assert found["l_foot"] == found["r_foot"] == 0
    assert found["l_ankle"] == 1
    small = {count: len(layout.joints) for count, layout in BY_COUNT.items() if count < 100}
    assert small == {count: count for count in (17, 18, 25, 26, 33)}
