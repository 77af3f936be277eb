"""The page is whole, needs nothing else, shows what the text shows, and its player plays."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browsing
from comparisons import LEVELS, make_arm, make_results
from numpy.typing import NDArray

from videomdm_ext.bench import report
from videomdm_ext.bench.facts import Case, Facts, Judge
from videomdm_ext.bench.report_html import page
from videomdm_ext.bench.results import Curve, Results
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.figures import Example

HOSTILE = 'a man <script>alert(1)</script> & "walks" | `fast` </script><img src=x onerror=alert(2)>'
WALK = {motion.name: motion.positions for motion in load_motions()}["walk"][:30]
VOID = {"meta", "link", "input", "br", "img"}
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def made(**changes: object) -> tuple[Results, Facts]:
    """-> results with motions, curves and a worst caption, all captions hostile."""
    example = Example(HOSTILE, {"truth": WALK, "teacher": WALK, **dict.fromkeys(LEVELS, WALK)})
    arms = []
    for name in LEVELS:
        runs = [
            dataclasses.replace(run, progress=Curve([50, 100], {"pose_frechet": [30.0, 10.0 + run.seed]}))
            for run in make_arm(name).trainings
        ]
        arms.append(dataclasses.replace(make_arm(name), trainings=tuple(runs)))
    facts = Facts(
        judges=(Judge("text-motion", "ab" * 32, HOSTILE),),
        differences=HOSTILE,
        run={"command": HOSTILE},
        cases=(Case("2d", "acceleration", 9.0, 4.0, example),),
    )
    return dataclasses.replace(make_results(*arms), examples=(example,), title=HOSTILE, **changes), facts  # type: ignore[arg-type]


class Outline(HTMLParser):
    """Elements with their attributes, the text of each kind, and whether every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += text


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    found.close()
    assert not found.open
    return found


def test_the_page_is_well_formed_and_every_link_leads_to_one_place() -> None:
    found = outline(page(*made()))
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    links = [attributes["href"] or "" for tag, attributes in found.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(names)
    assert {"scores", "forest", "motion", "curves", "against-the-control", "worst-captions", "cost"} <= set(names)


def test_the_page_loads_nothing_from_anywhere() -> None:
    text = page(*made())
    found = outline(text)
    places = [v for _, a in found.elements for k, v in a.items() if k in ("src", "href", "data", "action", "srcset")]
    assert all(place and place.startswith(("#", "data:,")) for place in places)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", text)


def test_the_page_may_run_its_own_script_alone() -> None:
    text = page(*made())
    policy = next(a["content"] or "" for tag, a in outline(text).elements if a.get("http-equiv"))
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_what_others_wrote_is_shown_and_never_run() -> None:
    text = page(*made())
    found = outline(text)
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert not any(tag == "img" or name.startswith("on") for tag, a in found.elements for name in a)
    assert found.text.count(HOSTILE) >= 5
    stored = json.loads(text.split('id="motions">')[1].split("</script>")[0])
    assert stored["examples"][0]["caption"] == HOSTILE


def test_the_page_holds_every_table_of_the_text() -> None:
    results, facts = made()
    shown = " ".join(outline(page(results, facts)).text.split())
    for line in report.markdown(results, {}, facts).split("## Worst captions")[0].splitlines():
        for cell in re.split(r"(?<!\\)\|", line)[1:-1] if line.startswith("| ") and "---" not in line else ():
            words = html.unescape(re.sub(r"\\([^A-Za-z0-9\s])|[`*]", r"\1", cell.strip()))
            assert words in shown


def test_without_motions_there_is_no_player_and_no_script() -> None:
    text = page(make_results(), Facts())
    assert "<script" not in text
    outline(text)


def test_motions_beyond_three_megabytes_are_left_out_and_it_is_said() -> None:
    long = np.tile(WALK, (40, 1, 1))
    examples = tuple(Example(f"walk {number}", {"truth": long, "2d": long}) for number in range(30))
    text = page(dataclasses.replace(make_results(), examples=examples), Facts())
    assert len(text.encode()) < 3_000_000
    held = len(json.loads(text.split('id="motions">')[1].split("</script>")[0])["examples"])
    assert 1 < held < 30
    assert f"{30 - held} captions are left out" in text


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> the page of `made` in a file."""
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(page(*made()), encoding="utf-8")
    return found


WHILE_PLAYING = """new Promise((done) => {
  const canvas = document.querySelector("canvas"), seen = new Set(), frames = new Set();
  const watch = () => {
    seen.add(canvas.toDataURL());
    frames.add(document.getElementById("player").dataset.frame);
    if (seen.size > 4) done([seen.size, frames.size]); else requestAnimationFrame(watch);
  };
  watch();
})"""
STATE = "document.getElementById('player').dataset.state"
FRAME = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
  () => done(Number(document.getElementById("player").dataset.frame)))))"""


@browser
def test_motions_play_under_the_policy_of_the_page_without_a_fault(shown: Browser, place: Path) -> None:
    shown.open(place)
    seen, frames = shown.evaluate(WHILE_PLAYING)
    assert seen == frames == 5
    assert shown.evaluate("document.querySelectorAll('canvas').length") == 2 + len(LEVELS)
    assert shown.faults == []


@browser
def test_keys_step_and_play(shown: Browser, place: Path) -> None:
    shown.open(place)
    shown.evaluate("document.getElementById('player').focus()")
    found = []
    for key, shift in (("Home", False), ("ArrowRight", False), ("ArrowRight", False), ("ArrowLeft", False),
                       ("ArrowRight", True), ("End", False)):  # fmt: skip
        shown.press(key, shift=shift)
        found.append(shown.evaluate(FRAME))
    assert found == [0, 1, 2, 1, 11, 29]
    shown.press(" ")
    assert shown.evaluate(STATE) == "playing"
    shown.press(" ")
    assert shown.evaluate(STATE) == "paused"


@browser
def test_the_slider_seeks_and_a_case_can_be_played(shown: Browser, place: Path) -> None:
    shown.open(place)
    shown.evaluate("(() => { const s = document.querySelector('[data-part=scrub]'); s.value = 7;"
                   " s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert (shown.evaluate(FRAME), shown.evaluate(STATE)) == (7, "paused")
    shown.evaluate("document.querySelector('[data-play]').click()")
    assert shown.evaluate(STATE) == "playing"
    assert shown.evaluate("document.querySelector('[data-part=caption]').selectedIndex") == 1


PLACES = """new Promise((done) => requestAnimationFrame(() => {
  const canvas = document.querySelector("canvas"), size = canvas.width;
  const pixels = canvas.getContext("2d").getImageData(0, 0, size, size).data;
  const style = getComputedStyle(document.getElementById("player"));
  done(Object.fromEntries(["left", "right", "middle"].map((name) => {
    const hex = style.getPropertyValue(`--${name}`).trim();
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    let x = 0, y = 0, total = 0;
    for (let at = 0; at < size * size; at++) {
      if (pixels[4 * at] === r && pixels[4 * at + 1] === g && pixels[4 * at + 2] === b) {
        x += at % size; y += Math.floor(at / size); total += 1;
      }
    }
    return [name, [x / total / size, y / total / size, total]];
  })));
}))"""


MIDDLE = """(() => {
  const canvas = document.querySelector("canvas");
  canvas.scrollIntoView({ block: "center" });
  const { x, y, width } = canvas.getBoundingClientRect();
  return [x + width / 2, y + 40];
})()"""


def standing() -> NDArray[np.float64]:
    """-> a person who faces +z with arms out, left towards +x: positions [4, 22, 3], m."""
    pose = np.zeros((22, 3))
    for joint, parent in enumerate(SMPL22.parents):
        if parent >= 0:
            pose[joint] = pose[parent] + 0.15 * np.array(SMPL22.rest_directions[joint])
    pose[:, 1] -= pose[:, 1].min()
    return np.tile(pose, (4, 1, 1))


@browser
@pytest.mark.parametrize("dark", [False, True])
def test_left_is_left_and_up_is_up_and_dragging_turns_the_person(shown: Browser, tmp_path: Path, dark: bool) -> None:
    results = dataclasses.replace(make_results(), examples=(Example("stand", {"truth": standing()}),))
    (tmp_path / "report.html").write_text(page(results, Facts()), encoding="utf-8")
    shown.open(tmp_path / "report.html", dark=dark)
    places = shown.evaluate(PLACES)
    assert all(total > 50 for *_, total in places.values())
    assert places["left"][0] > places["right"][0] + 0.04
    assert places["middle"][1] < min(places["left"][1], places["right"][1])
    x, y = shown.evaluate(MIDDLE)
    shown.drag((x, y), (x + 314, y))
    turned = shown.evaluate(f"{FRAME}.then(() => {PLACES})")
    assert turned["left"][0] < turned["right"][0] - 0.04
    assert shown.faults == []


@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_but_tables_is_wider_than_the_window(shown: Browser, place: Path, width: int) -> None:
    shown.open(place, width=width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    smallest = shown.evaluate("Math.min(...[...document.querySelectorAll('main td, main p, .said')]"
                              ".map((one) => parseFloat(getComputedStyle(one).fontSize)))")  # fmt: skip
    assert smallest >= 12


@browser
def test_words_stand_out_from_the_paper_in_light_and_dark(shown: Browser, place: Path) -> None:
    grounds = []
    for dark in (False, True):
        shown.open(place, dark=dark)
        ink, paper = (
            sum(int(part) for part in re.findall(r"\d+", shown.evaluate(f"getComputedStyle(document.body).{name}"))[:3])
            for name in ("color", "backgroundColor")
        )
        assert abs(ink - paper) > 450
        grounds.append(paper)
    assert grounds[0] > 600 > 150 > grounds[1]
