"""A small body model in SMPL's format, whose joints are a walk's at rest."""

import numpy as np
import torch

from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.fitting import rest_offsets
from videomdm_ext.render.glb import at_rest

WALK = torch.from_numpy(next(m.positions for m in load_motions() if m.name == "walk")).double()
PARENTS = np.array((0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19))
"""SMPL's tree, written out."""


def body_arrays(joints=24):
    """A body whose joints are those of the walk at rest, with hands below the wrists; 3 vertices around each joint."""
    random = np.random.default_rng(0)
    rest = at_rest(rest_offsets(WALK, SMPL22), SMPL22).numpy() * 1.1 + (0.0, 0.2, 0.0)
    hands = rest[[20, 21]] + np.array(((0.08, 0, 0), (-0.08, 0, 0)))
    rest = np.concatenate((rest, hands))[:joints]
    spread = np.array(((0.05, 0, 0), (-0.03, 0.04, 0), (-0.02, -0.04, 0)))
    template = (rest[:, None] + spread).reshape(-1, 3)
    regressor = np.kron(np.eye(joints), np.full((1, 3), 1 / 3))
    weights = np.kron(np.eye(joints), np.ones((3, 1)))
    weights[0, :3] = (0.5, 0.3, 0.2)
    weights[-1] = 0
    weights[-1, [23, 21]] = (0.75, 0.25)
    tree = np.stack(((2**32 - 1, *PARENTS[1:], 20, 21)[:joints], np.arange(joints)))
    faces = random.permutation(len(template))[: len(template) // 3 * 3].reshape(-1, 3)
    arrays = {"J_regressor": regressor, "v_template": template, "weights": weights, "f": faces, "kintree_table": tree}
    return {**arrays, "shapedirs": np.zeros((len(template), 3, 10))}


def write_body(folder, **changes):
    (folder / "smpl").mkdir(parents=True, exist_ok=True)
    np.savez(folder / "smpl" / "SMPL_NEUTRAL.npz", **{**body_arrays(), **changes})
    return str(folder)
