"""Write a data set clip by clip, so that it need not fit into memory and an interrupted import goes on.

While it is being built a folder has no card, and DIR/building/ holds one small file a clip: its split and its place in
the order. A clip counts once that file is there, and it is written after the clip's own files.
"""

import dataclasses
import json
from collections.abc import Iterator

import blobfile as bf
import torch

from videomdm_ext.data import files
from videomdm_ext.data.card import Card
from videomdm_ext.data.clip import MIN_FRAMES, Clip, validate
from videomdm_ext.data.layout import CARD, SPLITS, content_hash, contents, names, read_card
from videomdm_ext.data.texts import Tagger, untagged
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

MARKS = "building"
RECIPE = "recipe.json"


class Builder:
    """A folder in the making. `add` clips, then `finish`; a second Builder with the same card goes on.

    Raises DatasetError where the folder holds another data set, or another recipe's unfinished clips.
    """

    def __init__(self, path: str, card: Card, *, tagger: Tagger | None = None, min_frames: int = MIN_FRAMES) -> None:
        files.checked_id(card.lifter, "lifter")
        files.check_writable(path)
        self.path, self.card, self.tagger, self.min_frames = path, card, tagger or untagged, min_frames
        self._retire_card()
        self._check_recipe()
        self.done = {mark["id"]: (mark["split"], int(mark["place"])) for mark in self._marks()}

    def __contains__(self, clip_id: str) -> bool:
        """Whether the clip is written, all of it."""
        return clip_id in self.done

    def forget(self) -> None:
        """Start from nothing: what an interrupted import left is written again."""
        for clip_id in self.done:
            bf.remove(self._mark(f"{clip_id}.json"))
        self.done = {}

    def add(self, clip: Clip, split: str) -> None:
        """Check and write one clip."""
        if split not in SPLITS:
            raise DatasetError(f"{clip.label}: expected a split among {', '.join(SPLITS)}, found {split!r}.")
        if files.checked_id(clip.id, clip.label) in self.done:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        if clip.skeleton.name != self.card.skeleton:
            raise DatasetError(
                f"{clip.label}: expected {self.card.skeleton} as on the card, found {clip.skeleton.name}. "
                "Re-import the clip, or correct the card."
            )
        validate(clip, fps=self.card.fps, min_frames=self.min_frames)
        for name, data in contents(clip, self.card, self.tagger).items():
            files.write_bytes(bf.join(self.path, name), data)
        place = len(self.done)
        mark = json.dumps({"id": clip.id, "split": split, "place": place})
        files.write_bytes(self._mark(f"{clip.id}.json"), mark.encode())
        self.done[clip.id] = (split, place)

    def finish(self, **changes: object) -> Card:
        """Write splits, statistics and, last, the card with counts, hash and `changes`. -> the card"""
        order = sorted(self.done, key=lambda clip_id: self.done[clip_id][1])
        members = {split: [i for i in order if self.done[i][0] == split] for split in SPLITS}
        if not members["train"]:
            found = ", ".join(f"{split} ({len(ids)})" for split, ids in members.items() if ids) or "none"
            raise DatasetError(f"{self.path}: expected clips in the split train, found {found}. Put clips there.")
        for split, ids in members.items():
            files.write_bytes(bf.join(self.path, f"{split}.txt"), "".join(f"{i}\n" for i in ids).encode())
        self._write_statistics(members["train"])
        ordered = [clip_id for split in SPLITS for clip_id in members[split]]
        self.card = dataclasses.replace(
            self.card,
            counts={split: len(ids) for split, ids in sorted(members.items()) if ids},
            content_hash=content_hash(self.path, self.card, ordered),
            **changes,  # type: ignore[arg-type]
        )
        files.write_bytes(bf.join(self.path, CARD), self.card.to_json().encode())
        bf.rmtree(bf.join(self.path, MARKS))
        return read_card(self.path)

    def _write_statistics(self, ids: list[str]) -> None:
        """Mean and Std of the truth (of the teacher where there is none) and of the teacher."""
        skeleton = by_name(self.card.skeleton)
        teacher, truth = Moments(skeleton), Moments(skeleton)
        for clip_id in ids:
            place = {key: bf.join(self.path, name) for key, name in names(clip_id, self.card).items()}
            teacher.add(torch.from_numpy(files.read_array(place["teacher"])))
            if bf.exists(place["truth"]):
                truth.add(torch.from_numpy(files.read_array(place["truth"])))
        lifted = bf.join(self.path, "teacher_vecs", self.card.lifter)
        for folder, moments in ((self.path, truth if truth.count else teacher), (lifted, teacher)):
            for name, values in zip(("Mean.npy", "Std.npy"), moments.mean_and_std(), strict=True):
                files.write_bytes(bf.join(folder, name), files.array_bytes(values.numpy()))

    def _retire_card(self) -> None:
        """Remove the card of an earlier version; refuse to write over another data set."""
        place = bf.join(self.path, CARD)
        if not bf.exists(place):
            return
        found = read_card(self.path).name
        if found != self.card.name:
            raise DatasetError(
                f"{place}: expected no data set or {self.card.name!r}, found {found!r}. Choose another folder."
            )
        bf.remove(place)

    def _check_recipe(self) -> None:
        """Clips of an unfinished import may only be taken over by an import of the same recipe."""
        place, wanted = self._mark(RECIPE), self.card.to_json()
        if bf.exists(place) and files.read_text(place) != wanted:
            raise DatasetError(
                f"{place}: an unfinished import with other settings lies here. Start it again with its own settings, "
                f"or remove {self.path}."
            )
        files.write_bytes(place, wanted.encode())

    def _marks(self) -> Iterator[dict[str, str]]:
        for name in bf.listdir(bf.join(self.path, MARKS)):
            if name.endswith(".json") and name != RECIPE:
                yield files.read_json(self._mark(name))

    def _mark(self, name: str) -> str:
        return bf.join(self.path, MARKS, name)


def is_unfinished(path: str) -> bool:
    """Whether an import was interrupted in this folder."""
    return bool(bf.exists(bf.join(path, MARKS, RECIPE)))
