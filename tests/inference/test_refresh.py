"""The next round's teachers: the prior's motion at the old size, guarded, with keypoints and truth untouched."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD, make_clip

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import teacher_of, truth_of
from videomdm_ext.data.folder import read_card, read_folder
from videomdm_ext.errors import DatasetError
from videomdm_ext.inference import refresh as refreshing
from videomdm_ext.inference.refresh import refresh, refresh_folder
from videomdm_ext.inference.sample import Trained
from videomdm_ext.mdm.data import with_teacher
from videomdm_ext.motion.features import FeatureSpace
from videomdm_ext.motion.skeletons import SMPL22

CLIPS = [make_clip(name=name) for name in ("dance_a", "walk", "jump")]


@pytest.fixture
def prior(monkeypatch):
    """What the prior makes of a clip is its truth, times `factor`, with all joints but the root moved by `shift`."""
    found = {"factor": 1.0, "shift": 0.0}

    def lift(trained, clips, how, progress=None):
        shift = torch.zeros(22, 3)
        shift[1:, 0] = found["shift"]  # against the root
        return [found["factor"] * (truth_of(clip) + shift) for clip in clips]

    monkeypatch.setattr(refreshing, "lift", lift)
    return found


def error(clip):
    truth = truth_of(clip)
    motion = teacher_of(clip)
    return float(((motion - motion[:, :1]) - (truth - truth[:, :1])).norm(dim=-1).mean())


SPACE = FeatureSpace(SMPL22, torch.linspace(-1, 1, SMPL22.num_features), torch.linspace(0.1, 2, SMPL22.num_features))
TRAINED = Trained(None, None, SPACE, None, None, checkpoint=Path("run/model1.pt"))  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
def test_the_teacher_is_the_priors_motion_at_the_size_of_the_old_one(prior, factor):
    prior["factor"] = factor
    made, kept = refresh(TRAINED, CLIPS, CARD.heading)
    assert kept == []
    for old, new in zip(CLIPS, made, strict=True):
        truth, made = truth_of(old), teacher_of(new)
        pose = 1.1 * (truth - truth[:, :1])  # make_clip's teachers are 1.1 times as large as the truth
        assert (made - made[:, :1] - pose).norm(dim=-1).max() < 0.02
        assert (made[:, 0] - teacher_of(old)[:, 0]).norm(dim=-1).max() < 1e-3
        assert np.array_equal(new.keypoints, old.keypoints)
        assert np.array_equal(new.truth, old.truth)


@pytest.mark.parametrize(("name", "value"), [("factor", 3.0), ("factor", 0.4), ("shift", 0.6)])
def test_a_clip_that_the_prior_shrinks_or_moves_off_its_rays_keeps_its_teacher(prior, name, value):
    prior[name] = value
    made, kept = refresh(TRAINED, CLIPS, CARD.heading)
    assert kept == [clip.id for clip in CLIPS]
    assert made == CLIPS


def test_a_folder_of_refreshed_teachers_names_the_run_and_the_round(prior, tmp_path):
    splits = {"train": CLIPS[:2], "test": CLIPS[2:]}
    first = write_folder(str(tmp_path / "set"), splits, CARD)
    card, kept = refresh_folder(TRAINED, str(tmp_path / "set"), first, str(tmp_path / "next"))
    assert kept == []
    assert card == read_card(str(tmp_path / "next"))
    assert (card.lifter, card.recipe["refreshed"]["round"]) == (f"{CARD.lifter}-r1", 1)
    assert card.recipe["refreshed"]["from"] == first.content_hash
    assert card.recipe["refreshed"]["checkpoint"] == "run/model1.pt"
    mean, std = with_teacher(str(tmp_path / "next"), card, [], "lifted")[1]  # the run's weights go on in its units
    assert np.array_equal(mean, SPACE.mean)
    assert np.array_equal(std, SPACE.std)
    assert card.counts == first.counts
    before = read_folder(str(tmp_path / "set"), "train")[1]
    after = read_folder(str(tmp_path / "next"), "train")[1]
    assert all(error(new) < 0.5 * error(old) or error(new) < 0.05 for old, new in zip(before, after, strict=True))
    again, _ = refresh_folder(TRAINED, str(tmp_path / "next"), card, str(tmp_path / "third"))
    assert (again.lifter, again.recipe["refreshed"]["round"]) == (f"{CARD.lifter}-r2", 2)


def test_an_interrupted_refresh_goes_on_with_the_clips_that_are_left(prior, tmp_path, monkeypatch):
    card = write_folder(str(tmp_path / "set"), {"train": CLIPS}, CARD)
    monkeypatch.setattr(refreshing, "TOGETHER", 1)
    whole = refreshing.refresh
    calls: list[str] = []

    def once(trained, clips, *rest):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.extend(clip.id for clip in clips)
        return whole(trained, clips, *rest)

    monkeypatch.setattr(refreshing, "refresh", once)
    with pytest.raises(KeyboardInterrupt):
        refresh_folder(TRAINED, str(tmp_path / "set"), card, str(tmp_path / "next"))
    done = list(calls)
    monkeypatch.setattr(
        refreshing, "refresh", lambda t, clips, *r: calls.extend(c.id for c in clips) or whole(t, clips, *r)
    )
    made, _ = refresh_folder(TRAINED, str(tmp_path / "set"), card, str(tmp_path / "next"))
    assert calls[len(done) :] == [clip.id for clip in CLIPS if clip.id not in done]
    straight, _ = refresh_folder(TRAINED, str(tmp_path / "set"), card, str(tmp_path / "straight"))
    assert dataclasses.replace(made, recipe={}) == dataclasses.replace(straight, recipe={})


def test_a_set_is_not_refreshed_onto_itself(prior, tmp_path):
    card = write_folder(str(tmp_path / "set"), {"train": CLIPS}, CARD)
    with pytest.raises(DatasetError, match="another folder"):
        refresh_folder(TRAINED, str(tmp_path / "set"), card, f"{tmp_path}/set/")
