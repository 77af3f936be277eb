"""The folder format: one file a clip for each of teacher, truth, keypoints, camera and texts, and a card.

DIR/dataset.json                      the card, written last: a folder without one is not complete
DIR/train.txt val.txt test.txt        ids
DIR/Mean.npy Std.npy                  [D] of the truth where there is one, else of the teacher
DIR/new_joint_vecs/ID.npy             [T, D] raw features of the truth (optional)
DIR/teacher_vecs/LIFTER/ID.npy        [T, D] raw features of the teacher; Mean.npy and Std.npy [D] beside
DIR/keypoints_2d/ID.npz               points [T, J, 2] on the normalised plane, confidence [T, J]
DIR/cameras/ID.npz                    extrinsics and, with a truth, truth_extrinsics [3, 4] or [T, 3, 4]
DIR/texts/ID.txt                      HumanML3D's lines: caption#word/TAG word/TAG#0.0#0.0
"""

from collections.abc import Mapping, Sequence

import blobfile as bf
import numpy as np

from videomdm_ext.data import files, pixels
from videomdm_ext.data.building import Builder
from videomdm_ext.data.card import Card
from videomdm_ext.data.clip import MIN_FRAMES, Array, Clip, validate
from videomdm_ext.data.layout import CARD, SPLITS, content_hash, names, read_card, read_ids
from videomdm_ext.data.texts import Tagger, parse_texts
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import by_name


def write_folder(path: str, clips: Mapping[str, Sequence[Clip]], card: Card, *, tagger: Tagger | None = None) -> Card:
    """Check everything, then write the clips of each split, the statistics of the training split, and the card last.

    An earlier version of the same data set is replaced; its card goes first. -> the card with counts and hash.
    """
    _check_whole(path, clips, card)
    for clip in _members(clips):
        validate(clip, fps=card.fps)
    builder = Builder(path, card, tagger=tagger)
    builder.forget()
    for split in SPLITS:
        for clip in clips.get(split, ()):
            builder.add(clip, split)
    return builder.finish()


def _members(clips: Mapping[str, Sequence[Clip]]) -> list[Clip]:
    return [clip for split in SPLITS for clip in clips.get(split, ())]


def read_folder(path: str, split: str, *, min_frames: int = MIN_FRAMES) -> tuple[Card, list[Clip]]:
    """The card, and the clips of one split, each of them checked."""
    card = read_card(path)
    return card, [read_clip(path, card, clip_id, min_frames=min_frames) for clip_id in read_ids(path, split)]


def read_clip(path: str, card: Card, clip_id: str, *, min_frames: int = MIN_FRAMES) -> Clip:
    """One clip, checked."""
    place = {key: bf.join(path, name) for key, name in names(files.checked_id(clip_id, path), card).items()}
    seen = files.read_arrays(place["keypoints"], needed=pixels.NEEDED)
    cameras = files.read_arrays(place["camera"], needed=("extrinsics",))
    known = bf.exists(place["truth"])
    clip = Clip(
        id=clip_id,
        fps=card.fps,
        skeleton=by_name(card.skeleton),
        teacher=files.read_array(place["teacher"]),
        keypoints=pixels.on_plane(seen, cameras, place["keypoints"]),
        confidence=seen["confidence"],
        extrinsics=cameras["extrinsics"],
        texts=parse_texts(files.read_text(place["texts"]), place["texts"]),
        truth=files.read_array(place["truth"]) if known else None,
        truth_extrinsics=cameras.get("truth_extrinsics"),
        intrinsics=cameras.get("intrinsics"),
        image_size=_size(cameras.get("image_size")),
        source=bf.join(path, clip_id),
    )
    validate(clip, fps=card.fps, min_frames=min_frames)
    return clip


def _size(values: Array | None) -> tuple[int, int] | None:
    return None if values is None else (round(float(values[0])), round(float(values[1])))


def read_statistics(path: str, lifter: str | None = None) -> tuple[Array, Array]:
    """Mean and Std [D]: those of a lifter's teacher, or with None those of the folder."""
    folder = path if lifter is None else bf.join(path, "teacher_vecs", files.checked_id(lifter, path))
    mean, std = (files.read_array(bf.join(folder, name)) for name in ("Mean.npy", "Std.npy"))
    width = by_name(read_card(path).skeleton).num_features
    good = mean.shape == std.shape == (width,) and bool(np.isfinite(mean).all() and np.isfinite(std).all())
    if not good or not (std > 0).all():
        raise DatasetError(
            f"{folder}: expected Mean.npy and Std.npy [{width}], finite, Std above 0, found {list(mean.shape)} and "
            f"{list(std.shape)} or bad numbers. Make the data set again."
        )
    return mean, std


def verify_folder(path: str) -> Card:
    """Read every clip file and compare with the card's hash; DatasetError if one was changed. -> the card."""
    card = read_card(path)
    ids = [clip_id for split in SPLITS if card.counts.get(split) for clip_id in read_ids(path, split)]
    found = content_hash(path, card, ids)
    if found != card.content_hash:
        raise DatasetError(
            f"{bf.join(path, CARD)}: expected content {card.content_hash[:12]}, found {found[:12]}. "
            "A clip file was changed after the card was written; make the data set again."
        )
    return card


def _check_whole(path: str, clips: Mapping[str, Sequence[Clip]], card: Card) -> None:
    """Splits, ids and the lifter's name are usable."""
    unknown = [split for split in clips if split not in SPLITS]
    if unknown or not clips.get("train"):
        found = ", ".join(f"{split} ({len(members)})" for split, members in clips.items()) or "none"
        raise DatasetError(f"{path}: expected splits among {', '.join(SPLITS)}, train not empty, found {found}.")
    files.checked_id(card.lifter, "lifter")
    seen: set[str] = set()
    for clip in _members(clips):
        if files.checked_id(clip.id, clip.label) in seen:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        seen.add(clip.id)


def _check_member(clip: Clip, card: Card) -> None:
    if clip.skeleton.name != card.skeleton:
        raise DatasetError(
            f"{clip.label}: expected {card.skeleton} as on the card, found {clip.skeleton.name}. "
            "Re-import the clip, or correct the card."
        )
