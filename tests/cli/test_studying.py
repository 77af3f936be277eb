"""The verbs `study` and `study score`: what the page holds and hides, a study from its start to its score, refusals."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, SOFTWARE_3D, Browser, browsing, content_of
from clips import CARD, make_clip, motion
from comparisons import write_plan

from videomdm_ext.bench.study import Key
from videomdm_ext.cli import studying, viewing
from videomdm_ext.cli.main import main
from videomdm_ext.cli.studying import read_key
from videomdm_ext.data.building import write_folder
from videomdm_ext.inference.sample import write_motions

PROMPTS = ("a person walks.", "a person kicks.", "a person </script> runs.")
FRAMES = 8


def study(*words: object) -> int:
    return main(["study", *map(str, words)])


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """-> words that name two arms with motions for the same captions, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    names = ("walk", "kick", "run")
    for arm, frames in (("secretarm", FRAMES), ("hiddenarm", FRAMES + 2)):
        moves = [motion(name)[10 : 10 + frames] for name in names]
        write_motions(tmp_path / arm / "samples.npz", {"samples": moves}, [*PROMPTS])
    return ["secretarm=secretarm", "hiddenarm=hiddenarm/samples.npz"]


def stored(place: Path) -> dict[str, Any]:
    return content_of(place.read_text(encoding="utf-8"))


def answer(key: Key, booklet: int, number: int, arm: str) -> str:
    """-> what somebody chooses who looks, reads, and prefers an arm: a or b."""
    pair, exchanged = key.pairs[key.booklets[booklet][number][0]], key.booklets[booklet][number][1]
    return "ab"[(pair.arms.index(arm) if pair.arms else pair.answer) != exchanged]


def file_of(key: Key, booklet: int, arm: str) -> dict[str, Any]:
    votes = [{"pair": key.pairs[n].id, "exchanged": e, "choice": answer(key, booklet, at, arm), "seconds": 2}
             for at, (n, e) in enumerate(key.booklets[booklet])]  # fmt: skip
    head = {"format": "videomdm study", "version": 1, "study": key.study, "person": f"{booklet:016x}"}
    return {**head, "booklet": booklet, "votes": votes}


def test_the_page_hides_whose_the_motions_are_and_the_same_command_makes_the_same_study(arms, capsys):
    assert study(*arms, "--seed", 3) == 0
    shown = capsys.readouterr().out
    assert "11 pairs a person" not in shown
    assert "8 pairs a person, 5 of them checks, 0.7 min; " in shown
    assert "Next: videomdm study score --study runs/study FILES" in shown
    page, key = Path("runs/study/study.html"), read_key(Path("runs/study"))
    assert not re.search("secretarm|hiddenarm|runs/study|npz", page.read_text(encoding="utf-8"))
    assert page.stat().st_size < 1_000_000
    found = stored(page)
    assert {pair["prompt"] for pair in found["pairs"]} >= {*PROMPTS}
    assert not {"about", "answer", "arms"} & (found.keys() | {name for pair in found["pairs"] for name in pair})
    assert {track["name"] for track in found["motions"]} == {""}
    lengths = [len(track["positions"]) for track in found["motions"]]
    assert lengths != sorted(lengths)
    for pair in key.pairs:
        frames = [lengths[at] == max(lengths) for at in pair.motions]
        assert not pair.arms or frames == [arm == "hiddenarm" for arm in pair.arms]
    before = (page.read_bytes(), Path("runs/study/key.json").read_bytes())
    assert study(*arms, "--seed", 3) == 0
    assert (page.read_bytes(), Path("runs/study/key.json").read_bytes()) == before


def test_checks_are_a_motion_beside_its_pieces_and_one_with_its_answer_in_words() -> None:
    moves = {"stands": {0: torch.zeros(20, 22, 3)}, "walks": {0: motion("walk")[:43]}}
    made = studying.checks(moves, 4, 5, np.random.default_rng(0))
    broken, told, *_ = made
    for known, pair in made[::2]:
        whole, pieces = pair[known["answer"]], pair[1 - known["answer"]]
        assert (known["prompt"], whole.shape) == (("walks" if known is broken[0] else "stands"), pieces.shape)
        np.testing.assert_array_equal(np.sort(whole, 0), np.sort(pieces, 0))
    assert not torch.equal(*broken[1])
    assert f"{'AB'[told[0]['answer']]} is better" in told[0]["prompt"]
    assert told[0]["fixed"]


def test_arms_of_a_comparison_are_paired_by_seed_and_checks_are_of_the_truth(tmp_path, capsys):
    clips = [make_clip(name=name) for name in ("walk", "jump")]
    write_folder(str(tmp_path / "set"), {"train": clips}, CARD)
    captions = [clip.texts[0] for clip in clips]
    bench = write_plan(tmp_path / "bench", tmp_path / "set", clips="gone", seeds=2, crop_frames=32)
    for arm in ("3d", "2d"):
        for seed in (0, 1):
            moves = {"samples": [motion("kick")[: 10 + seed] + (arm == "2d")] * 2}
            write_motions(bench / "samples" / f"{arm}-{seed}" / "000.npz", moves, captions[:: 1 - 2 * seed])
    assert study(bench, "--out", tmp_path / "study") == 1
    assert "--clips" in capsys.readouterr().err
    words = (bench, "--out", tmp_path / "study", "--clips", tmp_path / "set", "--checks", 1)
    assert study(*words) == 0
    key, page = read_key(tmp_path / "study"), stored(tmp_path / "study" / "study.html")
    frames = [len(track["positions"]) // (22 * 3 * 2 * 4 // 3) for track in page["motions"]]
    for pair in key.pairs:
        if pair.arms:
            assert {frames[at] for at in pair.motions} == {10 + (pair.seed or 0)}
            assert {*pair.arms} == {"2d", "3d"}
        else:
            assert {frames[at] for at in pair.motions} == {min(32, len(clips[0].truth))}
    assert study(*words, "--pairs", "truth:2d,truth:3d", "--seed", 1) == 0
    assert {arm for pair in read_key(tmp_path / "study").pairs for arm in pair.arms} == {"truth", "2d", "3d"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "plan.json: expected the plan of a comparison"),
        (("a=nowhere", "b=hiddenarm"), "a=nowhere: expected the folder of a demo or bench, or NAME=PATH"),
        (("a=secretarm", "a=hiddenarm"), "a=hiddenarm: expected the folder"),
        (("a=secretarm",), "--arms, --pairs: expected two or more of a"),
        (("a=secretarm", "b=hiddenarm", "--pairs", "a:c"), "found a:c"),
        (("a=secretarm", "b=hiddenarm", "c=hiddenarm", "d=hiddenarm", "--pairs", "a:b,c:d"), "that connect them all"),
        (("a=secretarm", "b=hiddenarm", "--prompts", "other.txt"), "none for 1, first 'a person flies.'"),
        (("a=secretarm", "b=hiddenarm", "--fps", "0"), "--fps above 0"),
        (("a=secretarm", "b=two.npz"), "two.npz: expected one group of motions, found x, y"),
        (("a=secretarm", "b=long.npz"), "--count: expected a page under 5 MB"),
    ],
)
def test_what_makes_no_study_is_refused_in_one_message_and_nothing_is_written(arms, capsys, words, said):
    Path("other.txt").write_text("a person walks.\na person flies.\n", encoding="utf-8")
    write_motions(Path("two.npz"), {"x": [motion("walk")[:9]], "y": [motion("walk")[:9]]}, ["w"])
    write_motions(Path("long.npz"), {"x": [torch.zeros(30_000, 22, 3)]}, [PROMPTS[0]])
    assert study(*words) == 1
    assert said in capsys.readouterr().err
    assert not Path("runs/study/study.html").exists()


def test_answers_are_scored_and_files_of_another_study_are_refused(arms, tmp_path, capsys):
    assert study(*arms) == 0
    key = read_key(Path("runs/study"))
    for booklet in range(6):
        (tmp_path / f"{booklet}.json").write_text(json.dumps(file_of(key, booklet, "secretarm")), encoding="utf-8")
    half = file_of(key, 1, "secretarm")
    (tmp_path / "9.json").write_text(json.dumps({**half, "votes": half["votes"][:4]}), encoding="utf-8")
    careless = {**file_of(key, 7, "hiddenarm")}
    careless["votes"] = [{**vote, "choice": "tie"} for vote in careless["votes"]]
    (tmp_path / "7.json").write_text(json.dumps(careless), encoding="utf-8")
    capsys.readouterr()
    assert study("score", *sorted(tmp_path.glob("*.json"))) == 0
    shown = capsys.readouterr().out
    assert "left out: 0000000000000007, 5 of 5 checks failed" in shown
    assert "8 files of 7 people, 1 left out. Agreement of people (Krippendorff's alpha): 1.00." in shown
    assert re.search(r"secretarm : hiddenarm\W+18\W+0\W+0\W", shown)
    said = "No preference can be claimed between secretarm and hiddenarm, 97 % [7, 100] (people: 6, prompts: 3;"
    assert said in shown, "three prompts are too few"
    assert study("score", tmp_path, "--json", "--allow", 5) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["people"], found["preferences"][0]["ties"]) == (7, 3)
    assert study(*arms, "--seed", 1, "--out", "other") == 0
    assert study("score", tmp_path / "1.json", "--study", "other") == 1
    assert f"1.json: study: expected '{read_key(Path('other')).study}'" in capsys.readouterr().err
    assert study("score") == 1
    assert "found 0 votes" in capsys.readouterr().err
    Path("runs/study/votes").mkdir()
    (Path("runs/study/votes") / "1.json").write_text("{}", encoding="utf-8")
    assert study(*arms, "--seed", 1) == 1
    assert "found some. Name a new folder: --out" in capsys.readouterr().err


def test_what_the_served_page_sends_is_kept_and_nothing_else(arms: list[str], tmp_path: Path) -> None:
    assert study(*arms) == 0
    key, votes = read_key(Path("runs/study")), tmp_path / "votes"
    taken = viewing.handler(b"page", lambda content: studying.keep(content, key, votes))
    with viewing.Server(("127.0.0.1", 0), taken) as server:
        threading.Thread(target=server.serve_forever).start()
        own = f"http://127.0.0.1:{server.server_port}"

        def send(content: object, origin: str = own, path: str = "/votes", more: int = 0) -> int:
            body = json.dumps(content).encode() + b" " * more
            try:
                request = urllib.request.Request(own + path, body, {"Origin": origin}, method="POST")
                return int(urllib.request.urlopen(request, timeout=10).status)
            except urllib.error.HTTPError as error:
                error.close()
                return error.code

        try:
            good = file_of(key, 2, "hiddenarm")
            assert send(good, "http://example.org") == 403
            assert [send({**good, "study": "x"}), send("no answers"), send(good, path="/etc")] == [400, 400, 404]
            assert not votes.exists()
            assert send(good) == 204
            assert json.loads((votes / f"{2:016x}.json").read_text(encoding="utf-8")) == good
        finally:
            server.shutdown()


CLICK = "document.querySelector('[data-{}={}]').click()"
OPEN = "!document.querySelector('[data-vote=a]').disabled"
DRAWN = """new Promise((done) => { const own = requestAnimationFrame; let times = 0;
    requestAnimationFrame = (act) => { times++; return own(act); };
    own(() => { requestAnimationFrame = own; done(times); }); })"""


def until(shown: Browser, expression: str) -> Any:
    """-> the value of an expression as soon as it is true."""
    for _ in range(600):
        if found := shown.evaluate(expression):
            return found
        time.sleep(0.05)
    raise AssertionError(f"never: {expression}")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_person_takes_part_reloads_in_the_middle_saves_and_is_scored(arms, tmp_path, capsys):
    assert study(*arms, "--checks", 2, "--fps", 30) == 0
    key, page = read_key(Path("runs/study")), Path("runs/study/study.html").absolute()
    small: Callable[..., None] = lambda shown, **more: shown.open(page, width=390, height=600, **more)  # noqa: E731
    with browsing(tmp_path / "profile", *SOFTWARE_3D) as shown:
        shown.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        small(shown, calm=True)
        shown.evaluate(CLICK.format("study", "begin"))
        for key_ in ("End", "a", "ArrowRight", "b"):  # neither skips to the end nor votes before it
            shown.press(key_)
        assert shown.evaluate("document.querySelector('[data-study=progress]').value") == 0
        assert not shown.evaluate(OPEN)
        assert shown.evaluate("Viewer.viewer.dataset.frame") == "0"
        assert shown.evaluate("document.documentElement.scrollWidth") <= 390
        small(shown)
        shown.evaluate(CLICK.format("study", "begin"))
        until(shown, OPEN)
        shown.press("t")
        booklet = shown.evaluate("JSON.parse(Object.values(localStorage)[0]).booklet")
        until(shown, OPEN)
        shown.evaluate(CLICK.format("study", "back"))
        for number in range(2):
            until(shown, f"document.getElementById('study-pair').textContent === 'Pair {number + 1} of 5' && {OPEN}")
            shown.press(answer(key, booklet, number, "hiddenarm"))
        small(shown, dark=True)  # the browser was closed, and the page is opened again
        assert shown.evaluate("document.querySelector('[data-study=begin]').textContent") == "Go on with pair 3 of 5"
        shown.evaluate(CLICK.format("study", "begin"))
        for number in range(2, 5):
            until(shown, f"document.getElementById('study-pair').textContent === 'Pair {number + 1} of 5' && {OPEN}")
            assert shown.evaluate(DRAWN) == 1, "after some answers a frame is drawn as often as after none"
            shown.evaluate(CLICK.format("vote", answer(key, booklet, number, "hiddenarm")))
        assert shown.evaluate("document.getElementById('study').dataset.step") == "end"
        shown.evaluate(CLICK.format("study", "download"))
        for _ in range(200):
            if files := list(tmp_path.glob(f"answers-{key.study}-*.json")):
                break
            time.sleep(0.05)
        unnamed = """[...document.querySelectorAll("button, input, select, textarea, progress")].filter((one) =>
            !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).length"""
        assert shown.evaluate(unnamed) == 0
        shown.evaluate(CLICK.format("study", "anew"))
        assert shown.evaluate("document.querySelector('[data-study=begin]').textContent") == "Start"
        assert shown.faults == []
    capsys.readouterr()
    assert study("score", *files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    first = found["preferences"][0]
    assert (first["first"], first["wins"], found["excluded"]) == ("hiddenarm", 3, [])
    assert "(no interval)" in found["verdict"]
