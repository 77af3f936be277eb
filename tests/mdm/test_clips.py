"""What --clips gives the host: captions, crops to edit, an evaluation set through the host's class; what is refused."""

import argparse
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from clips import CARD, make_clip

from videomdm_ext.config import Source, Supervision
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_folder, read_statistics
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import data, imports
from videomdm_ext.mdm.data import UNDER_2D, WITH_CLIPS, check_host

TWO = Supervision(supervision="2d", teacher="lifted")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> a folder with two training clips and one test clip, all with a truth."""
    path = str(tmp_path_factory.mktemp("clips") / "a set")
    write_folder(path, {"train": [make_clip(), make_clip(name="walk")], "test": [make_clip(name="punch")]}, CARD)
    return path


def opened(folder: str, *, split: str = "test", mode: str = "train", num_frames: int = 120, **named: object):
    args = argparse.Namespace(seed=0, **named)
    source = Source(clips=folder, crop_frames=20)
    return data.open_for(source, TWO, args, split=split, mode=mode, num_frames=num_frames)


def test_a_batch_to_edit_has_the_hosts_length_and_nothing_of_what_was_seen(folder):
    dataset = opened(folder)
    motion, condition = dataset.collate([dataset[0]])
    assert motion.shape == (1, 263, 1, 120)
    assert condition["y"]["mask"].sum() == condition["y"]["lengths"][0] == 20
    assert not any(name.startswith("observation/") for name in condition["y"])
    assert (motion[..., 20:] == 0).all()
    assert [clip.id for clip in opened(folder, split="val").clips] == ["dance_a_0", "walk_0"], "there is no such split"


def test_a_batch_to_train_on_has_its_own_length_and_what_was_seen(folder):
    dataset = opened(folder, split="train")
    motion, condition = dataset.collate([dataset[0], dataset[1]])
    assert motion.shape == (2, 263, 1, 20)
    assert any(name.startswith("observation/") for name in condition["y"])


def test_captions_come_without_motion_and_ask_for_the_length_that_is_to_be_sampled(folder):
    dataset = opened(folder, mode="text_only", motion_length=2.5)
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


def test_clips_without_a_truth_are_evaluated_on_the_hosts_own_data_where_it_is(folder, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("name", UNDER_2D)
def test_an_option_that_makes_no_sense_is_refused_under_2d_and_prefix_completion_also_with_clips(folder, name):
    args = argparse.Namespace(dataset="humanml", **{name: 1})
    way = "take --supervision 3d without --clips" if name in WITH_CLIPS else r"take --supervision 3d\."
    with pytest.raises(ConfigError, match=f"--{name} 1 with --supervision 2d: .*{UNDER_2D[name][:15]}.*, or {way}"):
        check_host(Source(clips="set"), TWO, args)
    check_host(Source(), Supervision(), args)
    if name in WITH_CLIPS:
        with pytest.raises(ConfigError, match=f"--{name} 1 with --clips: .* MDM's own data, without --clips"):
            check_host(Source(clips=folder), Supervision(), args)
    else:
        check_host(Source(clips=folder, crop_frames=20), Supervision(), args)


def test_goals_are_read_from_crops_of_one_length_which_the_refusal_of_others_names(folder):
    args = argparse.Namespace(dataset="humanml", multi_target_cond=True)
    with pytest.raises(ConfigError, match=r"--crop_frames 196 or more.*found 2 of 2 shorter.*Pass --crop_frames 50"):
        check_host(Source(clips=folder), Supervision(), args)
    check_host(Source(clips=folder, crop_frames=50), Supervision(), args)


@pytest.mark.parametrize("dataset", ["kit", "humanact12", "uestc"])
def test_other_data_sets_stay_the_hosts_under_3d_and_are_refused_with_clips(dataset):
    args = argparse.Namespace(dataset=dataset)
    check_host(Source(), Supervision(), args)
    for source, supervision in ((Source(clips="set"), Supervision()), (Source(clips="set"), TWO)):
        with pytest.raises(ConfigError, match=f"--dataset {dataset} with .*expected humanml"):
            check_host(source, supervision, args)
