"""The importer of joints: what its cameras see, which way things are up, and which trial is on which side."""

import json
import re

import numpy as np
import pytest
from lifters import tools
from people import decoded, real_motions

from videomdm_ext.data.folder import read_card, read_clip, read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import Optics
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import JointsImporter
from videomdm_ext.errors import ConfigError, DatasetError

EXACT = Optics(noise=0.0)
NAMES = ("walk_s0", "walk_s1", "run_s0", "jump_s0", "kick", "spin")
LINE = "a person {0}s.#a/DET person/NOUN {0}/VERB#0.0#0.0\n"


def write_source(root, *, turn=None, keep=1):
    """Write the bundled motions in the source's layout, turned by a matrix, every `keep`th frame."""
    for name in ("joints", "texts"):
        (root / name).mkdir(parents=True)
    for name in NAMES:
        what = re.sub(r"_s\d$", "", name)
        positions = real_motions()[what].numpy()[::keep]
        np.save(root / "joints" / f"{name}.npy", positions if turn is None else positions @ turn)
        (root / "texts" / f"{name}.txt").write_text(LINE.format(what) + "only here.#only/ADV here/ADV#1.0#2.0\n")
    return str(root)


def test_keypoints_are_the_truth_projected_and_everything_faces_ahead(tmp_path):
    source, out = write_source(tmp_path / "source"), str(tmp_path / "set")
    done = run_import(JointsImporter(source, ImportOptions(optics=EXACT)), out)
    assert done.left_out == {}
    for name in NAMES:
        clip = read_clip(out, done.card, name)
        true = decoded(clip.truth)
        np.testing.assert_allclose(tools.seen(true, clip.truth_extrinsics), clip.keypoints, atol=3e-5)
        for features in (clip.truth, clip.teacher):
            first = decoded(features)[0]
            assert first[1, 0] - first[2, 0] > 0.05  # the left hip is at +x: the person faces +z
            assert first[15, 1] > first[0, 1] or name == "spin"
        original = np.load(tmp_path / "source" / "joints" / f"{name}.npy")
        assert clip.length == len(original) - 1
        np.testing.assert_allclose(true[..., 1], original[:-1, :, 1], atol=1e-4)


def test_pieces_of_a_trial_stay_together_and_views_are_clips_of_their_own(tmp_path):
    source, out = write_source(tmp_path / "source"), str(tmp_path / "set")
    members = JointsImporter(source, ImportOptions(views=2)).members()
    assert [m.id for m in members if m.trial == "walk"] == ["walk_s0_v0", "walk_s0_v1", "walk_s1_v0", "walk_s1_v1"]
    assert {m.trial for m in members if m.id.startswith("kick")} == {"kick"}
    run_import(JointsImporter(source, ImportOptions(views=2)), out)
    first, second = (read_clip(out, read_card(out), f"walk_s0_v{view}") for view in range(2))
    assert np.abs(first.truth_extrinsics - second.truth_extrinsics).max() > 0.1
    np.testing.assert_array_equal(first.truth, second.truth)
    sides = {split: {c.id[:4] for c in read_folder(out, split)[1]} for split in ("train", "val", "test")}
    assert sum("walk" in names for names in sides.values()) == 1


def test_another_rate_and_another_upward_axis_are_converted(tmp_path):
    z_up = np.array(((1, 0, 0), (0, 0, 1), (0, -1, 0)), dtype=np.float32)  # (x, y, z) becomes (x, -z, y)
    plain = write_source(tmp_path / "plain", keep=2)
    turned = write_source(tmp_path / "turned", turn=z_up, keep=2)
    for source, extra in ((plain, {"fps": "10"}), (turned, {"fps": "10", "up": "z"})):
        importer = JointsImporter(source, ImportOptions(extra=extra))
        found = importer.read(importer.members()[0]).truth.numpy()
        name = importer.members()[0].place
        expected = real_motions()[re.sub(r"_s\d$", "", name)].numpy()
        whole = (len(expected) - 1) // 2 * 2 + 1
        assert len(found) == whole
        np.testing.assert_allclose(found[::2], expected[:whole:2], atol=1e-6)


def test_an_index_decides_which_clips_there_are_and_gives_captions(tmp_path):
    source = write_source(tmp_path / "source")
    (tmp_path / "source" / "index.csv").write_text("name,caption\nkick,a kick.\nspin,a spin.\n")
    (tmp_path / "source" / "texts" / "kick.txt").unlink()
    importer = JointsImporter(source, ImportOptions())
    assert [m.id for m in importer.members()] == ["kick", "spin"]
    assert importer.read(importer.members()[0]).texts == ("a kick.",)
    given = tmp_path / "captions.tsv"
    given.write_text("kick\tsomeone kicks.\nkick\ta high kick.\n")
    importer = JointsImporter(source, ImportOptions(captions=str(given)))
    assert importer.read(importer.members()[0]).texts == ("someone kicks.", "a high kick.")


def test_what_is_wrong_is_told_and_the_rest_is_imported(tmp_path):
    source = write_source(tmp_path / "source")
    joints = tmp_path / "source" / "joints"
    np.save(joints / "kick.npy", np.zeros((40, 21, 3), dtype=np.float32))
    np.save(joints / "spin.npy", np.full((40, 22, 3), np.nan, dtype=np.float32))
    np.save(joints / "jump_s0.npy", 1000 * real_motions()["jump"].numpy())
    (tmp_path / "source" / "texts" / "run_s0.txt").write_text("a run.#a/DET#3.0#1.0\n")
    done = run_import(JointsImporter(source, ImportOptions()), str(tmp_path / "set"))
    assert sum(done.card.counts.values()) == 2
    assert "expected joints [T, 22, 3], found [40, 21, 3]" in done.left_out["kick"]
    assert "NaN" in done.left_out["spin"]
    assert "metres" in done.left_out["jump_s0"]
    assert "a caption of the whole clip, found none" in done.left_out["run_s0"]
    assert "expected caption#word/TAG" in done.left_out[f"{tmp_path / 'source' / 'texts' / 'run_s0.txt'}: line 1"]


def test_options_that_no_one_knows_are_refused(tmp_path):
    for extra, message in (({"pfs": "20"}, "--option pfs"), ({"fps": "no"}, "--option fps"), ({"up": "x"}, "up")):
        source = write_source(tmp_path / message)
        with pytest.raises(ConfigError, match=message):
            (importer := JointsImporter(source, ImportOptions(extra=extra))).read(importer.members()[0])
    with pytest.raises(DatasetError, match="expected clips for joints, found none"):
        run_import(JointsImporter(str(tmp_path / "nowhere"), ImportOptions()), str(tmp_path / "set"))


def test_the_card_tells_how_the_set_was_made_and_the_sources_own_tags_are_kept_without_those_of_a_part(tmp_path):
    out = tmp_path / "set"
    run_import(JointsImporter(write_source(tmp_path / "source"), ImportOptions(seed=3)), str(out))
    assert (out / "texts" / "kick.txt").read_text() == "a person kicks.#a/DET person/NOUN kick/VERB#0.0#0.0\n"
    card = json.loads((out / "dataset.json").read_text())
    assert (card["recipe"]["importer"], card["recipe"]["seed"], card["lifter"]) == ("joints", 3, "synthetic")
    assert 0.02 < card["lifter_error"]["pa_mpjpe"] < 0.2
