"""Baselines of a reviewer: each is an arm that trains, and differs from the others in what its name says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import make_clip
from small_bench import CARD, make_plan

from videomdm_ext.bench.plan import Plan, Run, load_arm
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.run import Bench, prepare
from videomdm_ext.config import Source, Supervision
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_card, read_folder
from videomdm_ext.data.index import reprojection_error
from videomdm_ext.data.refined import KINDS, is_made, read_refined
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.mdm.data import open_dataset
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.measures import acceleration
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.unrolling import divided

ARMS = ("lifted", "motionmix", "smoothed", "adjusted", "lifted-best-tenth", "2d-mix-50")
NAMES = ("dance_a", "walk", "jump", "punch", "kick", "walk")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """-> a plan of all baselines on six clips of 30 frames, of which one lies nearest to its keypoints."""
    folder = tmp_path_factory.mktemp("baselines") / "data"
    clips = []
    for number, name in enumerate(NAMES):
        clip = make_clip(name=name)
        rows = {key: getattr(clip, key)[:30] for key in ("teacher", "truth", "keypoints", "confidence")}
        off = 0.004 * (1 + (number - 4) ** 2)  # less than what data check refuses
        rows["keypoints"] = rows["keypoints"] + np.float32(off) * (-1) ** np.arange(30)[:, None, None]
        clips.append(dataclasses.replace(clip, id=f"{name}{number}_0", **rows))
    card = write_folder(str(folder), {"train": clips, "test": [make_clip(name="dance_b")]}, CARD)
    return make_plan(folder, card.content_hash, arms=ARMS, steps=2, batch_size=1, samples=2, replications=1)


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory) -> Path:
    """-> the folder of the comparison, done."""
    folder, brief = tmp_path_factory.mktemp("baselines") / "out", refinement.Refinement(first=2, rounds=1, iterations=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "sections", lambda results: [])
        patch.setattr(refinement, "Refinement", lambda: brief)
        Bench(plan, folder, engine=Engine(processes=0), command=["videomdm", "bench"]).run()
    return folder


def test_all_baselines_train_beside_the_lifted_motion_and_sample_the_same_captions(plan, out):
    made = {run.label: read_motions(run.replication(out, 0)) for run in plan.runs()}
    assert set(made) == set(ARMS)
    assert len({tuple(captions) for _, captions in made.values()}) == 1
    first = {arm: groups["samples"][0] for arm, (groups, _) in made.items()}
    assert all(bool(motion.isfinite().all()) for motion in first.values())
    assert len({tuple(motion.flatten().tolist()) for motion in first.values()}) == len(ARMS)


def test_teachers_that_are_made_lie_beside_the_refined_ones_and_smoothed_ones_tremble_less(plan, out):
    card, clips = read_folder(plan.clips, "train")
    assert {kind for kind in KINDS if is_made(plan.clips, card, kind)} == {"refined", "adjusted", "smoothed"}
    smoothed, (mean, std) = read_refined(plan.clips, card, clips, "smoothed")
    kept = (Path(plan.clips) / "smoothed" / card.lifter / "kept.txt").read_text()
    assert kept == ""
    for before, after in zip(clips, smoothed, strict=True):
        was, now = (acceleration(decode(torch.from_numpy(c.teacher), c.skeleton), 20.0) for c in (before, after))
        assert now < 0.9 * was
        np.testing.assert_allclose(after.keypoints, before.keypoints)
    stacked = np.concatenate([clip.teacher for clip in smoothed])
    np.testing.assert_allclose(stacked.mean(0), mean, atol=1e-4)
    assert (std > 0).all()


def test_adjusting_is_refining_without_a_distribution_of_poses():
    usual = refinement.Refinement()
    adjusted = dataclasses.replace(usual, **KINDS["adjusted"])
    changed = {name for name in vars(usual) if getattr(usual, name) != getattr(adjusted, name)}
    assert changed == {"pose_frames"}
    assert 1 / adjusted.pose_frames == 0


def opened(plan: Plan, arm: str, **changes: object):
    config = dataclasses.replace(load_arm(arm).supervision, **changes)
    return open_dataset(Source(clips=plan.clips, crop_frames=16), config, "train", 0)


def test_the_best_tenth_is_the_clip_nearest_to_its_keypoints_at_the_length_of_the_others(plan):
    whole, best = opened(plan, "lifted"), opened(plan, "lifted-best-tenth")
    errors = {clip.id: reprojection_error(clip) for clip in whole.clips}
    assert [clip.id for clip in best.clips] == [min(errors, key=errors.__getitem__)] == ["kick4_0"]
    assert best.batch_length == whole.batch_length
    np.testing.assert_array_equal(best.mean, whole.mean)
    half = opened(plan, "lifted", best_share=0.5)
    assert [clip.id for clip in half.clips] == [c.id for c in whole.clips if c.id in sorted(errors, key=errors.get)[:3]]


def test_known_clips_are_drawn_by_their_ids_and_pay_for_their_truth(plan, out):
    drawn = {
        share: {entry.id for entry in opened(plan, "motionmix", known_share=share).clips.entries if entry.is_known}
        for share in (0.01, 0.1, 0.5)
    }
    assert [len(ids) for ids in drawn.values()] == [1, 1, 3]
    assert drawn[0.01] == drawn[0.1] < drawn[0.5]  # sets in sets
    dataset = opened(plan, "motionmix")
    dataset.set_epoch(0)
    _, condition = dataset.collate([dataset[number] for number in range(len(dataset))])
    observation, _ = Observation.take(condition["y"])
    known = [entry.id in drawn[0.5] for entry in dataset.clips.entries]
    assert observation.known.tolist() == known
    for number, clip in enumerate(read_folder(plan.clips, "train")[1]):
        made = dataset.clips[number]
        np.testing.assert_array_equal(made.teacher, clip.truth if known[number] else clip.teacher)
        assert bool((observation.weight[number] > 0).any()) != known[number]
    test = open_dataset(Source(clips=plan.clips), load_arm("motionmix").supervision, "test", 0)
    assert not any(entry.is_known for entry in test.clips.entries)


def test_motionmix_parts_the_schedule_between_known_clips_and_the_others():
    t, known = torch.arange(50), torch.arange(50) % 2 == 0
    mixed = divided(t, known, 0.3, 50)
    assert set(divided(t, torch.ones(50, dtype=torch.bool), 0.3, 50).tolist()) == set(range(15))
    assert set(divided(t, None, 0.3, 50).tolist()) == set(range(15, 50))
    assert bool(((mixed < 15) == known).all())
    assert torch.equal(divided(t, known, 0.0, 50), t)
    assert set(divided(torch.arange(4), None, 0.01, 4).tolist()) == {1, 2, 3}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"best_share": 0.0}, "--best_share"),
        ({"known_share": 1.5, "supervision": "2d"}, "--known_share"),
        ({"known_share": 0.5}, "expected --supervision 2d"),
        ({"mix_below": 0.3, "supervision": "2d"}, "expected --unroll off"),
        ({"azimuth_noise_degrees": 3.0, "teacher": "smoothed"}, "found smoothed"),
    ],
)
def test_shares_that_cannot_be_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        Supervision(**changes)


def test_arms_that_cannot_train_are_refused_before_work(plan, tmp_path):
    with pytest.raises(ConfigError, match=r"no more than the 1 training clips of .* that an arm takes"):
        prepare(dataclasses.replace(plan, batch_size=2), tmp_path / "out")
    with pytest.raises(ConfigError, match="for 2d-mix-5 than for 2d-mix-1, found 1 of 6 for both"):
        prepare(dataclasses.replace(plan, arms=("2d-mix-1", "2d-mix-5", "2d-mix-50")), tmp_path / "out")
    blind = [dataclasses.replace(make_clip(name=n), truth=None, truth_extrinsics=None) for n in NAMES[:2]]
    content = write_folder(str(tmp_path / "blind"), {"train": blind}, CARD).content_hash
    asked = dataclasses.replace(plan, clips=str(tmp_path / "blind"), content=content, arms=("2d-mix-50",))
    with pytest.raises(ConfigError, match="expected a truth for every training clip, which 2d-mix-50 learns from"):
        prepare(asked, tmp_path / "other")
    with pytest.raises(DatasetError, match="expected a true motion"):
        opened(asked, "2d-mix-50", teacher="lifted").clips[0], opened(asked, "2d-mix-50", teacher="lifted").clips[1]


def test_a_run_on_made_teachers_is_refused_where_these_were_changed(plan, out):
    card = read_card(plan.clips)
    place = Path(plan.clips) / "smoothed" / card.lifter / "walk1_0.npz"
    before = place.read_bytes()
    place.write_bytes(before[:-1])
    try:
        with pytest.raises(DatasetError, match="expected the smoothed teachers that were made"):
            prepare(plan, out)
    finally:
        place.write_bytes(before)
    assert Run(plan, "smoothed", 0).is_trained(out)
