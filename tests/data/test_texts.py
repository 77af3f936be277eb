"""Captions as people write them: lines of HumanML3D, tables from spreadsheets, JSON, byte order marks, templates."""

import json
import math

import pytest

from videomdm_ext.data import files
from videomdm_ext.data.texts import Caption, CaptionSource, caption_table, parse_texts, read_captions, seconds
from videomdm_ext.errors import ConfigError, DatasetError

WALKS = {"cam03": [Caption("a person walks.")]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, encoding):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    texts = {
        "a.tsv": "cam03\ta person walks.\n", "a.csv": "cam03;a person walks.\r\n",
        "a.json": '{"cam03": "a person walks."}', "a.txt": "a person walks.#a/DET#0.0#0.0\n",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_bytes((mark + text).encode(encoding))
        place = str(tmp_path / name)
        if name == "a.txt":
            assert read_captions(place) == [Caption("a person walks.", words=(("a", "DET"),))]
            assert parse_texts(files.read_text(place), place) == ("a person walks.",)
        else:
            assert caption_table(place) == WALKS
    assert files.read_json(str(tmp_path / "a.json"), "captions") == {"cam03": "a person walks."}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "cam03\tone.\n\ncam03\ttwo, or 2.\t0:01.5\t3\n"),
        ("a.txt", "\ufeffcam03\tone.\n\ufeffcam03\ttwo, or 2.\t1.5\t3\n"),  # of two files that were joined
        ("a.csv", 'cam03,one.\n,,,\ncam03,"two, or 2.",0:01.5,0:00:03\n'),
        ("a.csv", "cam03;one.;;\ncam03;two, or 2.;1,5;3\n"),
        ("a.CSV", "cam03\tone.\ncam03\ttwo, or 2.\t1.5\t3\n"),
        ("a.csv", 'End,Note,Video,Start,Caption\n,good,cam03,,one.\n3,,cam03,1.5,"two, or 2."\n'),
        ("a.json", '{"cam03": ["one.", {"caption": "two, or 2.", "start": "0:01.5", "end": 3}]}'),
        (
            "a.json",
            '[{"video": "cam03", "text": "one."}, {"file": "cam03", "caption": "two, or 2.", "from": 1.5, "to": 3}]',
        ),
    ],
)
def test_a_spreadsheet_has_several_captions_a_video_and_times_in_seconds_or_minutes(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    expected = [Caption("one."), Caption("two, or 2.", 1.5, 3.0)]
    assert caption_table(str(tmp_path / name)) == {"cam03": expected}


def test_columns_and_entries_may_hold_several_captions(tmp_path):
    (tmp_path / "a.csv").write_text("file,caption_1,caption_2,caption 3\na,one.,,three.\nb,two.,,\n")
    (tmp_path / "a.json").write_text(
        '[{"file": "a", "captions": ["one.", "three."]}, {"file": "b", "captions": "two."}]'
    )
    expected = {"a": [Caption("one."), Caption("three.")], "b": [Caption("two.")]}
    for name in ("a.csv", "a.json"):
        assert caption_table(str(tmp_path / name)) == expected
    (tmp_path / "b.csv").write_text("file,caption,start\na,one.,3\n")
    assert caption_table(str(tmp_path / "b.csv")) == {"a": [Caption("one.", 3.0, math.inf)]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "sep=;\r\nVideo name;Caption;Start (s);End (s)\r\ncam03;one.;1,5;3\r\n"),
        ("a.csv", "id,video_file,caption,start_time,end_time\n7,cam03,one.,0:01.5,0:03\n"),
        ("a.csv", "file path,id,caption,begin,finish,duration\ncam03,7,one.,1.5,3,20\n"),
        ("a.csv", '"video";"caption, in English";"caption";"start in seconds";"end sec"\ncam03;;one.;1,5;3\n'),
        ("a.json", '[{"video_id": "cam03", "caption": "one.", "start_time": 1.5, "end_time": 3, "id": 7}]'),
    ],
)
def test_columns_are_known_by_their_words_and_of_several_names_the_videos_counts(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert caption_table(str(tmp_path / name)) == {"cam03": [Caption("one.", 1.5, 3.0)]}


@pytest.mark.parametrize("columns", ["start_ms,end_ms", "start frame,end frame", "time", "start,duration", "segment"])
def test_times_in_columns_that_are_not_known_are_refused_and_no_caption_of_the_whole(tmp_path, columns):
    keys = columns.split(",")
    (tmp_path / "a.csv").write_text(f"video,caption,{columns}\ncam03,one.,{','.join('12'[: len(keys)])}\n")
    (tmp_path / "a.json").write_text(json.dumps([{"video": "cam03", "caption": "one."} | dict.fromkeys(keys, 1)]))
    for name in ("a.csv", "a.json"):
        with pytest.raises(DatasetError, match=f"expected times in columns `start` and `end`.*{keys[-1]}"):
            caption_table(str(tmp_path / name))


def test_json_without_times_and_names_with_accents_apart_are_known(tmp_path):
    place = tmp_path / "a.json"
    place.write_text('[{"video": "fr\u00fch.mp4", "caption": "one.", "start": null, "end": null}]')
    source = CaptionSource(str(place), "")
    assert source.find("fru\u0308h.mp4") == [Caption("one.")]
    assert not source.unused


@pytest.mark.parametrize(
    ("name", "line"),
    [
        *[("a.tsv", text) for text in ("a one.", "a\t", "\tone.", "a\tone.\t3", "a\tone.\t3\t2", "a\tone.\tx\ty")],
        *[("a.tsv", text) for text in ("a\tone #2", "a\tone.\t0:75\t2:00", "a\tone.\t1\t2\t3", 'a\t"one. two.')],
        *[("a.csv", text) for text in ("a,one, two.", "a,one,1", 'a,"one\ntwo."', "a,one.,nan,inf", 'a,"one."s')],
        *[("a.json", text) for text in ('{"a": [null]}', '{"a": "one.", "a": "two."}', '["one."]', '{"a": ""}')],
    ],
)  # fmt: skip
def test_a_row_that_is_no_caption_is_refused_with_its_place(tmp_path, name, line):
    start = {"a.tsv": "b\tfine.\n", "a.csv": "b,fine.\n", "a.json": ""}[name]
    (tmp_path / name).write_text(f"{start}{line}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"entry |JSON" if name == "a.json" else "line [23]: "):
        caption_table(str(tmp_path / name))


def test_a_workbook_and_another_encoding_are_refused_with_what_to_save(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"PK\3\4rest of a workbook")
    with pytest.raises(DatasetError, match=r"found a workbook\. Save it as CSV UTF-8"):
        caption_table(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_bytes("a;Frau läuft.\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"for Excel that is the type CSV UTF-8"):
        caption_table(str(tmp_path / "a.csv"))


def test_times_are_seconds_minutes_and_hours():
    times = {"0:01": 1, "1:02:03.5": 3723.5, "90": 90, "2,5": 2.5, "61:00": 3660, "01:30": 90}
    assert {text: seconds(text) for text in times} == times
    for text in ("", "-1", "1:60", "1:60:00", "1e3", "nan", "a", "1:2:3:4"):
        with pytest.raises(ValueError, match=r"is no time|60 or more"):
            seconds(text)


BAD = """a person walks.#a/DET person/NOUN walk/VERB#0.0#0.0
a man does #1 pose.#a/DET man/NOUN#0.0#0.0
a person walks.#a/DET#0.0
a person turns.#a/DET person/NOUN turn/VERB#5.0#2.0
a man does #1 pose.#0.0#0.0
a man does #1 pose.
a person ends.#a/DET#2.0#inf
#a/DET#0.0#0.0
a person stops.#a/DET person/NOUN stop/VERB#nan#nan
"""


def test_lines_that_are_no_captions_are_left_out_by_name_and_the_others_stay(tmp_path):
    place = tmp_path / "a.txt"
    place.write_bytes(BAD.encode() + "une fille à gauche.#une/DET#0.0#0.0\n".encode("latin-1"))
    left_out = {}
    found = read_captions(str(place), left_out)
    assert [caption.text for caption in found] == ["a person walks.", "a person stops."]
    assert all(caption.is_whole for caption in found)
    assert [key.removeprefix(f"{place}: line ") for key in left_out] == ["2", "3", "4", "5", "6", "7", "8", "10"]
    reasons = ("4 signs #", "2 signs #", "from 5 to 2 s", "no words with tags", "no words with tags", "from 2 to inf s",
               "caption is empty", "not UTF-8")  # fmt: skip
    for reason, message in zip(reasons, left_out.values(), strict=True):
        assert reason in message
    with pytest.raises(DatasetError, match=r"a\.txt: line 2: expected .*4 signs #"):
        read_captions(str(place))


def test_a_template_makes_captions_of_folders_and_the_table_goes_first(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"cam01": "a person sits.", "lost": "nobody."}))
    source = CaptionSource(str(tmp_path / "a.json"), "a person {folder}, as in {name}.")
    assert source.find("cam01", path="videos/Walking_fast/cam01.mp4") == [Caption("a person sits.")]
    found = source.find("takeTwo", path="videos/Walking_fast/takeTwo.mp4")
    assert found == [Caption("a person walking fast, as in take two.")]
    assert list(source.unused) == [f"{tmp_path / 'a.json'}: lost"]
    for template in ("a {person}.", "a {", "{folder} #1", "{}", "{folder.x}"):
        with pytest.raises(ConfigError, match=r"--caption: expected a sentence"):
            CaptionSource("", template)
