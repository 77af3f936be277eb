"""The verbs about data sets: make one of other people's data or of several, check one, and draw one of its clips."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.table import Table
from rich.text import Text

from videomdm_ext import plugins
from videomdm_ext.cli.console import clips_of, console, counting, lifter_summary, pairs, quoted, say_next
from videomdm_ext.cli.videos import check_lifter, import_videos
from videomdm_ext.data import files, seal
from videomdm_ext.data.building import repack
from videomdm_ext.data.checks import checking
from videomdm_ext.data.checks.checking import Checked
from videomdm_ext.data.checks.rules import ERROR, KINDS
from videomdm_ext.data.folder import Card, read_card
from videomdm_ext.data.importing import FOLDER, Imported, find_importer, lifters_beside, merge, relift, run_import
from videomdm_ext.data.motions import PREFIX
from videomdm_ext.data.sources.base import SHARES, ImportOptions
from videomdm_ext.data.tasks import HERE, Engine
from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.render import clip_figure, figures

EXAMPLES = 3
"""Findings of one kind that are printed."""
OWN = ("card-hash", "card-counts")
"""Kinds of findings that --accept puts right."""
DROPPED = ("bad-name", "split-twice", "statistics")
"""Further kinds that --drop puts right, as it writes lists and statistics anew."""
REASONS = 8
"""Kinds of reason for which clips were left out that are shown."""


@dataclass(frozen=True)
class Check:
    """Look through a data set once; report what is missing, and what is wrong with which clip. Clips are not changed.

    Errors are refused by whatever trains on the set, warnings are not. Exit status: 0 no errors, 1 errors; with
    --strict 1 for warnings too.
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
    drop: bool = False
    """Take the clips with errors out of train.txt, val.txt and test.txt. Their files stay, DIR/left_out.txt has the
    reasons; Mean, Std and the card follow: the set is another one then."""
    accept: bool = False
    """Where files were changed on purpose: write their counts and hashes on the card. The set is another one then, and
    runs made from the earlier one are refused with it."""
    engine: Engine = HERE

    def __call__(self) -> int:
        place, clips = self.quarantine and self.quarantine.absolute(), quoted(self.clips)
        if place:
            files.check_writable(str(place.parent))
        with counting("checking") as step:
            shown = None if self.json else step
            checked = checking.check_folder(str(self.clips), shown, use_cache=not self.no_cache, engine=self.engine)
        if self.json:
            print(checked.to_json())
        else:
            show_checked(checked)
        if place:
            files.write_bytes(str(place), "".join(f"{clip_id}\n" for clip_id in checked.bad_clips).encode())
        if place and not self.json:
            ids = counted(len(checked.bad_clips), "id") + ", one a line" if checked.bad_clips else "empty"
            console.print(f"{self.quarantine}: {ids}", soft_wrap=True, markup=False)
        said, following = list[str](), ""
        wrong = checked.findings if self.strict else checked.errors
        if self.accept:
            wrong = tuple(item for item in wrong if item.kind not in OWN)
        if self.drop:
            dropped = self.dropped(checked)
            wrong = tuple(item for item in wrong if item.clip_id not in dropped and item.kind not in DROPPED)
            why = "lists, Mean, Std and card are written anew" if checked.errors else "none has an error"
            why = f"{self.clips / checking.LEFT_OUT} says why" if dropped else why
            said.append(f"{counted(len(dropped), 'clip')} taken out of the splits: {why}")
            following = f"data check {clips}" if wrong else f"data refine {clips}"
        elif checked.bad_clips or not checked.errors:
            following = f"data check {clips} --drop" if checked.bad_clips else f"data refine {clips}"
        if self.accept and not self.drop:
            seal.accept(str(self.clips))
        if self.drop or self.accept:
            content = read_card(str(self.clips)).content_hash[:12]
            said.append(f"{self.clips}: its files are its own as they are, content {content}")
        for name in lifters_beside(str(self.clips)):
            other = quoted(self.clips / FOLDER / name)
            then = f"made for the set of before: videomdm data relift {clips} --lifter {quoted(name)} makes them again"
            own = f"a data set of their own: videomdm data check {other}"
            said.append(f"Its teachers of {name} are {then if self.drop or self.accept else own}.")
        if not self.json:
            for line in said:
                console.print(line, soft_wrap=True, markup=False)
            if following:
                say_next(following)
        return 1 if wrong else 0

    def dropped(self, checked: Checked) -> Collection[str]:
        """The clips with errors, taken out of the splits; files that are others than on the card have to be meant."""
        if changed := [item for item in checked.errors if item.kind in OWN and not self.accept]:
            what = changed[0].message.rstrip(".")
            raise DatasetError(
                f"{self.clips}: expected files as they were made, found others: {what}. If they are meant to be so, "
                f"take both steps at once: videomdm data check {quoted(self.clips)} --drop --accept."
            )
        return checking.drop(checked)


def show_checked(checked: Checked) -> None:
    """Files by kind and state, findings by kind with the first examples, and a last line that sums up."""
    if checked.clips:
        truthless = checked.counts["truth"]["missing"]
        table = Table("kind", title="Files", title_justify="left")
        table.caption = "A truth may be missing." if truthless else None
        for state in checking.STATES:
            table.add_column(state, justify="right")
        for kind in checking.FILES:
            counts = [(state, checked.counts[kind][state]) for state in checking.STATES]
            wrong = {state for state, n in counts if n and state != "found" and (kind, state) != ("truth", "missing")}
            table.add_row(kind, *(Text(str(count), style="red" if state in wrong else "") for state, count in counts))
        console.print(table)
    for (level, kind), items in checking.by_kind(checked.findings).items():
        title = (f"{level} {kind}", "bold red" if level == ERROR else "bold yellow")
        console.print(Text.assemble(title, f" ({len(items)}): {KINDS[kind].title}"))
        for item in items[:EXAMPLES]:
            console.print(Text(f"    {item.clip_id or 'the set'}: {item.message}"))
        if len(items) > EXAMPLES:
            console.print(Text(f"    and {len(items) - EXAMPLES} more", style="dim"))
        console.print(Text(f"    {KINDS[kind].advice}", style="italic"))
    known = f" ({checked.cached} known from an earlier check)" if checked.cached else ""
    found = [counted(len(checked.errors), "error"), counted(len(checked.warnings), "warning")]
    where = f" (clips with errors: {len(checked.bad_clips)})" if checked.bad_clips else ""
    said = ", ".join(found) + where if checked.findings else "nothing found"
    console.print(f"{counted(checked.clips, 'clip')}{known}: {said}", soft_wrap=True)
    if checked.bad_clips:
        console.print(f"Look at one: videomdm data show {quoted(checked.path)} {checked.bad_clips[0]}", soft_wrap=True)


@dataclass(frozen=True)
class Show:
    """Draw one clip: keypoints, teacher and truth in the image, both from the side, confidence, and what is wrong."""

    clips: Annotated[Path, tyro.conf.Positional]
    """A data set folder."""
    id: Annotated[str, tyro.conf.Positional]
    """The id of a clip."""
    out: Path | None = None
    """The picture, by default ID.png in the current folder."""

    def __call__(self) -> int:
        figures.require()
        out = self.out or Path(f"{self.id}.png")
        if out.is_dir():
            raise ConfigError(f"--out {out}: expected a file for the picture, found a folder. Name a file in it.")
        shown = clip_figure.view_clip(str(self.clips), self.id)
        files.check_writable(str(out.absolute().parent))
        clip_figure.clip_figure(str(out), shown)
        console.print(f"{out}: {shown.title}", soft_wrap=True, markup=False)
        for item in shown.findings:
            console.print(f"    {item.level} {item.kind}: {item.message}", soft_wrap=True, markup=False)
        say_next(f"view {quoted(self.clips)} --ids {self.id}")
        return 0


@dataclass(frozen=True)
class ImportData:
    """Make a data set folder from other people's data; started again, it goes on where it stopped.

    `videomdm data import list .` names the kinds and their options; --engine and --processes are for videos.
    """

    kind: Annotated[str, tyro.conf.Positional]
    """What the source is, such as joints or humanml3d; list: show them all."""
    source: Annotated[str, tyro.conf.Positional] = "."
    """Folder or file of the source."""
    out: str = ""
    """Folder of the data set; by default runs/data/KIND."""
    name: str = ""
    """Name on the card; by default the kind."""
    seed: int = 0
    """Seed of splits, cameras, detector and lifter."""
    views: int = 1
    """Cameras a clip, where the cameras are ours to place."""
    lifter: str = ""
    """A registered lifter, for sources that bring no teacher of their own; by default synthetic, for videos
    mediapipe."""
    captions: str = ""
    """A table (.csv, .tsv, .json) of names and captions, for sources without texts."""
    caption: str = ""
    """Caption of files that the table lacks: in 'a person {folder}.' the name of their folder, in {name} their own."""
    split: str = ",".join(map(str, SHARES))
    """Shares of the trials for train, val and test, where the source has no splits of its own."""
    where: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Rows of Parquet files to take, such as split=train or fps>=20; may be repeated."""
    limit: int = 0
    """Rows of Parquet files to take at most; 0: all."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE of one kind alone; may be repeated."""
    engine: Engine = HERE

    def __call__(self) -> int:
        if self.kind == "list":
            list_kinds()
            return 0
        if self.views < 1:
            raise ConfigError(f"--views: expected 1 or more, found {self.views}. Correct it.")
        kind, out = find_importer(self.kind), self.out or str(Path("runs/data") / self.kind)
        part = {"where": ",".join(self.where), "limit": str(self.limit or "")}
        given = ImportOptions(
            seed=self.seed, views=self.views, lifter=self.lifter or ImportOptions.lifter, captions=self.captions,
            caption=self.caption,
            extra={k: v for k, v in part.items() if v} | pairs(self.option), split=shares(self.split),
        )  # fmt: skip
        importer = kind(self.source, given)
        check_lifter(importer, self.lifter)
        torch.set_num_threads(1)  # arrays this small only wait for each other
        if isinstance(importer, VideoImporter):
            import_videos(importer, out, self.name, self.engine)
        elif self.engine != HERE:
            raise ConfigError(
                f"--engine, --processes: expected none with {self.kind}, which one process reads. Leave them out."
            )
        else:
            with counting(f"importing {self.kind}") as step:
                done = run_import(importer, out, progress=step, name=self.name)
            say_imported(done, out)
        say_next(f"train --arm 2d --clips {quoted(out)} --save_dir runs/2d")
        return 0


def list_kinds() -> None:
    """The registered importers and lifters, and what --option takes for each."""
    manager = plugins.create_manager()
    importers, lifters = (sorted(plugins.collect(manager, kind).items()) for kind in ("datasets", "lifters"))
    rows = [(f"[bold]{name}[/]  {one.about}", "", one.extras or {}) for name, one in importers]
    rows.append(
        ("A lifter for kinds without a teacher; lifter.KEY may be KEY where the kind has no option KEY:", "", {})
    )
    rows += [(f"[bold]--lifter {name}[/]", PREFIX, getattr(one, "options", {})) for name, one in lifters]
    for title, prefix, options in rows:
        console.print(title)
        for key, about in options.items():
            console.print(f"    --option {prefix}{key}=...  {about}", highlight=False)


def shares(text: str) -> tuple[float, float, float]:
    """Three numbers with commas between them; ImportOptions checks what they add up to."""
    try:
        train, val, test = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--split: expected three numbers, the shares of train, val and test, found {text!r}. Write them as in "
            "--split 0.8,0.05,0.15."
        ) from error
    return train, val, test


def say_imported(done: Imported, out: str) -> None:
    """The counts, the lifter's error, and what was left out and why; all of it is in OUT/left_out.txt."""
    card, reasons = done.card, grouped(done.left_out)
    console.print(f"{out}: {clips_of(card)} of {card.skeleton} at {card.fps:g} fps, content {card.content_hash[:12]}")
    error = lifter_summary(card) if card.lifter_error else "its error is unknown, for the source has no true motion"
    console.print(f"    teachers by {card.lifter}: {error}")
    if reasons:
        console.print(f"    {len(done.left_out)} left out:")
    for count, clip_id, message in reasons[:REASONS]:
        console.print(f"    {count:>5} such as {clip_id}: {message}", markup=False, highlight=False)
    if len(reasons) > REASONS:
        console.print(f"          and for {len(reasons) - REASONS} further reasons")
    place = Path(out, checking.LEFT_OUT)
    place.unlink(missing_ok=True)
    if len(done.left_out) > min(len(reasons), REASONS):
        lines = [f"{clip_id}\t{' '.join(message.splitlines())}\n" for clip_id, message in done.left_out.items()]
        files.write_bytes(str(place), "".join(lines).encode())
        console.print(f"    {place} has each of them", markup=False, highlight=False, soft_wrap=True)


def grouped(left_out: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Reasons by kind, the most frequent first: how many clips, the first of them, and its message.

    Messages are of one kind when they expect the same, whatever place and numbers they name.
    """
    kinds: dict[str, list[str]] = {}
    for clip_id, message in left_out.items():
        expected = message.partition(": expected ")[2].partition(", found ")[0] or message.partition(": ")[2]
        kinds.setdefault(re.sub(r"[\d.]+", "0", expected), []).append(clip_id)
    return sorted(((len(ids), ids[0], left_out[ids[0]]) for ids in kinds.values()), key=lambda row: -row[0])


@dataclass(frozen=True)
class Relift:
    """Add another lifter's teachers to a finished data set, in CLIPS/lifters/NAME, beside those that it has.

    Started again, it goes on. `train`, `data refine` and `bench` take them with --lifter NAME.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """A data set folder; of a set from videos, these have to be where they were."""
    lifter: str
    """A registered lifter, such as wham."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE of the lifter, such as results=DIR, the folder of what it made of the videos, or of the clips by their
    ids; may be repeated."""
    seed: int = 0
    """Seed of the lifter."""

    def __call__(self) -> int:
        given = {key.removeprefix(PREFIX): value for key, value in pairs(self.option).items()}
        torch.set_num_threads(1)
        with counting("lifting") as step:
            card, out, left_out = relift(str(self.clips), self.lifter, given, seed=self.seed, progress=step)
        say_imported(Imported(card, left_out), out)
        say_next(f"train --arm 2d --clips {quoted(self.clips)} --lifter {self.lifter} --save_dir runs/2d")
        return 0


@dataclass(frozen=True)
class Merge:
    """Copy the clips of several data sets into one: more views, more videos, or motion capture beside videos."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Data sets with the same skeleton, frame rate and heading rule."""
    out: Path = Path("merged")
    """Folder of the new data set; an interrupted merge goes on."""
    name: str = ""
    """Name on the card; empty: the names of the parts."""

    def __call__(self) -> int:
        with counting("merging") as step:
            card = merge([str(folder) for folder in self.folders], str(self.out), name=self.name, progress=step)
        return say_made(self.out, card)


@dataclass(frozen=True)
class Pack:
    """Put the clips of a data set into Parquet shards (extra `scale`): few large files, equal contents and trainings.

    An interrupted one goes on.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """A data set folder."""
    out: Path
    """Folder of the packed data set; it is used as any other."""

    def __call__(self) -> int:
        return repacked(self.clips, self.out, packed=True)


@dataclass(frozen=True)
class Unpack:
    """Take the clips of a packed data set out of their shards, byte for byte as they were packed."""

    clips: Annotated[Path, tyro.conf.Positional]
    """A packed data set folder."""
    out: Path
    """Folder of the data set with a file for each part of a clip."""

    def __call__(self) -> int:
        return repacked(self.clips, self.out, packed=False)


def repacked(clips: Path, out: Path, *, packed: bool) -> int:
    """Pack or unpack, and print what came of it."""
    with counting("packing" if packed else "unpacking") as step:
        card = repack(str(clips), str(out), packed=packed, progress=step)
    return say_made(out, card)


def say_made(out: Path, card: Card) -> int:
    """What a new data set holds, and what to do next."""
    console.print(f"{out}: {clips_of(card)}, lifter {card.lifter}, content {card.content_hash[:12]}")
    say_next(f"data check {quoted(out)}")
    return 0
