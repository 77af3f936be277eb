"""The report as one page that needs nothing else: tables, forest plots, curves, and motions side by side.

Style and script are in page/. The page may load nothing and run nothing but its own script, whose hash it names.
"""

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files

from videomdm_ext.bench.curves import curve_plots
from videomdm_ext.bench.document import Section, html_section, inline
from videomdm_ext.bench.facts import Case, Facts
from videomdm_ext.bench.forest import forest_html, forest_plots
from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import number
from videomdm_ext.bench.player import player_content, strip_html
from videomdm_ext.bench.results import Results
from videomdm_ext.bench.sections import sections
from videomdm_ext.bench.verdict import headline, verdict
from videomdm_ext.motion.skeletons import by_name as skeleton_by_name
from videomdm_ext.render.figures import Example

COLOURS = 8
"""Colours of arms in report.css."""
PLAYER = """<p class="note">The camera keeps its direction and follows each person; the grid is of half a metre. Drag to
turn. Space plays and pauses, the arrow keys step by a frame (with Shift by ten).{left_out}</p>
<div id="player" tabindex="0" role="group" aria-label="Motions side by side" data-state="paused">
<select data-part="caption" aria-label="Caption"></select>
<div data-part="stage"></div>
<div class="controls">
<button type="button" data-part="toggle">Play</button>
<input type="range" data-part="scrub" min="0" max="0" step="1" value="0" aria-label="Time"/>
<span data-part="clock"></span>
<label>Speed <select data-part="speed"><option value="0.25">¼</option><option value="0.5">½</option>
<option value="1" selected="selected">1</option><option value="2">2</option></select></label>
</div>
</div>
<ul class="key"><li style="color:var(--left)"><i></i>left</li><li style="color:var(--right)"><i></i>right</li></ul>
<script type="application/json" id="motions">{motions}</script>"""


def page(results: Results, facts: Facts) -> str:
    """The text of report.html."""
    style, script = (files(__package__).joinpath("page", name).read_text(encoding="utf-8")
                     for name in ("report.css", "player.js"))  # fmt: skip
    colours = {arm.name: index % COLOURS for index, arm in enumerate(results.arms)}
    parts = dict(_parts(results, facts, colours))
    running = f"<script>{script}</script>" if "motion" in parts else ""
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'; img-src data:"
    links = "".join(f'<li><a href="#{anchor}">{html.escape(title)}</a></li>' for anchor, (title, _) in parts.items())
    body = "\n".join(
        f'<section id="{anchor}">\n<h2>{html.escape(title)}</h2>\n{content}\n</section>'
        for anchor, (title, content) in parts.items()
    )
    lead = [f"<p><strong>{inline(sentence)}</strong></p>" for sentence in headline(results)]
    sentences = "\n".join([*lead, *(f"<p>{inline(sentence)}</p>" for sentence in verdict(results))])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="{policy}"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{html.escape(results.title)}</title>
<link rel="icon" href="data:,"/>
<style>{style}</style>
</head>
<body>
<h1>{html.escape(results.title)}</h1>
<div class="verdict">{sentences}</div>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{body}
</main>
{running}
</body>
</html>
"""


def _parts(results: Results, facts: Facts, colours: Mapping[str, int]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Anchor, title and content of every part of the page that holds anything, in order."""
    written = {section.title: section for section in sections(results, facts)}
    yield from _plain_parts(written.pop("Scores", None))
    plots = forest_plots(results)
    if plots:
        drawn = [
            f'<h3>{html.escape(p.title)}</h3><p class="note">{html.escape(p.text)}</p>{forest_html(p, colours)}'
            for p in plots
        ]
        yield "forest", ("Gap and differences", "\n".join(drawn))
    titled = _examples(results, facts.cases)
    motions, held = player_content(titled, skeleton_by_name(results.card.skeleton), results.card.fps)
    if held:
        left_out = f" {len(titled) - held} captions are left out to keep the page small." if held < len(titled) else ""
        yield "motion", ("Motion", PLAYER.format(left_out=left_out, motions=motions))
    curves = _curves(results, colours)
    if curves:
        yield "curves", ("Curves", curves)
    for section in written.values():
        if section.title == "Worst captions":
            yield section.anchor, (section.title, _cases(results, facts.cases, held))
        else:
            yield from _plain_parts(section)


def _plain_parts(section: Section | None) -> Iterator[tuple[str, tuple[str, str]]]:
    if section:
        yield section.anchor, (section.title, html_section(section))


def _examples(results: Results, cases: Sequence[Case]) -> list[tuple[str, Example]]:
    """Title and motions of everything that can be played: the examples, then the worst cases."""
    shown = [(example.caption, example) for example in results.examples]
    return shown + [(f"worst of {case.arm}: {case.example.caption}", case.example) for case in cases]


def _curves(results: Results, colours: Mapping[str, int]) -> str:
    """Scores over training steps where there are any, and losses, with the key of the arms' colours."""
    key = "".join(
        f'<li class="a{index}"><i class="swatch"></i>{html.escape(arm)}</li>' for arm, index in colours.items()
    )
    progress = {arm.name: [run.progress for run in arm.trainings if run.progress] for arm in results.arms}
    losses = {arm.name: [run.losses for run in arm.trainings] for arm in results.arms}
    parts = [
        f"<h3>{title}</h3>{plots}"
        for title, plots in (
            ("Scores over training steps", curve_plots(progress, colours, smooth=False)),
            ("Losses over training steps", curve_plots(losses, colours, smooth=True)),
        )
        if plots
    ]
    return f'<ul class="key">{key}</ul>' + "\n".join(parts) if parts else ""


def _cases(results: Results, cases: Sequence[Case], held: int) -> str:
    """The worst captions with strips of the arm's sample and the truth, and a button that plays them."""
    skeleton, rows = skeleton_by_name(results.card.skeleton), []
    for index, case in enumerate(cases):
        metric = by_name(case.metric)
        unit = f" {metric.unit}" if metric.unit else ""
        score, truth = (number(value, metric.scale) for value in (case.score, case.truth))
        said = f"{metric.label} {score}{unit}, truth {truth}{unit}"
        strips = "".join(
            strip_html(name, case.example.motions[name], skeleton)
            for name in ("truth", case.arm)
            if name in case.example.motions
        )
        number_of = len(results.examples) + index
        button = f'<button type="button" data-play="{number_of}">Play</button>' if number_of < held else ""
        rows.append(
            f'<div class="case"><p><strong>{html.escape(case.arm)}</strong>: “{html.escape(case.example.caption)}”'
            f'<br/><span class="note">{html.escape(said)}</span></p>'
            f'{button}<div class="strips">{strips}</div></div>'
        )
    text = "Captions for which the first training's sample is furthest from the truth, by the score of that clip alone."
    return f'<p class="note">{text}</p>\n' + "\n".join(rows)
