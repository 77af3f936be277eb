"""The report as one page that needs nothing else: tables, figures, and motions side by side.

Template, style and script are in templates/. The page may load nothing and run nothing but its own script and those of
the viewer (render/page), which is a document of its own inside it; their hashes are named.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from videomdm_ext.bench.report.document import Animation, Figure, Items, Listing, Motions, Section, Table, inline
from videomdm_ext.bench.report.figures import svg
from videomdm_ext.bench.results import Results
from videomdm_ext.bench.verdict import headline, verdict
from videomdm_ext.render import page as viewer

if TYPE_CHECKING:
    from jinja2 import Environment

KINDS = {Table: "table", Items: "items", Listing: "listing", Figure: "figure", Motions: "motions", str: "text"}


@cache
def _environment() -> "Environment":
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("videomdm_ext.bench.report")
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    made.filters["inline"] = lambda text: Markup(inline(text))
    made.filters["svg"] = lambda figure, name: Markup(svg(figure.draw(), name))
    made.filters["viewer"] = lambda block: viewer.page(block.scenes, block.skeleton, block.fps, "Motions")
    made.tests["in_page"] = lambda block: not isinstance(block, Animation) and not getattr(block, "file", "")
    made.filters["kind"] = lambda block: KINDS[type(block)]
    made.globals["read"] = lambda name: Markup(_read(name))
    return made


def page(results: Results, sections: Sequence[Section]) -> str:
    """The text of report.html."""
    plays = any(isinstance(block, Motions) for section in sections for block in section.blocks)
    scripts = [viewer.digest(_read("report.js")), *viewer.script_digests()] if plays else []
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=results.title,
            lead=headline(results),
            verdict=verdict(results),
            sections=sections,
            plays=plays,
            policy=viewer.policy(scripts),
        )
    )


def _read(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
