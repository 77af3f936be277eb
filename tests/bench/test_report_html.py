"""The page is whole, needs nothing else, shows what the text shows, and its player plays."""

import base64
import dataclasses
import hashlib
import html
import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, SOFTWARE_3D, Browser, browsing
from comparisons import LEVELS, make_arm, make_results

from videomdm_ext.bench.report import html as report_html
from videomdm_ext.bench.report.html import sections, text
from videomdm_ext.bench.report.results import Case, Judge, Results
from videomdm_ext.bench.scoring import Curve
from videomdm_ext.data.motions import load_motions
from videomdm_ext.render.figures import Example
from videomdm_ext.render.page import script_digests

HOSTILE = 'a man <script>alert(1)</script> & "walks" | `fast` </script><img src=x onerror=alert(2)>'
WALK = {motion.name: motion.positions for motion in load_motions()}["walk"][:30]
VOID = {"meta", "link", "input", "br", "img"}
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def made() -> Results:
    """-> results with motions, curves and a worst caption, all captions hostile."""
    example = Example(HOSTILE, {"truth": WALK, "teacher": WALK, **dict.fromkeys(LEVELS, WALK)})
    arms = []
    for name in LEVELS:
        runs = [
            dataclasses.replace(run, progress=Curve([50, 100], {"pose_frechet": [30.0, 10.0 + run.seed]}))
            for run in make_arm(name).trainings
        ]
        arms.append(dataclasses.replace(make_arm(name), trainings=tuple(runs)))
    return dataclasses.replace(
        make_results(*arms),
        examples=(example,),
        title=HOSTILE,
        judges=(Judge("text-motion", "ab" * 32, HOSTILE),),
        differences=HOSTILE,
        run={"command": HOSTILE},
        cases=(Case("2d", "acceleration", 9.0, 4.0, example),),
    )


def page(results: Results) -> str:
    return report_html.page(results, sections(results))


@cache
def whole() -> str:
    """-> the page of `made`."""
    return page(made())


def scenes(text: str) -> list[dict[str, Any]]:
    """-> the scenes in the viewer of a page."""
    inner = html.unescape(text.split('srcdoc="')[1].split('"')[0])
    return list(json.loads(inner.split('id="motions">')[1].split("</script>")[0])["scenes"])


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
    found = outline(whole())
    names = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    links = [attributes["href"] or "" for tag, attributes in found.elements if tag == "a"]
    assert {link.removeprefix("#") for link in links} <= set(names)
    expected = {"scores", "gap-and-differences", "motion", "curves", "against-the-control", "worst-captions", "cost"}
    assert {link.removeprefix("#") for link in links} >= expected
    assert "pictures" not in names


def test_the_page_loads_nothing_from_anywhere() -> None:
    text = whole()
    found = outline(text)
    places = [v for _, a in found.elements for k, v in a.items() if k in ("src", "href", "data", "action", "srcset")]
    assert all(place and place.startswith(("#", "data:,")) for place in places)
    own = re.sub(r'srcdoc="[^"]*"', "", text)
    assert not re.search(r"https?:|url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", own)


def test_the_page_may_run_its_own_script_and_the_viewers_alone() -> None:
    text = whole()
    policy = next(a["content"] or "" for tag, a in outline(text).elements if a.get("http-equiv"))
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = " ".join(f"'sha256-{one}'" for one in (digest, *script_digests()))
    assert f"script-src {allowed};" in policy
    assert policy.startswith("default-src 'none'")


def test_what_others_wrote_is_shown_and_never_run() -> None:
    text = whole()
    found = outline(text)
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert not any(tag == "img" or name.startswith("on") for tag, a in found.elements for name in a)
    assert found.text.count(HOSTILE) >= 5
    assert scenes(text)[0]["caption"] == HOSTILE


def test_the_page_holds_every_table_of_the_text() -> None:
    results = made()
    shown = " ".join(outline(whole()).text.split())
    for line in text(results, sections(results)).splitlines():
        for cell in re.split(r"(?<!\\)\|", line)[1:-1] if line.startswith("| ") and "---" not in line else ():
            words = html.unescape(re.sub(r"\\([^A-Za-z0-9\s])|[`*]", r"\1", cell.strip()))
            assert words in shown


def test_without_motions_there_is_no_player_and_no_script() -> None:
    text = page(make_results())
    assert "<script" not in text
    assert "<iframe" not in text
    outline(text)


def test_motions_beyond_three_megabytes_are_left_out_and_it_is_said() -> None:
    long = np.tile(WALK, (40, 1, 1))
    examples = tuple(Example(f"walk {number}", {"truth": long, "2d": long}) for number in range(30))
    text = page(dataclasses.replace(make_results(), examples=examples))
    assert len(text.encode()) < 4_000_000
    held = len(scenes(text))
    assert 1 < held < 30
    assert f"Left out to keep the page small: {30 - held} captions." in text


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile"), *SOFTWARE_3D) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> the page of `made` in a file."""
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(whole(), encoding="utf-8")
    return found


VIEWER = "document.getElementById('player').contentDocument.getElementById('viewer')"
SCENE_PLAYS = f"""new Promise((done) => {{
  const playing = () => {VIEWER}?.dataset.state === "playing";
  const watch = () => playing() ? done({VIEWER}.dataset.scene) : requestAnimationFrame(watch);
  watch();
}})"""


@browser
def test_motions_play_under_the_policy_of_the_page_and_a_case_can_be_played(shown: Browser, place: Path) -> None:
    shown.open(place, calm=True)
    shown.evaluate("document.querySelector('[data-scene]').click()")
    assert shown.evaluate(SCENE_PLAYS) == "1"
    assert shown.evaluate(f"{VIEWER}.querySelectorAll('.track').length") == 2 + len(LEVELS)
    shown.evaluate(f"{VIEWER}.querySelector('[data-part=toggle]').click()")
    assert shown.evaluate(f"{VIEWER}.dataset.state") == "paused"
    assert shown.faults == []


@browser
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_the_page_fits_the_window_and_its_words_stand_out_in_light_and_dark(
    shown: Browser, place: Path, width: int, dark: bool
) -> None:
    """Nothing but tables is wider than the window."""
    shown.open(place, width=width, dark=dark, calm=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    smallest = shown.evaluate("Math.min(...[...document.querySelectorAll('main td, main p')]"
                              ".map((one) => parseFloat(getComputedStyle(one).fontSize)))")  # fmt: skip
    assert smallest >= 12
    ink, paper = (
        sum(int(part) for part in re.findall(r"\d+", shown.evaluate(f"getComputedStyle(document.body).{name}"))[:3])
        for name in ("color", "backgroundColor")
    )
    assert abs(ink - paper) > 450
    assert paper < 150 if dark else paper > 600
