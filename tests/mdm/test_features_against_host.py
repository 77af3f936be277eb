"""Our feature vector against the one that MDM's own script makes of the same positions."""

from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from people import real_motions
from tolerances import FEATURES_AGAINST_MDM

from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import channels, encode
from videomdm_ext.motion.kinematics import HUMANML3D, bone_vectors, heading
from videomdm_ext.motion.skeletons import SMPL22

SCRIPT = """
import sys
import numpy as np
import torch

np.float = float  # the name that numpy had when the script was written
sys.path.insert(0, sys.argv[1])
from data_loaders.humanml.scripts.motion_process import extract_features
from data_loaders.humanml.utils import paramUtil

offsets = torch.from_numpy(paramUtil.t2m_raw_offsets)
chain, faces = paramUtil.t2m_kinematic_chain, [2, 1, 17, 16]
with np.load(sys.argv[2]) as clips:
    rest = (0.002, offsets, chain, faces, [8, 11], [7, 10])
    found = {name: extract_features(clip, *rest) for name, clip in clips.items()}
np.savez(sys.argv[3], **found)
"""


def conditioning(positions: torch.Tensor) -> torch.Tensor:
    """How well local rotations are determined, [T, J - 1]: falls to 0 as a bone opposes its rest direction."""
    bones = bone_vectors(positions, SMPL22)
    bones = bones / torch.linalg.vector_norm(bones, dim=-1, keepdim=True)
    real = (1.0 + (bones * bones.new_tensor(SMPL22.rest_directions[1:])).sum(-1)).clamp(0.0, 1.0).sqrt()
    with_root = torch.cat((torch.ones_like(real[:, :1]), real), -1)
    return torch.minimum(real, with_root[:, list(SMPL22.rotation_parents[1:])])


@pytest.mark.mdm("scipy", "tqdm")
def test_encode_by_humanml3ds_rule_equals_mdms_extract_features(mdm_checkout: Checkout, tmp_path: Path) -> None:
    clips = {name: clip.double() for name, clip in real_motions().items()}
    np.savez(tmp_path / "positions.npz", **{name: clip.numpy() for name, clip in clips.items()})
    paths = [str(path) for path in (mdm_checkout.root, tmp_path / "positions.npz", tmp_path / "features.npz")]
    done = forks.run(["-c", SCRIPT, *paths])
    assert done.returncode == 0, done.stderr[-2000:]
    part = channels(SMPL22).rotations
    with np.load(tmp_path / "features.npz") as found:
        for name, clip in clips.items():
            ours, theirs = encode(clip, SMPL22, heading(clip, SMPL22, HUMANML3D))[:-1], torch.from_numpy(found[name])
            assert ours.shape == theirs.shape
            error = (ours - theirs).abs()
            error[:, part] *= conditioning(clip)[:-1].repeat_interleave(6, -1)
            assert error.max() < FEATURES_AGAINST_MDM, name
