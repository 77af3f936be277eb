"""A folder as the host's dataset: what is diffused, crops from seed, epoch and clip, batches with what was seen;
captions, crops to edit, an evaluation set through the host's class; and what is refused."""

import argparse
import random
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from clips import CARD, make_clip
from mdm_runs import CLIPS

from videomdm_ext.config import Source, Supervision
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_folder, read_statistics
from videomdm_ext.data.refined import is_made, read_refined
from videomdm_ext.errors import ConfigError, DatasetError, HostError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.mdm import data, imports
from videomdm_ext.mdm.data import HostDataset, check_host, check_source, open_dataset, with_azimuth_error
from videomdm_ext.motion.features import decode
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.observation import PREFIX, Observation

TWO = Supervision(supervision="2d", teacher="lifted")


def opened(folder: str, teacher: str = "lifted", *, frames: int = 20, seed: int = 3) -> HostDataset:
    return open_dataset(Source(clips=folder, crop_frames=frames), Supervision(teacher=teacher), "train", seed)


def batch_of(dataset: HostDataset):
    """-> x_start and y of one item of every clip."""
    dataset.set_epoch(0)
    motion, condition = dataset.collate([dataset[i] for i in range(len(dataset))])
    return motion, condition["y"]


@pytest.mark.parametrize(("teacher", "kind"), [("lifted", "teacher"), ("gt", "truth")])
def test_the_teacher_switch_chooses_motion_and_statistics(folder, teacher, kind):
    dataset = opened(folder, teacher)
    for clip, known in zip(dataset.clips, CLIPS, strict=True):
        np.testing.assert_array_equal(clip.teacher, getattr(known, kind))
    expected = read_statistics(folder, "bent" if teacher == "lifted" else None)
    np.testing.assert_array_equal(dataset.mean, expected[0])
    np.testing.assert_array_equal(dataset.std, expected[1])


def test_a_refined_teacher_comes_with_its_own_statistics(folder):
    dataset = opened(folder, "refined")
    card, lifted = read_folder(folder, "train")
    clips, (mean, std) = read_refined(folder, card, lifted)
    np.testing.assert_array_equal(dataset.clips[1].teacher, clips[1].teacher)
    np.testing.assert_array_equal(dataset.mean, mean)
    np.testing.assert_array_equal(dataset.std, std)
    assert not np.array_equal(mean, read_statistics(folder, "bent")[0])


def test_2d_diffuses_the_motion_refined_on_the_way_or_as_lifted_and_never_the_truth(tmp_path, monkeypatch):
    brief = refinement.Refinement(first=2, rounds=0)
    monkeypatch.setattr(refinement, "Refinement", lambda: brief)
    blind = [make_clip(truth=None, truth_extrinsics=None)]
    card = write_folder(str(tmp_path), {"train": blind}, CARD)
    source = Source(clips=str(tmp_path), crop_frames=20)
    lifted = open_dataset(source, Supervision(supervision="2d", teacher="lifted"), "train", 0)
    assert np.array_equal(lifted.clips[0].teacher, blind[0].teacher)
    assert not is_made(str(tmp_path), card)
    dataset = open_dataset(source, Supervision(supervision="2d"), "train", 0)
    assert is_made(str(tmp_path), card)
    assert not np.array_equal(dataset.clips[0].teacher, blind[0].teacher)
    with pytest.raises(DatasetError, match="expected a true motion"):
        open_dataset(source, Supervision(supervision="2d", teacher="gt"), "train", 0)


@pytest.mark.parametrize("teacher", ["gt", "lifted", "refined"])
def test_a_crop_of_any_teacher_is_seen_where_its_keypoints_are(folder, teacher):
    """The camera belongs to the motion that is diffused, crop by crop: exactly for the truth, nearly for the others."""
    dataset = opened(folder, teacher)
    motion, y = batch_of(dataset)
    observation, _ = Observation.take(y)
    points, _ = project(decode(dataset.space.raw(motion), dataset.space.skeleton), observation.extrinsics)
    error = torch.linalg.vector_norm(points - observation.keypoints, dim=-1)
    assert error.mean() < {"gt": 1e-5, "lifted": 0.1, "refined": 0.03}[teacher]


def test_a_crop_depends_on_seed_epoch_and_clip_alone(folder):
    one, other = opened(folder), opened(folder)
    one.set_epoch(4)
    other.set_epoch(4)
    random.seed(1)
    first = [one[i] for i in range(3)]
    random.seed(2)
    again = [other[i] for i in (2, 1, 0)][::-1]
    for (crop, text), (same, same_text) in zip(first, again, strict=True):
        assert torch.equal(crop.teacher, same.teacher)
        assert text == same_text


def test_another_epoch_and_another_seed_cut_elsewhere(folder):
    starts = {}
    for seed, epoch in ((3, 0), (3, 1), (4, 0)):
        dataset = opened(folder, seed=seed)
        dataset.set_epoch(epoch)
        starts[seed, epoch] = [dataset[i][0].initial_heading for i in range(3)]
    assert starts[3, 0] != starts[3, 1] != starts[4, 0] != starts[3, 0]


def test_every_crop_and_every_caption_comes_up(folder):
    dataset, seen, texts = opened(folder, frames=CLIPS[2].length - 2), set(), set()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        crop, text = dataset[2]
        (start,) = (s for s in range(3) if np.array_equal(crop.teacher, CLIPS[2].teacher[s : s + crop.length]))
        seen.add(start)
        texts.add(text)
    assert seen == {0, 1, 2}
    assert texts == set(CLIPS[2].texts)


def test_without_epochs_pythons_generator_decides_as_in_mdm(folder):
    dataset = opened(folder)
    random.seed(5)
    first = dataset[0]
    random.seed(5)
    again = dataset[0]
    assert torch.equal(first[0].teacher, again[0].teacher)
    assert first[0].truth is None
    assert first[0].truth_extrinsics is None
    assert len({dataset[0][0].initial_heading for _ in range(8)}) > 1


def test_a_batch_is_z_scored_and_zero_in_its_padding(folder):
    dataset = opened(folder, frames=200)
    motion, y = batch_of(dataset)
    lengths = [clip.length for clip in CLIPS]
    assert motion.shape == (3, 263, 1, max(lengths)) == (3, dataset.num_features, 1, dataset.batch_length)
    assert y["lengths"].tolist() == lengths
    assert y["mask"].shape == (3, 1, 1, max(lengths))
    assert y["mask"].dtype == torch.bool
    assert y["mask"].flatten(1).sum(1).tolist() == lengths
    for row, clip in zip(motion, CLIPS, strict=True):
        expected = (torch.from_numpy(clip.teacher) - dataset.space.mean) / dataset.space.std
        torch.testing.assert_close(row[:, 0, : clip.length].T, expected)
        assert not row[..., clip.length :].any()
    raw = dataset.inv_transform(motion[1, :, 0, : lengths[1]].T)
    torch.testing.assert_close(raw, torch.from_numpy(CLIPS[1].teacher), atol=1e-5, rtol=1e-5)


def test_a_batch_names_its_clips_and_captions_and_what_was_seen_of_them(folder):
    _, y = batch_of(opened(folder))
    assert opened(folder, frames=1000).batch_length == max(clip.length for clip in CLIPS)
    assert len(y["mask"].flatten(1)[0]) == 20
    assert y["db_key"] == [clip.id for clip in CLIPS]
    assert all(text in clip.texts for text, clip in zip(y["text"], CLIPS, strict=True))
    assert {key.removeprefix(PREFIX) for key in y if key.startswith(PREFIX)} == {
        "keypoints", "confidence", "extrinsics", "initial_heading",
    }  # fmt: skip
    assert all(torch.is_tensor(value) for key, value in y.items() if key.startswith(PREFIX))


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"supervision": "2d"}, "--supervision 2d"),
        ({"teacher": "lifted"}, "--teacher lifted"),
        ({"teacher": "refined"}, "--teacher refined"),
    ],
)
def test_without_clips_2d_supervision_and_lifted_teachers_are_refused(values, asked):
    with pytest.raises(ConfigError, match=f"^{asked}: expected --clips .* videomdm data"):
        check_source(Source(), Supervision(**values))
    check_source(Source(clips="somewhere"), Supervision(**values))
    check_source(Source(), Supervision())
    check_source(Source(), Supervision(teacher="gt"))


def test_clips_that_are_not_there_are_an_error_that_names_the_folder(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere/dataset\.json"):
        open_dataset(Source(clips=str(tmp_path / "nowhere")), Supervision(), "train", 0)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.id)
def test_an_azimuth_error_orbits_the_camera_by_an_angle_of_the_clips_own(clip):
    moved = with_azimuth_error(clip, 10.0)
    before, after = (torch.from_numpy(part.extrinsics).double() for part in (clip, moved))
    centres = [-(e[..., :3].transpose(-1, -2) @ e[..., 3:]).squeeze(-1) for e in (before, after)]
    flat = [torch.linalg.vector_norm(c[..., ::2], dim=-1) for c in centres]
    torch.testing.assert_close(flat[0], flat[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(centres[0][..., 1], centres[1][..., 1], atol=1e-5, rtol=1e-5)
    turned = [torch.atan2(c[..., 0], c[..., 2]) for c in centres]
    angle = torch.remainder(turned[1] - turned[0] + torch.pi, 2 * torch.pi) - torch.pi
    assert float(angle.reshape(-1)[0].abs()) > 1e-3
    assert float(angle.std(correction=0) if angle.ndim else 0.0) < 1e-5
    np.testing.assert_array_equal(moved.extrinsics, with_azimuth_error(clip, 10.0).extrinsics)
    assert with_azimuth_error(clip, 0.0) is clip


def test_azimuth_errors_differ_between_clips_and_grow_with_their_size():
    def angle(name: str, degrees: float) -> float:
        clip = make_clip(name=name)
        e = torch.from_numpy(with_azimuth_error(clip, degrees).extrinsics).double()
        old = torch.from_numpy(clip.extrinsics).double()
        return float(torch.arccos(((old[:, :3].T @ e[:, :3]).trace() - 1).div(2).clamp(-1, 1)))

    assert abs(angle("walk", 10.0) - angle("jump", 10.0)) > 1e-3
    assert angle("walk", 20.0) == pytest.approx(2 * angle("walk", 10.0), rel=1e-2)


def test_an_azimuth_error_of_refined_teachers_is_refused():
    with pytest.raises(ConfigError, match="--azimuth_noise_degrees: expected --teacher lifted or gt"):
        Supervision(supervision="2d", teacher="refined", azimuth_noise_degrees=5.0)
    assert Supervision(supervision="2d", teacher="lifted", azimuth_noise_degrees=5.0).azimuth_noise_degrees == 5.0


# -- what the host gets in each of its modes ---------------------------------------------------------------------------


def opened_for(folder: str, *, split: str = "test", mode: str = "train", num_frames: int = 120, **named: object):
    args = argparse.Namespace(seed=0, **named)
    source = Source(clips=folder, crop_frames=20)
    return data.open_for(source, TWO, args, split=split, mode=mode, num_frames=num_frames)


def test_a_batch_to_edit_has_the_hosts_length_and_nothing_of_what_was_seen(folder):
    dataset = opened_for(folder)
    motion, condition = dataset.collate([dataset[0]])
    assert motion.shape == (1, 263, 1, 120)
    assert condition["y"]["mask"].sum() == condition["y"]["lengths"][0] == 20
    assert not any(name.startswith("observation/") for name in condition["y"])
    assert (motion[..., 20:] == 0).all()
    assert {clip.id for clip in opened_for(folder, split="val").clips} == {clip.id for clip in CLIPS}, "no such split"


def test_a_batch_to_train_on_has_its_own_length_and_what_was_seen(folder):
    dataset = opened_for(folder, split="train")
    motion, condition = dataset.collate([dataset[0], dataset[1]])
    assert motion.shape == (2, 263, 1, 20)
    assert any(name.startswith("observation/") for name in condition["y"])


def test_captions_come_without_motion_and_ask_for_the_length_that_is_to_be_sampled(folder):
    dataset = opened_for(folder, mode="text_only", motion_length=2.5)
    motion, condition = dataset.collate([dataset[0]] * 3)
    assert motion.shape == (3, 263, 1, 1)
    assert condition["y"]["lengths"].tolist() == [50, 50, 50]
    assert set(condition["y"]["text"]) <= set(make_clip(name="punch").texts)
    torch.testing.assert_close(dataset.inv_transform(torch.zeros(263)), torch.from_numpy(dataset.mean))


class HumanML:
    """The shape of the host's dataset class: what it reads is decided by its module's get_opt and WordVectorizer."""

    def __init__(self, mode, split, cache_path=".", **named):
        module = sys.modules[__name__]
        self.opt = module.get_opt("dataset/humanml_opt.txt", None)
        self.words = module.WordVectorizer(f"{cache_path}/glove", "our_vab")
        self.mode, self.split, self.cache, self.named = mode, split, Path(cache_path), named
        assert cache_path == "." or (self.cache / "dataset").is_dir()
        self.mean = self.std = np.zeros(263)
        self.mean_gpu = torch.zeros(1, 263, 1, 1)
        self.t2m_dataset = argparse.Namespace(mean=self.mean, std=self.std)


def get_opt(path, device):
    return argparse.Namespace(data_root="./dataset/HumanML3D", motion_dir="m", text_dir="t", path=path)


def WordVectorizer(root, prefix):
    return f"{root}/{prefix}"


def evaluated(folder: str, mode: str):
    named = {"split": "test", "mode": mode, "num_frames": None}
    return data.open_evaluation(HumanML, Source(clips=folder), TWO, **named)


def test_an_evaluation_reads_the_truth_of_the_clips_and_leaves_the_hosts_cache_alone(folder, monkeypatch):
    monkeypatch.setattr(data, "DRAWN", 0)
    monkeypatch.setattr(data, "check_enough", partial(data.check_enough, batch=1))
    dataset = evaluated(folder, "gt")
    assert (dataset.opt.data_root, dataset.opt.motion_dir) == (folder, f"{folder}/new_joint_vecs")
    assert dataset.opt.text_dir == f"{folder}/texts"
    assert dataset.words == "./glove/our_vab"
    assert dataset.cache != Path(".")
    assert not dataset.cache.exists()
    assert get_opt("p", None).data_root == "./dataset/HumanML3D"
    assert (dataset.mean == 0).all()


def test_what_is_generated_for_an_evaluation_is_in_the_units_of_the_training(folder, monkeypatch):
    monkeypatch.setattr(data, "DRAWN", 0)
    monkeypatch.setattr(data, "check_enough", partial(data.check_enough, batch=1))
    dataset = evaluated(folder, "eval")
    mean, std = read_statistics(folder, "bent")
    for part in (dataset, dataset.t2m_dataset):
        np.testing.assert_array_equal(part.mean, mean)
        np.testing.assert_array_equal(part.std, std)
    torch.testing.assert_close(dataset.mean_gpu, torch.from_numpy(mean)[None, :, None, None])


def test_too_few_clips_for_mdms_evaluation_are_refused_with_their_number(folder):
    said = r"expected 320 or more clips of 40 to 199 frames .* found 1 of 1.*with videomdm bench --dataset '.*a set'"
    with pytest.raises(ConfigError, match=said):
        evaluated(folder, "gt")
    with pytest.raises(ConfigError, match="expected 350 or more"):
        data.check_enough(folder, "test", read_folder(folder, "test")[1], batch=50)


def test_clips_without_a_truth_are_evaluated_on_the_hosts_own_data_where_it_is(tmp_path, monkeypatch):
    path = str(tmp_path / "set")
    bare = make_clip(truth=None, truth_extrinsics=None)
    write_folder(path, {"train": [bare], "test": [make_clip(name="walk", truth=None, truth_extrinsics=None)]}, CARD)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no truth .* dataset/HumanML3D/test\.txt is not there"):
        evaluated(path, "gt")
    (tmp_path / "dataset/HumanML3D").mkdir(parents=True)
    (tmp_path / "dataset/HumanML3D/test.txt").touch()
    dataset = evaluated(path, "eval")
    assert dataset.opt.data_root == "./dataset/HumanML3D"
    np.testing.assert_array_equal(dataset.mean, read_statistics(path, "bent")[0])


def test_statistics_of_another_skeleton_are_refused(folder):
    other = HumanML("eval", "test")
    other.mean = np.zeros(251)
    with pytest.raises(HostError, match=r"expected statistics of 251 features .* found 263"):
        data.speak_training_units(other, Source(clips=folder), TWO)


def test_swapped_globals_come_back_after_an_error():
    module = ModuleType("any")
    module.name = 1
    with pytest.raises(ZeroDivisionError), imports.swapped(module, name=0):
        1 / module.name
    assert module.name == 1


@pytest.mark.parametrize("name", data.UNDER_2D)
def test_an_option_that_makes_no_sense_is_refused_under_2d_and_prefix_completion_also_with_clips(folder, name):
    args = argparse.Namespace(dataset="humanml", **{name: 1})
    reason = data.UNDER_2D[name][:15]
    way = "take --supervision 3d without --clips" if name in data.WITH_CLIPS else r"take --supervision 3d\."
    with pytest.raises(ConfigError, match=f"--{name} 1 with --supervision 2d: .*{reason}.*, or {way}"):
        check_host(Source(clips="set"), TWO, args)
    check_host(Source(), Supervision(), args)
    if name in data.WITH_CLIPS:
        with pytest.raises(ConfigError, match=f"--{name} 1 with --clips: .* MDM's own data, without --clips"):
            check_host(Source(clips=folder), Supervision(), args)
    else:
        check_host(Source(clips=folder, crop_frames=20), Supervision(), args)


def test_goals_are_read_from_crops_of_one_length_which_the_refusal_of_others_names(folder):
    args = argparse.Namespace(dataset="humanml", multi_target_cond=True)
    with pytest.raises(ConfigError, match=r"--crop_frames 196 or more.*found 3 of 3 shorter.*Pass --crop_frames 50"):
        check_host(Source(clips=folder), Supervision(), args)
    check_host(Source(clips=folder, crop_frames=50), Supervision(), args)


@pytest.mark.parametrize("dataset", ["kit", "humanact12", "uestc"])
def test_other_data_sets_stay_the_hosts_under_3d_and_are_refused_with_clips(dataset):
    args = argparse.Namespace(dataset=dataset)
    check_host(Source(), Supervision(), args)
    for source, supervision in ((Source(clips="set"), Supervision()), (Source(clips="set"), TWO)):
        with pytest.raises(ConfigError, match=f"--dataset {dataset} with .*expected humanml"):
            check_host(source, supervision, args)
