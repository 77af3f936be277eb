"""No control character of a name, a caption or a message reaches a terminal, a page or a JSON file as it is."""

import io
import json

import numpy as np
import pytest
from rich.table import Table

from videomdm_ext.bench.report import templates
from videomdm_ext.cli import main as command_line
from videomdm_ext.cli.console import PlainConsole, by_name
from videomdm_ext.data import schemas
from videomdm_ext.data.folder import read_ids
from videomdm_ext.errors import CONTROL, ConfigError, DatasetError, message_of, printable
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.page import Scene, Track, page

NASTY = "a\x1b[2J\x07b\x9b31m\u202ec\r\x00\x7fd\u2028\ud800"
"""Clears the screen, rings, colours, turns the direction of what follows, ends the line, and is no character."""


def safe(text: str) -> bool:
    return not CONTROL.search(text.replace("\n", ""))


def test_messages_of_errors_cite_names_without_their_control_characters(tmp_path, capsys):
    for kind in (DatasetError, ConfigError):
        message = str(kind(f"{NASTY}: expected a file, found none"))
        assert safe(message)
        assert "\\u001b[2J" in message
        assert safe(message_of(kind(NASTY)) or "")
    (tmp_path / "train.txt").write_text("walk\x1b[2J\n", encoding="utf-8")
    with pytest.raises(DatasetError) as caught:
        read_ids(str(tmp_path), "train")
    assert safe(str(caught.value))
    assert command_line.guarded(lambda: (_ for _ in ()).throw(DatasetError(NASTY))) == 1
    assert command_line.guarded(lambda: (_ for _ in ()).throw(ZeroDivisionError(NASTY))) == 3
    assert command_line.main(["data", "check", str(tmp_path / "no\x1b[2Jset")]) == 1
    assert safe("".join(capsys.readouterr()))


def test_the_console_prints_lines_tables_and_bars_without_them():
    written = io.StringIO()
    console = PlainConsole(file=written, width=110)
    table = Table(NASTY.replace("\ud800", ""), title=NASTY.replace("\ud800", ""))
    table.add_row(NASTY)
    for printed in (NASTY, table):
        console.print(printed, markup=False)
    console.print(f"[bold]{NASTY}[/bold]")
    assert "\\u001b" in written.getvalue()
    assert safe(written.getvalue())

    class Bars:
        def add_task(self, name: str, total: int) -> int:
            assert safe(name)
            return 0

        def update(self, *_: object, **__: object) -> None: ...

    by_name(Bars())(NASTY, 0, 1)  # type: ignore[arg-type]


def test_pages_and_templates_hold_none():
    track = Track(NASTY, np.zeros((3, 22, 3), np.float32), None)
    text = page([Scene(NASTY, [track])], SMPL22, 20.0, NASTY)
    shown = (
        text[: text.index("<style>")]
        + text[text.index('id="motions"') : text.index("<script>", text.index('id="motions"'))]
    )
    assert safe(shown)
    assert "\\\\u001b[2J" in shown
    for kind in ("html", "md"):
        made = templates().from_string("{{ name }}" if kind == "md" else "<p>{{ name }}</p>").render(name=NASTY)
        assert safe(made)


def test_json_escapes_them_and_reads_them_back():
    plain = NASTY.replace("\ud800", "")
    for options in ({}, {"ensure_ascii": False}):
        text = schemas.text_of({plain: [plain]}, **options)
        assert safe(text)
        assert json.loads(text) == {plain: [plain]}
    assert printable("a walk,\n\tthen a jump äß日") == "a walk,\n\tthen a jump äß日"
