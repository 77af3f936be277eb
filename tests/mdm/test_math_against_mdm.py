"""Features and scores against MDM's own functions: the same vector of the same positions, and of the same features the
same FID, R-precision, MM-dist, diversity."""

from collections.abc import Mapping

import forks
import numpy as np
import pytest
import torch
from people import real_motions
from tolerances import FEATURES_AGAINST_MDM

from videomdm_ext.bench import metrics
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import channels, encode
from videomdm_ext.motion.kinematics import HUMANML3D, bone_vectors, heading
from videomdm_ext.motion.skeletons import SMPL22

SCRIPT = """
import sys
import numpy as np
import torch
from videomdm_ext.mdm import remedies

remedies.prepare()
sys.path.insert(0, sys.argv[1])
from data_loaders.humanml.scripts.motion_process import extract_features
from data_loaders.humanml.utils import metrics, paramUtil

with np.load(sys.argv[2]) as stored:
    given = dict(stored)
motions, texts, truth, several = (given.pop(name) for name in ("motions", "texts", "truth", "several"))
offsets, chain = torch.from_numpy(paramUtil.t2m_raw_offsets), paramUtil.t2m_kinematic_chain
rest = (0.002, offsets, chain, [2, 1, 17, 16], [8, 11], [7, 10])
found = {name: extract_features(clip, *rest) for name, clip in given.items()}
own, real = (metrics.calculate_activation_statistics(rows) for rows in (motions, truth))
top, near = 0, 0.0
for at in range(0, len(motions), 32):
    top = top + metrics.calculate_R_precision(texts[at : at + 32], motions[at : at + 32], top_k=3, sum_all=True)
    near += metrics.euclidean_distance_matrix(texts[at : at + 32], motions[at : at + 32]).trace()
found |= {"fid": metrics.calculate_frechet_distance(*real, *own), "r_precision": top / len(motions),
          "mm_dist": near / len(motions)}
np.random.seed(7)
found["diversity"] = metrics.calculate_diversity(motions, 300)
np.random.seed(8)
found["multimodality"] = metrics.calculate_multimodality(several, 10)
np.savez(sys.argv[3], **found)
"""
CLIPS = {name: clip.double() for name, clip in real_motions().items()}


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    """-> features of texts, of motions, of true ones, and of several motions of a text."""
    draw = np.random.default_rng(0)
    texts = draw.standard_normal((320, 24))
    motions = texts + 1.3 * draw.standard_normal((320, 24)) * np.linspace(0.3, 2, 24)
    truth, several = texts + draw.standard_normal((320, 24)), draw.standard_normal((6, 30, 24))
    return {"motions": motions, "texts": texts, "truth": truth, "several": several}


@pytest.fixture(scope="module")
def theirs(
    mdm_checkout: Checkout, given: Mapping[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, np.ndarray]:
    """-> what MDM makes of the clips and of the features."""
    place = tmp_path_factory.mktemp("theirs")
    np.savez(place / "given.npz", **given, **{name: clip.numpy() for name, clip in CLIPS.items()})
    done = forks.run(["-c", SCRIPT, str(mdm_checkout.root), str(place / "given.npz"), str(place / "found.npz")])
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(place / "found.npz")


def conditioning(positions: torch.Tensor) -> torch.Tensor:
    """How well local rotations are determined, [T, J - 1]: falls to 0 as a bone opposes its rest direction."""
    bones = bone_vectors(positions, SMPL22)
    bones = bones / torch.linalg.vector_norm(bones, dim=-1, keepdim=True)
    real = (1.0 + (bones * bones.new_tensor(SMPL22.rest_directions[1:])).sum(-1)).clamp(0.0, 1.0).sqrt()
    with_root = torch.cat((torch.ones_like(real[:, :1]), real), -1)
    return torch.minimum(real, with_root[:, list(SMPL22.rotation_parents[1:])])


@pytest.mark.mdm("scipy", "tqdm")
def test_encode_by_humanml3ds_rule_equals_mdms_extract_features(theirs: Mapping[str, np.ndarray]) -> None:
    part = channels(SMPL22).rotations
    for name, clip in CLIPS.items():
        ours = encode(clip, SMPL22, heading(clip, SMPL22, HUMANML3D))[:-1]
        assert ours.shape == theirs[name].shape
        error = (ours - torch.from_numpy(theirs[name])).abs()
        error[:, part] *= conditioning(clip)[:-1].repeat_interleave(6, -1)
        assert error.max() < FEATURES_AGAINST_MDM, name


@pytest.mark.mdm("scipy", "tqdm")
def test_equal_features_have_equal_scores_by_mdms_functions_and_by_ours(
    given: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> None:
    made, words, real, drawn = (torch.from_numpy(given[name]) for name in ("motions", "texts", "truth", "several"))
    fid = metrics.frechet(*metrics.gaussian(made), *metrics.gaussian(real))
    assert fid == pytest.approx(float(theirs["fid"]), abs=1e-5)
    groups = torch.arange(320).split(32)
    ranked = metrics.r_precision_of_mdm(made, words, groups)
    assert ranked == pytest.approx(theirs["r_precision"].tolist(), abs=1e-5)
    assert 0.1 < ranked[0] < ranked[2] < 0.95
    assert metrics.r_precision(made, words, [str(n) for n in range(320)], groups) != pytest.approx(ranked, abs=1e-3)
    near = metrics.mm_distances(made, words).mean().item()
    assert near == pytest.approx(float(theirs["mm_dist"]), abs=1e-5)
    np.random.seed(7)
    pairs = [torch.from_numpy(np.random.choice(320, 300, replace=False)) for _ in range(2)]
    assert metrics.diversity(made, (pairs[0], pairs[1])) == pytest.approx(float(theirs["diversity"]), abs=1e-5)
    np.random.seed(8)
    first, second = (np.random.choice(30, 10, replace=False) for _ in range(2))
    drawn_pairs = torch.linalg.vector_norm(drawn[:, first] - drawn[:, second], dim=-1).mean().item()
    assert drawn_pairs == pytest.approx(float(theirs["multimodality"]), abs=1e-5)
    two = drawn[:, [first[0], second[0]]].transpose(0, 1)  # ours has all pairs of different ones, of two the only one
    assert metrics.multimodality(two) == pytest.approx(metrics.mm_distances(*two).mean().item())
