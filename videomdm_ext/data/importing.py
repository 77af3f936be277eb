"""Make a data set of a source (`run_import`) or of several sets (`merge`), clip by clip, going on where one stopped."""

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import blobfile as bf

from videomdm_ext import plugins
from videomdm_ext.data import files
from videomdm_ext.data.building import Builder
from videomdm_ext.data.folder import SPLITS, Card, read_card, read_clip, read_ids
from videomdm_ext.data.identity import Inputs, name_of
from videomdm_ext.data.locks import writing
from videomdm_ext.data.motions import find_lifter
from videomdm_ext.data.refined import detector_error, measured_error
from videomdm_ext.data.sources.base import SHARES, Importer, Member
from videomdm_ext.data.texts import Tagger, composed, untagged
from videomdm_ext.errors import ConfigError, DatasetError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # `progress(done, total)` in clips
EQUAL = ("skeleton", "fps", "heading", "units")
"""Facts of the card that all parts of a merged set must share: the feature vectors mean the same."""
MEASURED = 256  # clips, about, on which the lifter's error on the card is measured


@dataclass(frozen=True)
class Imported:
    """The card of a finished import, and why members were left out, by id, and lines and captions, by their place."""

    card: Card
    left_out: dict[str, str]


def find_importer(name: str) -> type[Importer]:
    """A registered importer by its name."""
    known = plugins.collect(plugins.create_manager(), "datasets")
    if name not in known:
        raise ConfigError(f"data import {name!r}: expected one of {', '.join(sorted(known)) or 'none'}. Correct it.")
    found: type[Importer] = known[name]
    return found


@writing("out")
def run_import(
    importer: Importer, out: str, *, tagger: Tagger | None = None, progress: Progress | None = None, name: str = ""
) -> Imported:
    """Make a data set folder of everything the source holds; started again after an interruption, it goes on.

    A member that cannot be used is left out and reported; DatasetError where none can.
    """
    options = importer.options
    inputs = Inputs([importer.source, options.captions, *filter(os.path.exists, options.extra.values())])
    with files.watched(inputs) if importer.reads_here else contextlib.nullcontext():
        made = _import(importer, out, inputs, tagger=tagger, progress=progress, name=name)
    return made


def _import(
    importer: Importer, out: str, inputs: Inputs, *, tagger: Tagger | None, progress: Progress | None, name: str
) -> Imported:
    _ = importer.captions.table  # refused before any work where it is none
    members, options = importer.members(), importer.options
    if not members:
        raise importer.refuse(importer.source, f"clips for {importer.name}", "none", "Name the folder that holds them.")
    model = None
    if not importer.has_lifter:
        model = find_lifter(options.lifter, options.seed, importer.skeleton, importer.lifter_extra)
    card = Card(
        name=name or importer.name,
        skeleton=importer.skeleton.name,
        fps=importer.fps,
        lifter=importer.lifter,
        licence=importer.licence or "as the source",
        sources=importer.sources or (importer.name,),
        heading=importer.heading,
        recipe={"importer": importer.name, **dataclasses.asdict(options)},
    )
    other = tagger or untagged  # where the source has no words and tags of its own
    for place in importer.inputs():
        inputs(place)
    builder = Builder(out, card, tagger=lambda caption: importer.tagged.get(caption) or other(caption), inputs=inputs)
    splits = split_by_trial(members, options.seed, options.split)
    moved = [clip_id for clip_id, (split, _) in builder.done.items() if splits.get(clip_id) != split]
    others = [*builder.changed(), *moved]  # a member that is gone or new may change the splits of all
    if others:
        logger.warning("%s: %s is another than before the import was interrupted; it begins anew", out, others[0])
        builder.forget()
    left_out: dict[str, str] = {}
    left = [member for member in members if member.id not in builder]
    for number, (member, clip) in enumerate(importer.clips(left, model), len(members) - len(left) + 1):
        try:
            if isinstance(clip, DatasetError):
                raise clip
            builder.add(clip, splits[member.id])
        except DatasetError as error:
            left_out[member.id] = str(error)
        if progress:
            progress(number, len(members))
    if not builder.done:
        first = next(iter(left_out.values()))
        raise DatasetError(f"{importer.source}: expected clips that can be used, found none. The first: {first}")
    importer.captions.used |= {composed(name) for member in members for name in importer.caption_names(member)}
    importer.refused |= importer.captions.unused
    some = list(builder.done)[:: max(len(builder.done) // MEASURED, 1)]
    clips = [read_clip(builder.place, card, clip_id) for clip_id in some]
    measured = {key: round(value, 5) for key, value in measured_error(clips, clips).items()}
    done = builder.finish(
        order=[member.id for member in members],
        lifter_error=measured,
        detector_error=detector_error(clips),
        sides_exchanged=importer.counted(),
    )
    return Imported(done, importer.refused | left_out)


def split_by_trial(members: Sequence[Member], seed: int, shares: tuple[float, float, float] = SHARES) -> dict[str, str]:
    """The split of every member: the source's own where it has one, else by trial, so that no trial is on two sides.

    Trials are ordered by a hash of seed and name; test and validation take their share of them, each that has one at
    least one trial where there are as many trials as splits with a share, and training the rest, never none.
    """
    trials = {m.trial or m.id for m in members if not m.split}
    free = sorted(trials, key=lambda trial: hashlib.sha256(f"split/{seed}/{trial}".encode()).hexdigest())
    counts = [0, 0, 0]
    if len(free) >= sum(share > 0 for share in shares):
        counts[1:] = [max(1, round(share * len(free))) if share > 0 else 0 for share in shares[1:]]
    while sum(counts) >= len(free) > 0:
        counts[counts.index(max(counts))] -= 1
    given = dict.fromkeys(free[: counts[2]], "test") | dict.fromkeys(free[counts[2] : counts[1] + counts[2]], "val")
    splits = {m.id: m.split or given.get(m.trial or m.id, "train") for m in members}
    wrong = sorted(set(splits.values()) - set(SPLITS))
    if wrong:
        raise DatasetError(
            f"splits: expected {', '.join(SPLITS)}, found {', '.join(wrong)}. Correct the source's lists."
        )
    return splits


@writing("out")
def merge(paths: Sequence[str], out: str, *, name: str = "", progress: Progress | None = None) -> Card:
    """Copy the clips of several folders, split by split, into one. Started again after an interruption, it goes on.

    An id gets its folder's name in front where two folders share ids. DatasetError where the cards do not fit.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"data merge: expected two or more folders, each once, found {' '.join(paths) or 'none'}.")
    cards = [read_card(path) for path in paths]
    for path, card in zip(paths[1:], cards[1:], strict=True):
        for fact in EQUAL:
            if getattr(cards[0], fact) != getattr(card, fact):
                raise DatasetError(
                    f"{path}: expected {fact} {getattr(cards[0], fact)} as in {paths[0]}, found {getattr(card, fact)}. "
                    "Import one of them again so that both agree."
                )
    members = [
        (path, card, split, clip_id)
        for split in SPLITS
        for path, card in zip(paths, cards, strict=True)
        if card.counts.get(split)
        for clip_id in read_ids(path, split)
    ]
    short = {path: bf.basename(path.rstrip("/")) or "set" for path in paths}
    lifters = {card.lifter for card in cards}
    merged = Card(  # where the lifters differ, `mixed` with no error of its own
        name=name or "-".join(dict.fromkeys(card.name for card in cards)),
        skeleton=cards[0].skeleton,
        fps=cards[0].fps,
        heading=cards[0].heading,
        lifter=lifters.pop() if len(lifters) == 1 else "mixed",
        licence="; ".join(dict.fromkeys(card.licence for card in cards)),
        sources=tuple(dict.fromkeys(source for card in cards for source in card.sources)),
        recipe={"merged": {short[path]: name_of(card) for path, card in zip(paths, cards, strict=True)}},
    )
    parts = Inputs([name_of(card) for card in cards])
    parts.known = {name: name for name in parts.places}
    builder = Builder(out, merged, inputs=parts if all(card.identity for card in cards) else None)
    shared = len({clip_id for *_, clip_id in members}) < len(members)
    for number, (path, card, split, clip_id) in enumerate(members):
        new = f"{short[path]}-{clip_id}" if shared else clip_id
        if new not in builder:
            builder.add(dataclasses.replace(read_clip(path, card, clip_id), id=new), split)
        if progress:
            progress(number + 1, len(members))
    return builder.finish()
