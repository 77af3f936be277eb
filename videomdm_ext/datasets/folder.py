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

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.datasets import files
from videomdm_ext.datasets.card import Card
from videomdm_ext.datasets.clip import MIN_FRAMES, Array, Clip, validate
from videomdm_ext.datasets.texts import Tagger, caption_tokens, parse_texts, untagged
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.features import mean_and_std
from videomdm_ext.skeletons import by_name

CARD = "dataset.json"
SPLITS = ("train", "val", "test")


def write_folder(path: str, clips: Mapping[str, Sequence[Clip]], card: Card, *, tagger: Tagger | None = None) -> Card:
    """Check everything, then write the clips of each split, the statistics of the training split, and the card last.

    An earlier version of the same data set is replaced; its card goes first. -> the card with counts and hash.
    """
    tag = tagger or untagged
    everything = [clip for split in SPLITS for clip in clips.get(split, ())]
    _check_whole(path, clips, card)
    for clip in everything:
        _check_member(clip, card)
        validate(clip, fps=card.fps)
    files.check_writable(path)
    _retire_card(path, card)
    content = hashlib.sha256()
    for clip in everything:
        for name, data in _clip_files(clip, card, tag).items():
            files.write_bytes(bf.join(path, name), data)
            _add(content, name, data)
    for split in SPLITS:
        lines = "".join(f"{clip.id}\n" for clip in clips.get(split, ()))
        files.write_bytes(bf.join(path, f"{split}.txt"), lines.encode())
    _write_statistics(path, clips["train"], card)
    counts = {split: len(members) for split, members in sorted(clips.items())}
    card = dataclasses.replace(card, counts=counts, content_hash=content.hexdigest())
    files.write_bytes(bf.join(path, CARD), card.to_json().encode())
    return read_card(path)


def read_card(path: str) -> Card:
    """The card of a folder; DatasetError says how to get one where there is none."""
    place = bf.join(path, CARD)
    if not bf.exists(place):
        raise DatasetError(
            f"{place}: expected the card of a complete data set, found none. "
            "Correct the folder, or make the data set again: it may have been interrupted."
        )
    card = Card.from_json(files.read_text(place), place)
    try:
        by_name(card.skeleton)
    except ConfigError as error:
        raise DatasetError(f"{place}: {error}") from error
    files.checked_id(card.lifter, place)
    return card


def read_folder(path: str, split: str, *, min_frames: int = MIN_FRAMES) -> tuple[Card, list[Clip]]:
    """The card, and the clips of one split, each of them checked."""
    card = read_card(path)
    return card, [read_clip(path, card, clip_id, min_frames=min_frames) for clip_id in read_ids(path, split)]


def read_ids(path: str, split: str) -> list[str]:
    """The ids of a split; at least one, none twice."""
    place = bf.join(path, f"{split}.txt")
    ids = [files.checked_id(line.strip(), place) for line in files.read_text(place).splitlines() if line.strip()]
    if not ids or len(set(ids)) < len(ids):
        found = "none" if not ids else f"{len(ids) - len(set(ids))} twice"
        raise DatasetError(f"{place}: expected ids, each once, found {found}. Correct the list.")
    return ids


def read_clip(path: str, card: Card, clip_id: str, *, min_frames: int = MIN_FRAMES) -> Clip:
    """One clip, checked."""
    place = {key: bf.join(path, name) for key, name in _names(files.checked_id(clip_id, path), card).items()}
    seen = files.read_arrays(place["keypoints"], needed=("points", "confidence"))
    cameras = files.read_arrays(place["camera"], needed=("extrinsics",))
    known = bf.exists(place["truth"])
    clip = Clip(
        id=clip_id,
        fps=card.fps,
        skeleton=by_name(card.skeleton),
        teacher=files.read_array(place["teacher"]),
        keypoints=seen["points"],
        confidence=seen["confidence"],
        extrinsics=cameras["extrinsics"],
        texts=parse_texts(files.read_text(place["texts"]), place["texts"]),
        truth=files.read_array(place["truth"]) if known else None,
        truth_extrinsics=cameras.get("truth_extrinsics"),
        source=bf.join(path, clip_id),
    )
    validate(clip, fps=card.fps, min_frames=min_frames)
    return clip


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
    content = hashlib.sha256()
    for split in SPLITS:
        for clip_id in read_ids(path, split) if card.counts.get(split) else ():
            names = _names(clip_id, card)
            for key, name in names.items():
                place = bf.join(path, name)
                if key != "truth" or bf.exists(place):
                    _add(content, name, files.read_bytes(place))
    if content.hexdigest() != card.content_hash:
        raise DatasetError(
            f"{bf.join(path, CARD)}: expected content {card.content_hash[:12]}, found {content.hexdigest()[:12]}. "
            "A clip file was changed after the card was written; make the data set again."
        )
    return card


def _names(clip_id: str, card: Card) -> dict[str, str]:
    """Where a clip's files lie in the folder, in the order in which they are hashed."""
    return {
        "teacher": f"teacher_vecs/{card.lifter}/{clip_id}.npy",
        "truth": f"new_joint_vecs/{clip_id}.npy",
        "keypoints": f"keypoints_2d/{clip_id}.npz",
        "camera": f"cameras/{clip_id}.npz",
        "texts": f"texts/{clip_id}.txt",
    }


def _clip_files(clip: Clip, card: Card, tagger: Tagger) -> dict[str, bytes]:
    """Names and contents of a clip's files."""
    names = _names(clip.id, card)
    cameras = {"extrinsics": clip.extrinsics}
    content = {names["teacher"]: files.array_bytes(clip.teacher)}
    if clip.truth is not None and clip.truth_extrinsics is not None:
        content[names["truth"]] = files.array_bytes(clip.truth)
        cameras["truth_extrinsics"] = clip.truth_extrinsics
    seen = {"points": clip.keypoints, "confidence": clip.confidence}
    lines = [f"{text}#{caption_tokens(text, tagger)}#0.0#0.0\n" for text in clip.texts]
    content[names["keypoints"]] = files.arrays_bytes(seen)
    content[names["camera"]] = files.arrays_bytes(cameras)
    content[names["texts"]] = "".join(lines).encode()
    return content


def _add(content: "hashlib._Hash", name: str, data: bytes) -> None:
    content.update(f"{name}\0{len(data)}\0".encode())
    content.update(data)


def _check_whole(path: str, clips: Mapping[str, Sequence[Clip]], card: Card) -> None:
    """Splits, ids and the lifter's name are usable."""
    unknown = [split for split in clips if split not in SPLITS]
    if unknown or not clips.get("train"):
        found = ", ".join(f"{split} ({len(members)})" for split, members in clips.items()) or "none"
        raise DatasetError(f"{path}: expected splits among {', '.join(SPLITS)}, train not empty, found {found}.")
    files.checked_id(card.lifter, "lifter")
    seen: set[str] = set()
    for clip in itertools.chain.from_iterable(clips.values()):
        if files.checked_id(clip.id, clip.label) in seen:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        seen.add(clip.id)


def _check_member(clip: Clip, card: Card) -> None:
    if clip.skeleton.name != card.skeleton:
        raise DatasetError(
            f"{clip.label}: expected {card.skeleton} as on the card, found {clip.skeleton.name}. "
            "Re-import the clip, or correct the card."
        )


def _retire_card(path: str, card: Card) -> None:
    """Remove the card of an earlier version; refuse to write over another data set."""
    place = bf.join(path, CARD)
    if not bf.exists(place):
        return
    found = read_card(path).name
    if found != card.name:
        raise DatasetError(f"{place}: expected no data set or {card.name!r}, found {found!r}. Choose another folder.")
    bf.remove(place)


def _write_statistics(path: str, clips: Sequence[Clip], card: Card) -> None:
    """Mean and Std of the truth (of the teacher where there is none) and of the teacher."""
    teacher = [clip.teacher for clip in clips]
    truth = [clip.truth for clip in clips if clip.truth is not None]
    for folder, motions in ((path, truth or teacher), (bf.join(path, "teacher_vecs", card.lifter), teacher)):
        for name, values in zip(("Mean.npy", "Std.npy"), _statistics(motions, card), strict=True):
            files.write_bytes(bf.join(folder, name), files.array_bytes(values))


def _statistics(motions: Iterable[Array], card: Card) -> tuple[Array, Array]:
    tensors = [torch.tensor(features) for features in motions]
    mean, std = mean_and_std(tensors, by_name(card.skeleton))
    return mean.numpy(), std.numpy()
