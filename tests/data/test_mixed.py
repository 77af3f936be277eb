"""Motion capture beside videos: clips that no camera saw supervise in 3D, the others in 2D, in one run."""

import dataclasses

import numpy as np
import pytest
import torch
from clips import make_clip

from videomdm_ext.config import Source, Supervision
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.checks.rules import validate
from videomdm_ext.data.folder import Card, read_card, read_folder
from videomdm_ext.data.importing import merge
from videomdm_ext.data.refined import make_refined, read_refined
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.mdm.data import open_dataset
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.objective import Objective, weights_of
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.terms import TERMS, Step

CARD = Card(name="videos", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a video",))


def known(name: str):
    """-> a clip of motion capture: its teacher is its truth, and no camera saw it."""
    clip = make_clip(name=name)
    zero = np.zeros_like(clip.confidence)
    return dataclasses.replace(clip, teacher=clip.truth, extrinsics=clip.truth_extrinsics, confidence=zero)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """-> one set merged of a video's clips and of motion capture."""
    place = tmp_path_factory.mktemp("mixed")
    write_folder(str(place / "videos"), {"train": [make_clip(), make_clip(name="jump")]}, CARD)
    capture = dataclasses.replace(CARD, name="capture", lifter="none", sources=("a studio",), licence="CC0")
    write_folder(str(place / "capture"), {"train": [known("walk"), known("kick")], "test": [known("punch")]}, capture)
    merge([str(place / "videos"), str(place / "capture")], str(place / "both"))
    return str(place / "both")


def test_a_merged_set_holds_all_clips_and_names_all_sources(folder):
    card, clips = read_folder(folder, "train")
    assert [clip.id for clip in clips] == ["dance_a_0", "jump_0", "walk_0", "kick_0"]
    assert [clip.is_known for clip in clips] == [False, False, True, True]
    assert (card.lifter, card.licence, card.sources) == ("mixed", "zlib; CC0", ("a video", "a studio"))
    assert card.counts == {"test": 1, "train": 4}


@pytest.mark.parametrize("loss", ["reprojection", "reprojection,motion=0.5", "floor=3"])
def test_a_known_clip_pays_the_hosts_loss_and_the_others_the_2d_loss_with_any_terms(folder, loss):
    config = Supervision(supervision="2d", teacher="lifted", loss=loss)
    dataset = open_dataset(Source(clips=folder, crop_frames=20), config, "train", 0)
    dataset.set_epoch(0)
    x_start, condition = dataset.collate([dataset[index] for index in range(4)])
    observation, _ = Observation.take(condition["y"])
    x = (x_start + 0.1 * torch.randn(x_start.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    objective = Objective(weights_of(loss, TERMS), TERMS)

    def paid(prediction: torch.Tensor, seen: Observation) -> dict[str, torch.Tensor]:
        return objective(Step(prediction, x_start, torch.full((4,), 30), torch.full((4,), 0.4), seen, dataset.space))

    terms, plain = paid(x, observation), paid(x, dataclasses.replace(observation, known=None))
    assert ((terms["motion"][:2] > 0) == ("motion" in loss)).all()
    assert (terms["loss"][2:] == terms["motion"][2:]).all()
    assert all((terms[name][2:] == 0).all() for name in terms.keys() - {"loss", "motion", "behind"})
    torch.testing.assert_close(terms["loss"][:2], plain["loss"][:2])
    expected = (x - x_start).square()[2:, :, 0, :-1].mean((1, 2))
    torch.testing.assert_close(terms["motion"][2:], expected, rtol=0.05, atol=0)
    assert (paid(x_start, observation)["loss"][2:] == 0).all()
    terms["loss"].sum().backward()
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_a_set_of_videos_alone_has_no_such_term(tmp_path):
    write_folder(str(tmp_path), {"train": [make_clip()]}, CARD)
    config = Supervision(supervision="2d", teacher="lifted")
    dataset = open_dataset(Source(clips=str(tmp_path), crop_frames=20), config, "train", 0)
    _, condition = dataset.collate([dataset[0]])
    assert "observation/known" not in condition["y"]


def test_refinement_leaves_known_motion_as_it_is(folder, monkeypatch):
    brief = refinement.Refinement(first=3, rounds=0)
    monkeypatch.setattr(refinement, "Refinement", lambda: brief)
    card = read_card(folder)
    make_refined(folder, card)
    clips = read_folder(folder, "train")[1]
    refined, _ = read_refined(folder, card, clips)
    for before, after in zip(clips, refined, strict=True):
        assert np.array_equal(before.teacher, after.teacher) == before.is_known
        assert after.is_known == before.is_known


def test_motion_that_no_camera_saw_is_only_taken_with_the_truth_as_its_teacher():
    validate(known("walk"), fps=20.0)
    with pytest.raises(DatasetError, match=r"expected keypoints with a confidence above 0.*truth as its teacher"):
        validate(dataclasses.replace(known("walk"), teacher=make_clip(name="walk").teacher), fps=20.0)


def test_shared_ids_get_their_folders_names_captions_keep_their_tags_and_sets_that_do_not_fit_are_refused(tmp_path):
    for name in ("a", "b"):
        card = dataclasses.replace(
            CARD, name=name, packed=name == "b"
        )  # as that of a packed set whose clips are made anew
        write_folder(
            str(tmp_path / name), {"train": [make_clip()]}, card, tagger=lambda text: [(text.split()[-1], "VERB")]
        )
    card = merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "both"))
    texts = [place.read_bytes() for place in tmp_path.glob("*/texts/*.txt")]
    assert len(texts) == 4
    assert set(texts) == {b"a person dances.#dances./VERB#0.0#0.0\nsomeone's dancing#dancing/VERB#0.0#0.0\n"}
    assert [clip.id for clip in read_folder(str(tmp_path / "both"), "train")[1]] == ["a-dance_a_0", "b-dance_a_0"]
    assert card.lifter == "bent"
    write_folder(str(tmp_path / "c"), {"train": [make_clip(fps=30.0)]}, dataclasses.replace(CARD, fps=30.0))
    with pytest.raises(DatasetError, match=r"/c: expected fps 20\.0 as in .*/a, found 30\.0"):
        merge([str(tmp_path / "a"), str(tmp_path / "c")], str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="expected two or more folders"):
        merge([str(tmp_path / "a")], str(tmp_path / "no"))
