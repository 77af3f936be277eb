"""`videomdm data import`: one command from other people's data to a data set."""

import re

import numpy as np
import pytest
from people import real_motions

from videomdm_ext.cli import main as cli
from videomdm_ext.cli.console import pairs
from videomdm_ext.cli.datasets import grouped
from videomdm_ext.data.folder import read_card
from videomdm_ext.errors import ConfigError

KINDS = ("joints", "humanml3d", "fit3d", "nba", "release")
JOINTS = ("--lifter", "joints", "--option")


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    (root / "joints").mkdir(parents=True)
    (root / "texts").mkdir()
    for name in ("walk", "run", "jump", "kick"):
        np.save(root / "joints" / f"{name}.npy", real_motions()[name].numpy())
        (root / "texts" / f"{name}.txt").write_text(f"a person does a {name}.\n")
    for name in ("short_a", "short_b"):
        np.save(root / "joints" / f"{name}.npy", real_motions()["walk"].numpy()[:9])
        (root / "texts" / f"{name}.txt").write_text("too short.\n")
    return str(root)


def test_one_command_makes_a_data_set_and_says_what_came_of_it(source, tmp_path, capsys):
    out = str(tmp_path / "set")
    words = ["data", "import", "joints", source, "--out", out, "--views", "2", "--seed", "7", "--name", "mine"]
    words += ["--split", "1,0,0"]
    assert cli.main([*words, "--option", "fps=20", "--option", "up=y"]) == 0
    card = read_card(out)
    assert sum(card.counts.values()) == 8
    assert (card.name, card.recipe["views"], card.recipe["seed"]) == ("mine", 2, 7)
    assert (card.recipe["split"], card.counts) == ([1, 0, 0], {"train": 8})
    assert card.recipe["extra"] == {"fps": "20", "up": "y"}
    said = " ".join(capsys.readouterr().out.split())
    assert "clips of smpl22 at 20 fps" in said
    assert re.search(r"teachers by synthetic: \d+ mm globally", said)
    assert "4 left out: 4 such as short_a_v0: short_a_v0: expected at least 16 frames, found 8" in said
    assert f"Next: videomdm train --arm 2d --clips {out}" in said
    rows = [line.split("\t") for line in (tmp_path / "set" / "left_out.txt").read_text().splitlines()]
    assert [name for name, _ in rows] == ["short_a_v0", "short_a_v1", "short_b_v0", "short_b_v1"]
    assert all("expected at least 16 frames, found 8" in reason for _, reason in rows)


def test_names_of_captions_that_nothing_has_are_reported_also_when_all_was_imported_before(source, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("lost\ta person waits.\n")
    words = ["data", "import", "joints", source, "--out", str(tmp_path / "set"), "--captions", str(tmp_path / "a.tsv")]
    for _ in range(2):
        assert cli.main(words) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"1 such as {tmp_path / 'a.tsv'}: lost: expected the name of something to caption" in said


def test_mistakes_are_one_message(source, tmp_path, capsys):
    out = ["--out", str(tmp_path / "set")]
    for words, message in (
        (["jionts", source], "data import 'jionts': expected one of"),
        (["joints", str(tmp_path / "nowhere")], "expected clips for joints, found none"),
        (["joints", source, "--views", "0"], "--views: expected 1 or more"),
        (["joints", source, "--split", "0.8,0.2"], "--split: expected three numbers, the shares of train, val and"),
        (["joints", source, "--split", "0.8,0.2,0.2"], "with the sum 1, found 0.8,0.2,0.2"),
        (["joints", source, "--option", "up"], "--option 'up': expected KEY=VALUE"),
        (["joints", source, "--option", "down=y"], "--option down: expected one that data import joints knows"),
        (["joints", source, "--lifter", "magic"], "lifter 'magic': expected one of"),
        (["nba", source], "expected --option lifted=DIR"),
        (
            ["joints", source, *JOINTS, f"lifter.results={tmp_path}", "--option", "lifter.units=x"],
            "units of the lifter: expected",
        ),
    ):
        assert cli.main(["data", "import", *words, *out]) == 1
        assert message in capsys.readouterr().err


def test_the_kinds_and_lifters_are_listed_with_their_options(capsys):
    assert cli.main(["data", "import", "list", "."]) == 0
    kinds, *lifters = capsys.readouterr().out.split("--lifter ")
    assert all(kind in kinds for kind in KINDS)
    assert "--option lifted_axes=" in kinds
    keys = {part.split()[0]: set(re.findall(r"--option lifter\.(\w+)=", part)) for part in lifters}
    assert keys["synthetic"] == set()
    assert keys["motionbert"] == {"results", "fps"}
    assert {"results", "skeleton", "units", "up", "fps"} <= keys["joints"]


def test_values_may_hold_equals_signs_and_keys_come_once():
    assert pairs(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    with pytest.raises(ConfigError, match="each key once"):
        pairs(["a=1", "a=2"])


def test_reasons_are_grouped_whatever_place_and_numbers_they_name():
    told = {"a": "a.npy: expected 40 to 199 frames, found 3. Leave.", "b": "x: expected numbers, found NaN. Leave."}
    told["c"] = "c.npy: expected 40 to 199 frames, found 300. Leave."
    assert [(count, clip_id) for count, clip_id, _ in grouped(told)] == [(2, "a"), (1, "b")]
