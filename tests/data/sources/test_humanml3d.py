"""The importer of HumanML3D: vectors kept bit for bit, teachers by the same rules, parts cut from everything together.

The file format is written out again here in numpy, from its public definition, and shares no code with the package.
"""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from clips import make_clip
from lifters import tools
from people import decoded, real_motions
from scipy.ndimage import gaussian_filter1d

from videomdm_ext.data.clip import Path, crop, cut, with_truth_as_teacher
from videomdm_ext.data.folder import read_card, read_clip, read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import Optics
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import HumanML3DImporter, positions_of
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.features import channels, decode, decode_root, encode, initial_heading
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, canonicalise, heading
from videomdm_ext.motion.skeletons import SMPL22

EXACT = Optics(noise=0.0)
ROTATIONS = channels(SMPL22).rotations
CHAINS = ((0, 2, 5, 8, 11), (0, 1, 4, 7, 10), (0, 3, 6, 9, 12, 15), (9, 14, 17, 19, 21), (9, 13, 16, 18, 20))
REST = {1: (1, 0, 0), 2: (-1, 0, 0), 3: (0, 1, 0), 6: (0, 1, 0), 9: (0, 1, 0), 12: (0, 1, 0), 13: (1, 0, 0)}
REST |= {14: (-1, 0, 0), 15: (0, 0, 1), 10: (0, 0, 1), 11: (0, 0, 1)}
REST |= dict.fromkeys((4, 5, 7, 8, 16, 17, 18, 19, 20, 21), (0, -1, 0))


def about_y(angle):
    """Rotation matrices [..., 3, 3] that turn +z by `angle` towards +x."""
    c, s, o = np.cos(angle), np.sin(angle), np.zeros_like(angle)
    return np.stack((np.stack((c, o, s), -1), np.stack((o, o + 1, o), -1), np.stack((-s, o, c), -1)), -2)


def arc(start, end):
    """Matrices of the smallest turn from unit vectors `start` to `end` [..., 3], by Rodrigues' formula."""
    axis = np.cross(start, end)
    x, y, z = np.moveaxis(axis, -1, 0)
    o = np.zeros_like(x)
    cross = np.stack((np.stack((o, -z, y), -1), np.stack((z, o, -x), -1), np.stack((-y, x, o), -1)), -2)
    dot = (start * end).sum(-1)[..., None, None]
    return np.eye(3) + cross + cross @ cross / np.maximum(1 + dot, 1e-9)


def ahead(positions, hips):
    """Horizontal facing [T, 3]: up x across, the hips' part of across counted with this sign."""
    across = hips * (positions[:, 2] - positions[:, 1]) + positions[:, 17] - positions[:, 16]
    return np.cross((0, 1, 0), across / np.linalg.norm(across, axis=-1, keepdims=True))


def vectors(positions, *, first_is_zero=True):
    """Vectors [T - 1, 263] of positions [T, 22, 3]: by the script of the data set, or as MDM's has it."""
    forward = ahead(positions[:1], 1.0)[0]
    positions = (positions - positions[0, 0] * (1, 0, 1)) @ about_y(-np.arctan2(forward[0], forward[2])).T
    forward = gaussian_filter1d(ahead(positions, -1.0), 20, axis=0, mode="nearest")
    headings = np.arctan2(forward[:, 0], forward[:, 2])
    if first_is_zero:
        headings[0] = 0.0
    to_front = about_y(-headings)
    step = np.diff(positions, axis=0)
    yaw = (np.diff(headings) + np.pi) % (2 * np.pi) - np.pi
    speed = np.einsum("tij,tj->ti", to_front[1:], step[:, 0])[:, [0, 2]]
    local = positions - positions[:, :1] * (1, 0, 1)
    local = np.einsum("tij,tkj->tki", to_front, local)[:, 1:]
    moving = np.einsum("tij,tkj->tki", to_front[:-1], step)
    feet = (step[:, [7, 10, 8, 11]] ** 2).sum(-1) < 0.002
    parts = (-yaw[:, None] / 2, speed, positions[:-1, 0, 1:2], local[:-1].reshape(len(step), -1))
    parts += (turns(positions, to_front)[:-1].reshape(len(step), -1), moving.reshape(len(step), -1), feet)
    return np.concatenate(parts, -1).astype(np.float32)


def turns(positions, to_front):
    """First two columns [T, 21, 6] of each bone's rotation against the one before it in its chain."""
    found = np.zeros((len(positions), 22, 6))
    for chain in CHAINS:
        before = to_front
        for parent, joint in pairwise(chain):
            bone = positions[:, joint] - positions[:, parent]
            bone = bone / np.linalg.norm(bone, axis=-1, keepdims=True)
            own = arc(np.broadcast_to(np.array(REST[joint], float), bone.shape), bone)
            local = np.swapaxes(before, -1, -2) @ own
            found[:, joint] = np.concatenate((local[..., 0], local[..., 1]), -1)
            before = own
    return found[:, 1:]


def looping(name, frames, start=0):
    """Positions [frames, 22, 3] float64 of a bundled motion played to and fro."""
    source = real_motions()[name].double().numpy()
    return source[np.abs((np.arange(frames) + start) % (2 * len(source) - 2) - len(source) + 1)]


def hard(positions):
    """Where [T - 1, 21] a bone or the one before it lies nearly opposite to its rest: there arcs are undetermined."""
    rest = np.array([REST[joint] for joint in range(1, 22)])
    bones = positions[:-1, 1:] - positions[:-1, list(SMPL22.parents[1:])]
    bones = bones / np.linalg.norm(bones, axis=-1, keepdims=True)
    bad = np.concatenate((np.zeros((len(bones), 1), bool), (bones * rest).sum(-1) < -0.9), -1)
    return bad[:, 1:] | bad[:, list(SMPL22.rotation_parents[1:])]


CLIPS = {"000001": ("walk", 60), "M000001": ("walk", 60), "000002": ("dance_a", 120), "000003": ("spin", 90)}
CLIPS |= {"000004": ("kick", 30), "000005": ("jump", 220)}


def write_source(root):
    for name in ("new_joint_vecs", "texts"):
        (root / name).mkdir(parents=True)
    for name, (motion, frames) in CLIPS.items():
        np.save(root / "new_joint_vecs" / f"{name}.npy", vectors(looping(motion, frames + 1)))
        (root / "texts" / f"{name}.txt").write_text(f"a person {motion}s.#a/DET person/NOUN\nsomeone {motion}s\n")
    parts = "he turns.#he/PRON turn/VERB#1.0#4.1\nhe stops.#he/PRON stop/VERB#nan#nan\ntoo short#too/ADV#0.0#1.0\n"
    with (root / "texts" / "000002.txt").open("a") as file:
        file.write(parts)
    (root / "texts" / "000003.txt").write_text("a part.#a/DET part/NOUN#2.0#10.0\n")
    lists = {"train": ("000001", "M000001", "000003", "000004"), "val": ("000005",), "test": ("000002",)}
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return str(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """-> source folder, data set folder, what the import told."""
    root = tmp_path_factory.mktemp("humanml3d")
    done = run_import(HumanML3DImporter(write_source(root / "source"), ImportOptions(optics=EXACT)), str(root / "set"))
    return root / "source", root / "set", done


def test_the_truth_is_the_sources_own_file_byte_for_byte(made):
    source, out, done = made
    names = ("000001", "M000001", "000002")
    for name in names:
        stored = np.load(out / "new_joint_vecs" / f"{name}.npy")
        assert stored.tobytes() == np.load(source / "new_joint_vecs" / f"{name}.npy").tobytes()
    whole = np.load(source / "new_joint_vecs" / "000002.npy")
    assert np.load(out / "new_joint_vecs" / "A_000002.npy").tobytes() == whole[20:82].tobytes()
    assert done.card.counts == {"test": 2, "train": 3}


def test_captions_of_a_time_are_clips_of_their_own_and_what_mdm_would_leave_out_is_left_out(made):
    _, out, _ = made
    texts = {path.stem: path.read_text() for path in (out / "texts").iterdir()}
    assert texts["A_000002"] == "he turns.#he/PRON turn/VERB#0.0#0.0\n"
    assert texts["A_000003"] == "a part.#a/DET part/NOUN#0.0#0.0\n"
    assert "000003" not in texts
    assert texts["000002"].splitlines()[2] == "he stops.#he/PRON stop/VERB#0.0#0.0"
    assert "he turns" not in texts["000002"]
    assert {clip.id for clip in read_folder(str(out), "train")[1]} == {"000001", "M000001", "A_000003"}
    _, _, done = made
    assert set(done.left_out) == {"000004", "000005", "B_000002"}
    assert "expected 40 to 199 frames, as MDM reads, found 30" in done.left_out["000004"]
    assert "found 20" in done.left_out["B_000002"]


def test_keypoints_are_the_decoded_truth_projected_in_clips_and_in_parts(made):
    _, out, done = made
    for name in ("000001", "000002", "A_000002", "A_000003"):
        clip = read_clip(str(out), done.card, name)
        true = decoded(clip.truth)
        np.testing.assert_allclose(tools.seen(true, clip.truth_extrinsics), clip.keypoints, atol=3e-5)
        np.testing.assert_allclose(true[0, 0, [0, 2]], 0, atol=1e-6)
        if not name.startswith("A"):  # a part begins at the smoothed heading of its clip, which is not the body's own
            body = decoded(clip.teacher)[0]
            across = body[1] - body[2] + body[16] - body[17]
            assert across[0] > 0.1, name  # the left is at +x
            assert abs(across[2]) < 1e-3, name  # faces +z
    whole, part = (read_clip(str(out), done.card, name) for name in ("000002", "A_000002"))
    np.testing.assert_array_equal(part.keypoints, whole.keypoints[20:82])
    assert np.abs(part.truth_extrinsics - whole.truth_extrinsics).max() > 0.05


def test_a_teacher_follows_the_rules_of_the_files(made, tmp_path):
    """A lifter that returns the truth makes the source's vectors again, all 263 channels."""
    source, _, _ = made
    lifted = tmp_path / "lifted"
    lifted.mkdir()
    for name in CLIPS:
        features = torch.from_numpy(np.load(source / "new_joint_vecs" / f"{name}.npy"))
        np.save(lifted / f"{name}.npy", positions_of(features, SMPL22).numpy())
    extra = {"lifted": str(lifted), "lifted_frame": "world", "lifted_name": "perfect"}
    importer = HumanML3DImporter(str(source), ImportOptions(optics=EXACT, extra=extra))
    done = run_import(importer, str(tmp_path / "set"))
    assert done.card.lifter == "perfect"
    assert done.card.lifter_error["mpjpe"] < 1e-4
    for name, motion in (("000001", "walk"), ("000002", "dance_a")):
        clip = read_clip(str(tmp_path / "set"), done.card, name)
        error = np.abs(clip.teacher - clip.truth)
        error[:, ROTATIONS] *= ~np.repeat(hard(looping(motion, CLIPS[name][1] + 1)), 6, axis=-1)
        assert error.max() < 1e-3, name
    part = read_clip(str(tmp_path / "set"), done.card, "A_000002")
    np.testing.assert_allclose(part.extrinsics, part.truth_extrinsics, atol=1e-4)
    assert abs(initial_heading(torch.from_numpy(part.teacher), SMPL22)) > 0.02


def test_results_in_the_cameras_axes_are_placed_in_the_world(made, tmp_path):
    source, out, done = made
    lifted = tmp_path / "lifted"
    lifted.mkdir()
    clip = read_clip(str(out), done.card, "000001")
    true = decoded(clip.truth)
    np.save(lifted / "000001.npy", tools.into_camera(true, clip.truth_extrinsics))
    importer = HumanML3DImporter(str(source), ImportOptions(optics=EXACT, extra={"lifted": str(lifted)}))
    again = run_import(importer, str(tmp_path / "set"))
    assert again.card.counts == {"train": 1}
    assert again.card.lifter_error["mpjpe"] < 1e-4
    assert "expected A_000003.npy [T, 22, 3]" in again.left_out["A_000003"]


@pytest.mark.parametrize("name", ["walk", "dance_a", "spin", "kick", "spinkick", "run"])
@pytest.mark.parametrize("turned", [0.0, 0.8, 2.9, -2.0])
def test_the_recovered_initial_heading_gives_the_stored_rotations_again(name, turned):
    """Law: decode, find the heading that the first frame had, encode with it: the stored channels, to 1e-3."""
    positions = looping(name, 100) @ about_y(np.array(turned)).T
    for first_is_zero in (True, False):
        whole = vectors(positions, first_is_zero=first_is_zero)
        for start in (0, 13, 55):
            stored = torch.from_numpy(whole[start:]).double()
            angle = initial_heading(stored, SMPL22)
            headings, _ = decode_root(stored, SMPL22)
            again = encode(decode(stored, SMPL22), SMPL22, headings, initial_heading=angle)
            error = (again - stored)[:, ROTATIONS].abs().numpy()
            error *= ~np.repeat(hard_in_file(whole, start), 6, axis=-1)
            assert error.max() < 1e-3, (name, start)
    assert initial_heading(torch.from_numpy(vectors(positions)), SMPL22) == 0.0


def hard_in_file(whole, start):
    """Where arcs are undetermined in the frame in which the file took them."""
    stored = torch.from_numpy(whole).double()
    angle = initial_heading(stored, SMPL22)
    positions = decode(stored, SMPL22).numpy() @ about_y(np.array(angle)).T
    return np.concatenate((hard(positions), hard(positions[-2:])))[start:]


def test_a_wrong_initial_heading_would_be_seen_and_channels_of_another_kind_have_none(generator):
    stored = torch.from_numpy(vectors(looping("dance_a", 100))[40:]).double()
    headings, _ = decode_root(stored, SMPL22)
    wrong = encode(decode(stored, SMPL22), SMPL22, headings)
    assert (wrong - stored)[:, ROTATIONS].abs().max() > 0.05
    assert initial_heading(torch.randn(50, 263, generator=generator), SMPL22) == 0.0
    assert initial_heading(torch.from_numpy(vectors(looping("walk", 30))[:1]), SMPL22) == 0.0


def test_a_crop_of_a_part_knows_the_heading_in_the_whole_clip(made):
    """So that targets are encoded as the stored vectors were."""
    source, out, done = made
    whole = torch.from_numpy(np.load(source / "new_joint_vecs" / "000002.npy")).double()
    headings, _ = decode_root(whole, SMPL22)
    part = read_clip(str(out), done.card, "A_000002")
    assert Path.of(part.truth, SMPL22).initial == pytest.approx(headings[20].item(), abs=1e-4)
    cut = crop(with_truth_as_teacher(part), 10, 40)
    apart = np.angle(np.exp(1j * (cut.initial_heading - headings[30].item())))
    assert abs(apart) < 1e-4
    seen = tools.seen(decoded(cut.teacher.numpy())[:1], cut.extrinsics[0].numpy())
    np.testing.assert_allclose(seen, part.keypoints[10:11], atol=3e-5)


def test_a_part_before_a_moving_camera_is_cut_with_its_cameras():
    clip = make_clip(name="dance_a", moving=True)
    part = cut(clip, 15, 60)
    assert (part.length, part.extrinsics.shape) == (45, (45, 3, 4))
    true = decoded(part.truth)
    for frame in (0, 20, 44):
        seen = tools.seen(true[frame : frame + 1], part.truth_extrinsics[frame])
        np.testing.assert_allclose(seen, clip.keypoints[15 + frame : 16 + frame], atol=1e-4)
    np.testing.assert_array_equal(part.teacher, clip.teacher[15:60])
    with pytest.raises(DatasetError, match="expected a part within 64 frames"):
        cut(clip, 15, 65)


def test_our_rule_for_the_files_equals_the_definition():
    positions = torch.from_numpy(looping("dance_b", 90))
    moved, _, _ = canonicalise(positions, SMPL22, HUMANML3D_FILES)
    ours = encode(moved, SMPL22, heading(moved, SMPL22, HUMANML3D_FILES))[:-1].numpy()
    theirs = vectors(looping("dance_b", 90))
    error = np.abs(ours - theirs)
    error[:, ROTATIONS] *= ~np.repeat(hard(moved.numpy()), 6, axis=-1)
    assert error.max() < 1e-4
    last = positions_of(torch.from_numpy(theirs), SMPL22)
    np.testing.assert_allclose(last.numpy(), moved.numpy(), atol=1e-4)


def test_features_of_another_skeleton_are_refused(made, tmp_path):
    source = shutil.copytree(made[0], tmp_path / "source")
    np.save(source / "new_joint_vecs" / "000001.npy", np.zeros((60, 251), dtype=np.float32))
    importer = HumanML3DImporter(str(source), ImportOptions())
    with pytest.raises(DatasetError, match=r"expected features \[T, 263\], found \[60, 251\]"):
        importer.read(next(member for member in importer.members() if member.id == "000001"))
    with pytest.raises(ConfigError, match="--option lifted_frame: expected camera or world"):
        HumanML3DImporter(str(source), ImportOptions(extra={"lifted_frame": "image"}))


def test_a_line_that_is_no_caption_is_left_out_alone(tmp_path):
    write_source(tmp_path / "source")
    texts = tmp_path / "source" / "texts" / "000001.txt"
    good = "\ufeffa person walks.#a/DET person/NOUN walk/VERB#0.0#0.0\n"
    bad = "a man does #1 pose.#a/DET man/NOUN#0.0#0.0\na person turns.#a/DET#5.0#2.0\n"
    texts.write_bytes((good + bad).encode() + "tournée.#a/DET#0.0#0.0\n".encode("latin-1"))
    (tmp_path / "source" / "texts" / "000003.txt").write_text("a # b # c.\n")
    out = str(tmp_path / "set")
    done = run_import(HumanML3DImporter(str(tmp_path / "source"), ImportOptions(optics=EXACT)), out)
    lines = {key.rpartition("/")[2]: reason for key, reason in done.left_out.items() if ": line " in key}
    assert list(lines) == ["000001.txt: line 2", "000001.txt: line 3", "000001.txt: line 4", "000003.txt: line 1"]
    assert "4 signs #" in lines["000001.txt: line 2"]
    assert "000003" in done.left_out  # it has no other caption
    card = read_card(out)
    assert read_clip(out, card, "000001").texts == ("a person walks.",)
    assert {"M000001", "000002"} <= {
        clip.id for split in card.counts if card.counts[split] for clip in read_folder(out, split)[1]
    }
