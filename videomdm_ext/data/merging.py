"""One data set from several: views of other cameras, more videos, or motion capture beside videos."""

import dataclasses
from collections.abc import Callable, Sequence

import blobfile as bf

from videomdm_ext.data.folder import SPLITS, Builder, Card, read_card, read_clip, read_ids
from videomdm_ext.errors import ConfigError, DatasetError

EQUAL = ("skeleton", "fps", "heading", "units")
"""Facts of the card that all parts must share: the feature vectors mean the same."""


def merge(
    paths: Sequence[str], out: str, *, name: str = "", progress: Callable[[int, int], None] | None = None
) -> Card:
    """Copy the clips of several folders, split by split, into one. Started again after an interruption, it goes on.

    An id gets its folder's name in front where two folders share ids. DatasetError where the cards do not fit.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"data merge: expected two or more folders, each once, found {' '.join(paths) or 'none'}.")
    cards = [read_card(path) for path in paths]
    for path, card in zip(paths[1:], cards[1:], strict=True):
        _check_fits(paths[0], cards[0], path, card)
    members = [
        (path, card, split, clip_id)
        for split in SPLITS
        for path, card in zip(paths, cards, strict=True)
        if card.counts.get(split)
        for clip_id in read_ids(path, split)
    ]
    builder = Builder(out, _merged(cards, paths, name))
    shared = len({clip_id for *_, clip_id in members}) < len(members)
    for number, (path, card, split, clip_id) in enumerate(members):
        new = f"{_short(path)}-{clip_id}" if shared else clip_id
        if new not in builder:
            builder.add(dataclasses.replace(read_clip(path, card, clip_id), id=new), split)
        if progress:
            progress(number + 1, len(members))
    return builder.finish()


def _check_fits(first: str, card: Card, path: str, other: Card) -> None:
    for fact in EQUAL:
        if getattr(card, fact) != getattr(other, fact):
            raise DatasetError(
                f"{path}: expected {fact} {getattr(card, fact)} as in {first}, found {getattr(other, fact)}. "
                "Import one of them again so that both agree."
            )


def _short(path: str) -> str:
    return bf.basename(path.rstrip("/")) or "set"


def _merged(cards: Sequence[Card], paths: Sequence[str], name: str) -> Card:
    """A card that names all that went in; where the lifters differ, `mixed` with no error of its own."""
    lifters = {card.lifter for card in cards}
    return Card(
        name=name or "-".join(card.name for card in cards),
        skeleton=cards[0].skeleton,
        fps=cards[0].fps,
        heading=cards[0].heading,
        lifter=lifters.pop() if len(lifters) == 1 else "mixed",
        licence="; ".join(dict.fromkeys(card.licence for card in cards)),
        sources=tuple(dict.fromkeys(source for card in cards for source in card.sources)),
        recipe={"merged": {_short(path): card.content_hash for path, card in zip(paths, cards, strict=True)}},
    )
