"""Our scores of features against those of MDM's own functions: the same FID, R-precision, MM-dist, diversity."""

from pathlib import Path

import forks
import numpy as np
import pytest
import torch

from videomdm_ext.bench import metrics
from videomdm_ext.mdm.checkout import Checkout

SCRIPT = """
import sys
import numpy as np
from videomdm_ext.mdm import remedies

remedies.prepare()
sys.path.insert(0, sys.argv[1])
from data_loaders.humanml.utils import metrics

given = np.load(sys.argv[2])
motions, texts, truth = given["motions"], given["texts"], given["truth"]
own, real = (metrics.calculate_activation_statistics(rows) for rows in (motions, truth))
top, near = 0, 0.0
for at in range(0, len(motions), 32):
    top = top + metrics.calculate_R_precision(texts[at : at + 32], motions[at : at + 32], top_k=3, sum_all=True)
    near += metrics.euclidean_distance_matrix(texts[at : at + 32], motions[at : at + 32]).trace()
found = {"fid": metrics.calculate_frechet_distance(*real, *own), "r_precision": top / len(motions),
         "mm_dist": near / len(motions)}
np.random.seed(7)
found["diversity"] = metrics.calculate_diversity(motions, 300)
np.random.seed(8)
found["multimodality"] = metrics.calculate_multimodality(given["several"], 10)
np.savez(sys.argv[3], **found)
"""


@pytest.mark.mdm("scipy")
def test_equal_features_have_equal_scores_by_mdms_functions_and_by_ours(mdm_checkout: Checkout, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = draw.standard_normal((320, 24))
    motions = texts + 1.3 * draw.standard_normal((320, 24)) * np.linspace(0.3, 2, 24)
    truth, several = texts + draw.standard_normal((320, 24)), draw.standard_normal((6, 30, 24))
    np.savez(tmp_path / "given.npz", motions=motions, texts=texts, truth=truth, several=several)
    paths = [str(path) for path in (mdm_checkout.root, tmp_path / "given.npz", tmp_path / "found.npz")]
    done = forks.run(["-c", SCRIPT, *paths])
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "found.npz")
    made, words, real = (torch.from_numpy(rows) for rows in (motions, texts, truth))
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
    drawn = torch.from_numpy(several)
    drawn_pairs = torch.linalg.vector_norm(drawn[:, first] - drawn[:, second], dim=-1).mean().item()
    assert drawn_pairs == pytest.approx(float(theirs["multimodality"]), abs=1e-5)
    two = drawn[:, [first[0], second[0]]].transpose(0, 1)  # ours has all pairs of different ones, of two the only one
    assert metrics.multimodality(two) == pytest.approx(metrics.mm_distances(*two).mean().item())
