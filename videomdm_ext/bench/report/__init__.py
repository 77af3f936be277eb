"""The report of a comparison: one list of tables and figures, as Markdown, HTML and LaTeX."""

from functools import cache
from typing import TYPE_CHECKING

from videomdm_ext.errors import printable

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates() -> "Environment":
    """The templates of this folder; those of HTML escape what they are given, those of Markdown do not."""
    import jinja2

    loader, escape = jinja2.PackageLoader(__name__), jinja2.select_autoescape()
    return jinja2.Environment(
        loader=loader, autoescape=escape, trim_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
