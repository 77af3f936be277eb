"""The verbs `data check` and `data show`: what is wrong with a data set, and what one clip looks like."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from rich.text import Text

from videomdm_ext.cli.console import bars, console, counting, parse, quoted
from videomdm_ext.data import files
from videomdm_ext.data.checking import FILES, STATES, Checked, by_kind, check_folder, counted
from videomdm_ext.data.rules import ERROR, KINDS
from videomdm_ext.errors import ConfigError
from videomdm_ext.render import figures
from videomdm_ext.render.clip_sheet import clip_figure
from videomdm_ext.render.clip_view import view_clip

EXAMPLES = 3
"""Findings of one kind that are printed."""
COLOURS = {"missing": "red", "empty": "red", "corrupt": "red"}


@dataclass(frozen=True)
class Check:
    """Look through a data set once; report what is missing, and what is wrong with which clip. Clips are not changed.

    Exit status: 0 no errors, 1 errors; with --strict 1 for warnings too.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """A data set folder."""
    quarantine: Path | None = None
    """Write the ids of clips with errors to this file, one a line; the data set stays as it is."""
    json: bool = False
    """Print everything as JSON."""
    no_cache: bool = False
    """Look at every clip again, and keep no record in DIR/checked.json."""
    strict: bool = False
    """Count warnings as errors in the exit status."""


def check(words: Sequence[str]) -> int:
    """Check and print; the exit status is 1 where there are errors."""
    options = parse(Check, "data check", words)
    if options.quarantine is not None:
        files.check_writable(str(options.quarantine.absolute().parent))
    with bars() as progress:
        step = None if options.json else counting(progress, "checking")
        checked = check_folder(str(options.clips), step, use_cache=not options.no_cache)
    if options.json:
        print(checked.to_json())
    else:
        show_checked(checked)
    if options.quarantine is not None:
        content = "".join(f"{clip_id}\n" for clip_id in checked.bad_clips)
        files.write_bytes(str(options.quarantine.absolute()), content.encode())
        if not options.json:
            _say_quarantine(checked, options.quarantine)
    if not options.json:
        bad, clips = next(iter(checked.bad_clips), ""), quoted(options.clips)
        console.print(f"Next: videomdm data {f'show {clips} {bad}' if bad else f'refine {clips}'}")
    wrong = checked.findings if options.strict else checked.errors
    return 1 if wrong else 0


def show_checked(checked: Checked) -> None:
    """Files by kind and state, findings by kind with the first examples, and a last line that sums up."""
    if checked.clips:
        console.print(_files_table(checked))
    for (level, kind), items in by_kind(checked.findings).items():
        colour = "red" if level == ERROR else "yellow"
        title, advice = KINDS[kind].title, KINDS[kind].advice
        console.print(Text.assemble((f"{level} {kind}", f"bold {colour}"), f" ({len(items)}): {title}"))
        for item in items[:EXAMPLES]:
            console.print(Text(f"    {item.clip_id or 'the set'}: {item.message}"))
        if len(items) > EXAMPLES:
            console.print(Text(f"    and {len(items) - EXAMPLES} more", style="dim"))
        console.print(Text(f"    {advice}", style="italic"))
    console.print(_sum(checked), soft_wrap=True)
    if checked.bad_clips:
        console.print(f"Look at one: videomdm data show {quoted(checked.path)} {checked.bad_clips[0]}", soft_wrap=True)


def _sum(checked: Checked) -> str:
    """The whole in a line."""
    clips = counted(checked.clips, "clip") + (
        f" ({checked.cached} known from an earlier check)" if checked.cached else ""
    )
    if not checked.findings:
        return f"{clips}: nothing found"
    errors, warnings = counted(len(checked.errors), "error"), counted(len(checked.warnings), "warning")
    where = f" (clips with errors: {len(checked.bad_clips)})" if checked.bad_clips else ""
    return f"{clips}: {errors}, {warnings}{where}"


def _files_table(checked: Checked) -> Table:
    made = Table(title="Files", title_justify="left")
    made.add_column("kind")
    for state in STATES:
        made.add_column(state, justify="right")
    for key in FILES:
        cells = []
        for state in STATES:
            count = checked.counts[key][state]
            wrong = count and not (key == "truth" and state == "missing")
            cells.append(Text(str(count), style=COLOURS.get(state, "") if wrong else ""))
        made.add_row(key, *cells)
    made.caption = "A truth may be missing." if checked.counts["truth"]["missing"] else None
    return made


def _say_quarantine(checked: Checked, place: Path) -> None:
    if not checked.bad_clips:
        console.print(f"{place}: empty, no clip has an error", soft_wrap=True)
        return
    console.print(
        f"{place}: {counted(len(checked.bad_clips), 'id')}, one a line; nothing else was changed. To leave these clips "
        "out, import again without them: Mean, Std and the card then fit the rest. To train at once, take their lines "
        "out of the split lists, for example\n"
        f"    grep -vxFf {place} {checked.path}/train.txt > train.txt\n"
        "and put the shorter list in place; a check then tells that counts and hash on the card are older.",
        soft_wrap=True,
        markup=False,
    )


@dataclass(frozen=True)
class Show:
    """Draw one clip: keypoints, teacher and truth in the image, both from the side, confidence, and what is wrong."""

    clips: Annotated[Path, tyro.conf.Positional]
    """A data set folder."""
    id: Annotated[str, tyro.conf.Positional]
    """The id of a clip."""
    out: Path | None = None
    """The picture, by default ID.png in the current folder."""


def show(words: Sequence[str]) -> int:
    """One picture of one clip, also of a damaged one."""
    options = parse(Show, "data show", words)
    figures.require()
    out = options.out or Path(f"{options.id}.png")
    if out.is_dir():
        raise ConfigError(f"--out {out}: expected a file for the picture, found a folder. Name a file in it.")
    shown = view_clip(str(options.clips), options.id)
    files.check_writable(str(out.absolute().parent))
    clip_figure(str(out), shown)
    console.print(f"{out}: {shown.title}", soft_wrap=True, markup=False)
    for item in shown.findings:
        console.print(f"    {item.level} {item.kind}: {item.message}", soft_wrap=True, markup=False)
    console.print(f"Next: videomdm view {quoted(options.clips)} --ids {options.id}", soft_wrap=True, markup=False)
    return 0
