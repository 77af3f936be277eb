"""The importer of AMASS: joints of a body model that the test writes, against kinematics in numpy, z up to y up."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from lifters.tools import PARENTS, body_arrays, rest, walked
from people import real_motions
from scipy.spatial.transform import Rotation

from videomdm_ext.data import files
from videomdm_ext.data.folder import read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import Optics
from videomdm_ext.data.sources.amass import MOST_FALL, AmassImporter, fall
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.body_models import read_model
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import SMPL22


def write_body(root, gender="male"):
    arrays, shapes = body_arrays(joints=52, shapes=16)
    (root / "smplh" / gender).mkdir(parents=True, exist_ok=True)
    np.savez(root / "smplh" / gender / "model.npz", **arrays)
    return shapes


def parameters(frames=241, fps=120.0, width=156, **changes):
    """The arrays of a file of someone who stands in a world with z up, walks along it and moves every joint."""
    time = np.arange(frames)[:, None] / fps
    pose = 0.3 * np.sin(2 * time + np.arange(width))
    pose[:, 66:] = 5.0  # hands and face: of no matter
    standing = Rotation.from_euler("x", 90, degrees=True)  # from y up to z up
    turning = Rotation.from_rotvec(np.array((0, 0, 1)) * time)
    pose[:, :3] = (turning * standing).as_rotvec()
    moved = np.concatenate((0.5 * time, -0.8 * time, 1.2 + 0.05 * np.sin(4 * time)), 1)
    arrays = {"poses": pose, "trans": moved, "betas": np.linspace(-1, 1, 16), "gender": "male", "mocap_framerate": fps}
    return {**arrays, "dmpls": np.zeros((frames, 8)), **changes}


def joints_of(arrays, shapes):
    """Where the joints are, [T, 22, 3], z up, by walking down the tree."""
    return walked(rest() + shapes @ arrays["betas"], arrays["poses"], arrays["trans"])


def importer(source, models, **options):
    extra = {"smpl": str(models), **options.pop("extra", {})}
    return AmassImporter(str(source), ImportOptions(optics=Optics(noise=0.0), extra=extra, **options))


def take(tmp_path, arrays, **options):
    """What the importer reads of one file, [T, 22, 3]."""
    (tmp_path / "amass").mkdir(exist_ok=True)
    np.savez(tmp_path / "amass" / "walk_poses.npz", **arrays)
    made = importer(tmp_path / "amass", tmp_path / "models", **options)
    return made.read(made.members()[0]).truth.numpy()


def assert_same(found, z_up):
    """Equal joints in y up, all moved up or down to the floor."""
    expected = np.stack((z_up[..., 0], z_up[..., 2], -z_up[..., 1]), -1)
    expected[..., 1] += found[0, 0, 1] - expected[0, 0, 1]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert abs(np.quantile(found[..., 1].min(-1), 0.05)) < 1e-5


@pytest.mark.parametrize("gender", ["male", b"male", np.array("male", dtype=object)])
def test_joints_are_where_the_body_model_puts_them_with_y_up(tmp_path, gender):
    shapes = write_body(tmp_path / "models")
    arrays = parameters()
    found = take(tmp_path, {**arrays, "gender": gender})
    assert found.shape == (41, 22, 3)
    assert_same(found, joints_of(arrays, shapes)[::6])


def test_other_rates_do_not_change_bones(tmp_path):
    shapes = write_body(tmp_path / "models")
    arrays = parameters(frames=101, fps=50.0)
    found = take(tmp_path, arrays)
    assert len(found) == 41
    assert bone_lengths(torch.from_numpy(found), SMPL22).std(0).max() < 1e-5
    assert_same(found[::2], joints_of(arrays, shapes)[::5])


def test_the_gender_of_the_file_or_of_the_option_names_the_body(tmp_path):
    write_body(tmp_path / "models", "female")
    with pytest.raises(DatasetError, match=r"expected the body model smplh of gender male, found none\. Get it"):
        take(tmp_path, parameters())
    assert take(tmp_path, parameters(gender="female")).shape == (41, 22, 3)
    assert take(tmp_path, parameters(), extra={"gender": "female"}).shape == (41, 22, 3)
    with pytest.raises(ConfigError, match="--option gender"):
        take(tmp_path, parameters(), extra={"gender": "robot"})


def test_smplx_files_need_the_body_of_smplx(tmp_path):
    write_body(tmp_path / "models")
    with pytest.raises(DatasetError, match=r"expected the body model smplx of gender male.*data import joints"):
        take(tmp_path, parameters(width=165))
    arrays, shapes = body_arrays(joints=55, shapes=16)
    np.savez(tmp_path / "models" / "SMPLX_MALE.npz", **arrays)
    given = parameters(width=165, mocap_frame_rate=120.0)
    given.pop("mocap_framerate")
    assert_same(take(tmp_path, given), joints_of(given, shapes)[::6])


def test_without_body_models_or_with_one_of_other_shapes_nothing_is_imported(tmp_path):
    with pytest.raises(DatasetError, match=r"expected --option smpl=FOLDER.*data import joints"):
        AmassImporter(str(tmp_path), ImportOptions()).members()
    arrays, _ = body_arrays()
    np.savez(tmp_path / "model.npz", **{**arrays, "v_template": arrays["v_template"][:-1]})
    with pytest.raises(DatasetError, match="expected a body model of at least 22 joints"):
        read_model(tmp_path / "model.npz", files.read_only)


def test_an_import_cuts_takes_and_leaves_out_what_is_no_motion(tmp_path):
    write_body(tmp_path / "models")
    for subject in ("s1", "s2", "s3"):
        (tmp_path / "amass" / subject).mkdir(parents=True)
        np.savez(tmp_path / "amass" / subject / "jump_poses.npz", **parameters(frames=1801))
        np.savez(tmp_path / "amass" / subject / "shape.npz", betas=np.zeros(16))
    np.savez(tmp_path / "amass" / "odd.npz", poses=np.zeros((10, 12)))
    made = importer(tmp_path / "amass", tmp_path / "models")
    done = run_import(made, str(tmp_path / "set"))
    assert set(done.left_out) == {"odd"}
    clips = {c.id: c for split in done.card.counts for c in read_folder(str(tmp_path / "set"), split)[1]}
    assert set(clips) == {f"s{n}_jump_poses_s{k}" for n in (1, 2, 3) for k in (0, 1)}
    assert clips["s1_jump_poses_s0"].texts == ("a person moves: jump.",)
    assert sum(done.card.counts.values()) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poses": np.zeros((50, 99))}, r"poses \[T, 156 or 165 or 72\].*\[50, 99\]"),
        ({"trans": np.zeros((7, 3))}, r"trans \[241, 3\]"),
        ({"trans": np.full((241, 3), np.nan)}, "NaN"),
        ({"mocap_framerate": 0.0}, "at 0"),
        ({"mocap_framerate": np.array(120.0, dtype=object)}, "pickled"),
        ({"poses": np.full((241, 156), 0.0, dtype=object)}, "pickled"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, changes, message):
    write_body(tmp_path / "models")
    with pytest.raises(DatasetError, match=message):
        take(tmp_path, parameters(**changes))


def test_a_billion_frames_declared_are_refused_unread(tmp_path):
    write_body(tmp_path / "models")
    take(tmp_path, parameters())
    place = tmp_path / "amass" / "walk_poses.npz"
    with zipfile.ZipFile(place) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = members["poses.npy"][:128].replace(b"(241, 156), }       ", b"(1000000000, 156), }")
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, header + content[128:] if name == "poses.npy" else content)
    made = importer(tmp_path / "amass", tmp_path / "models")
    with pytest.raises(DatasetError, match=r"walk_poses\.npz: expected one of AMASS's files"):
        made.read(made.members()[0])


@pytest.mark.filterwarnings("ignore")
def test_a_pickled_model_gives_the_same_joints_through_smplx(tmp_path):
    pytest.importorskip("smplx", reason='a .pkl needs smplx: pip install -e ".[mdm]" -c constraints.txt')
    arrays, shapes = body_arrays(shapes=10)
    vertices = len(arrays["v_template"])
    arrays["kintree_table"] = np.array([(*PARENTS, 21, 22), np.arange(24)])
    arrays |= {"weights": np.ones((vertices, 24)) / 24, "posedirs": np.zeros((vertices, 3, 207))}
    arrays["f"] = np.zeros((4, 3), dtype=np.int64)
    (tmp_path / "SMPL_MALE.pkl").write_bytes(pickle.dumps(arrays))
    model = read_model(tmp_path / "SMPL_MALE.pkl", files.read_only)
    betas = torch.linspace(-1, 1, 10).double()
    np.testing.assert_allclose(model.rest(betas).numpy(), rest() + shapes @ betas.numpy(), atol=1e-5)
    (tmp_path / "SMPL_FEMALE.pkl").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"SMPL_FEMALE\.pkl: expected a body model"):
        read_model(tmp_path / "SMPL_FEMALE.pkl", files.read_only)


def test_a_frame_rate_twice_too_high_makes_a_person_fall_faster_than_gravity_can(tmp_path, caplog):
    """Someone who bounces, 0.6 s in the air each time: free fall at the true rate, four times that at twice of it."""
    write_body(tmp_path / "models")
    arrays = parameters(frames=361, fps=60.0)
    air = (np.arange(361) / 60) % 0.6
    arrays["trans"][:, 2] = 1.2 + 9.81 / 2 * air * (0.6 - air)
    arrays["poses"][:, 3:66] = 0.0
    for rate, warned in ((60.0, False), (120.0, True)):
        caplog.clear()
        take(tmp_path, {**arrays, "mocap_framerate": rate})
        assert ("may be twice too high" in caplog.text) == warned, caplog.text
        assert not warned or ("falls with 4.0 times" in caplog.text and "correct mocap_framerate" in caplog.text)


@pytest.mark.parametrize("name", ["jump", "kick", "cartwheel", "dance_b", "spinkick"])
def test_recorded_leaps_fall_as_gravity_has_it_and_too_fast_at_twice_the_rate(name):
    motion = real_motions()[name].double()
    assert 0.9 < fall(motion, 20.0) < MOST_FALL < fall(motion, 40.0)
