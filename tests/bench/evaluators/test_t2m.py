"""The official evaluator without MDM: what reaches its networks, and why it may not be had."""

from pathlib import Path

import guo_files
import pytest
import torch
from clips import CARD
from humanml import write_evaluator, write_glove
from people import real_motions

from videomdm_ext.bench.evaluators import guo, t2m
from videomdm_ext.bench.evaluators.base import Ground, UnavailableError
from videomdm_ext.data.folder import Card
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, heading
from videomdm_ext.motion.skeletons import SMPL22


@pytest.fixture(scope="module")
def matching(tmp_path_factory) -> guo.Matching:
    """-> narrow networks with random weights."""
    root = tmp_path_factory.mktemp("guo") / "t2m"
    guo_files.write_hub(root, 263, 259)
    return t2m.load(t2m.T2M, root, str(root)).matching


def humanml(positions: torch.Tensor) -> torch.Tensor:
    """HumanML3D's own vectors of a clip that faces +z by its first frame."""
    return encode(positions, SMPL22, heading(positions, SMPL22, HUMANML3D_FILES))


def test_vectors_of_humanml3d_come_back_from_their_positions():
    for name, positions in real_motions().items():
        own = humanml(positions.double())
        found = t2m.features(decode(own, SMPL22).float())
        assert found.shape == own.shape, name
        error = (found - own).abs()[:-1]
        assert error[:, :67].max() < 1e-3, name
        assert error[:, 193:259].max() < 1e-3, name


def test_where_a_motion_happens_and_where_it_faces_makes_no_difference():
    positions = real_motions()["dance_a"]
    turned = rotate_yaw_together(positions, torch.full(positions.shape[:1], 1.9)) + torch.tensor((3.0, 0.0, -2.0))
    torch.testing.assert_close(t2m.features(turned)[:, :259], t2m.features(positions)[:, :259], rtol=0, atol=2e-3)
    mirrored = positions * torch.tensor((-1.0, 1.0, 1.0))
    assert (t2m.features(mirrored) - t2m.features(positions))[:, :67].abs().max() > 0.1


def write_texts(folder: Path, *lines: str) -> str:
    (folder / "texts").mkdir(parents=True, exist_ok=True)
    (folder / "texts" / "a.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder)


def test_parts_of_speech_come_from_the_data_and_from_a_tagger_only_for_new_captions(tmp_path, matching):
    clips = write_texts(tmp_path, "he walks.#walk/VERB#0.0#0.0", "she jumps.#jump/OTHER#0.0#0.0")
    known = t2m.read_tagged(clips)
    assert known == {"he walks.": ("walk/VERB",)}
    texts = t2m.Captions(known, lambda caption: [("run", "NOUN")])
    assert texts.words("he walks.") == ("walk/VERB",)
    assert texts.words("she jumps.") == ("run/NOUN",)
    made = t2m.T2M(matching, texts).captions(["she jumps.", "he walks.", "she jumps."])
    torch.testing.assert_close(made, matching.captions([["run/NOUN"], ["walk/VERB"], ["run/NOUN"]]))


def test_without_parts_of_speech_there_is_no_text_side_and_the_facts_say_why(matching):
    evaluator = t2m.T2M(matching, t2m.Captions({"he walks.": ("walk/VERB",)}, None))
    assert evaluator.captions(["he walks.", "she jumps."]) is None
    assert evaluator.captions(["he walks."]) is not None
    bare = t2m.T2M(matching, t2m.Captions({}, None))
    assert bare.captions(["he walks."]) is None
    assert "spaCy" in bare.texts.origin


def ground(root: Path, card: Card = CARD, kind: str = "mdm") -> Ground:
    return Ground(clips=str(root / "set"), card=card, cache=root, checkout=Checkout(root, None, kind))


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(UnavailableError, match="--mdm"):
        t2m.make(Ground(clips="set", card=CARD, cache=tmp_path))
    with pytest.raises(UnavailableError, match="--mdm"):
        t2m.make(ground(tmp_path, kind="standin"))
    with pytest.raises(UnavailableError, match=r"finest\.tar.*download_t2m_evaluators\.sh; bash .*download_glove\.sh"):
        t2m.make(ground(tmp_path))
    write_evaluator(tmp_path)
    with pytest.raises(UnavailableError, match=r"no glove/our_vab_data\.npy") as caught:
        t2m.make(ground(tmp_path))
    assert "finest.tar" not in str(caught.value)
    write_glove(tmp_path)
    with pytest.raises(UnavailableError, match=r"dataset/t2m_mean\.npy, dataset/t2m_std\.npy"):
        t2m.make(ground(tmp_path))


@pytest.mark.parametrize(("skeleton", "fps"), [("nba16", 20.0), ("smpl22", 30.0)])
def test_other_skeletons_and_rates_have_no_such_evaluator(tmp_path, skeleton, fps):
    card = Card(name="x", skeleton=skeleton, fps=fps, lifter="x", licence="x", sources=())
    with pytest.raises(UnavailableError, match=f"found {skeleton} at {fps:g}"):
        t2m.make(ground(tmp_path, card))
