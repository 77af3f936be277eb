"""Where a data set folder keeps what: the names and contents of a clip's files, the card, the content hash."""

import hashlib
from collections.abc import Iterable, Iterator

import blobfile as bf

from videomdm_ext.data import files
from videomdm_ext.data.card import Card
from videomdm_ext.data.clip import Array, Clip
from videomdm_ext.data.texts import Tagger, caption_tokens
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.skeletons import by_name

CARD = "dataset.json"
SPLITS = ("train", "val", "test")


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


def read_ids(path: str, split: str) -> list[str]:
    """The ids of a split; at least one, none twice."""
    place = bf.join(path, f"{split}.txt")
    ids = [files.checked_id(line.strip(), place) for line in files.read_text(place).splitlines() if line.strip()]
    if not ids or len(set(ids)) < len(ids):
        found = "none" if not ids else f"{len(ids) - len(set(ids))} twice"
        raise DatasetError(f"{place}: expected ids, each once, found {found}. Correct the list.")
    return ids


def names(clip_id: str, card: Card) -> dict[str, str]:
    """Where a clip's files lie in the folder, in the order in which they are hashed."""
    return {
        "teacher": f"teacher_vecs/{card.lifter}/{clip_id}.npy",
        "truth": f"new_joint_vecs/{clip_id}.npy",
        "keypoints": f"keypoints_2d/{clip_id}.npz",
        "camera": f"cameras/{clip_id}.npz",
        "texts": f"texts/{clip_id}.txt",
    }


def contents(clip: Clip, card: Card, tagger: Tagger) -> dict[str, bytes]:
    """Names and contents of a clip's files."""
    place = names(clip.id, card)
    cameras = {"extrinsics": clip.extrinsics}
    content = {place["teacher"]: files.array_bytes(clip.teacher)}
    if clip.truth is not None and clip.truth_extrinsics is not None:
        content[place["truth"]] = files.array_bytes(clip.truth)
        cameras["truth_extrinsics"] = clip.truth_extrinsics
    if clip.intrinsics is not None:
        cameras["intrinsics"] = clip.intrinsics
    if clip.image_size is not None:
        cameras["image_size"] = _numbers(clip.image_size)
    seen = {"points": clip.keypoints, "confidence": clip.confidence}
    lines = [f"{text}#{caption_tokens(text, tagger)}#0.0#0.0\n" for text in clip.texts]
    content[place["keypoints"]] = files.arrays_bytes(seen)
    content[place["camera"]] = files.arrays_bytes(cameras)
    content[place["texts"]] = "".join(lines).encode()
    return content


def _numbers(values: Iterable[float]) -> Array:
    return files.as_array(list(values))


def on_disk(path: str, card: Card, clip_id: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a clip's files as they are now; a truth need not be there."""
    for key, name in names(clip_id, card).items():
        place = bf.join(path, name)
        if key != "truth" or bf.exists(place):
            yield name, files.read_bytes(place)


def content_hash(path: str, card: Card, ids: Iterable[str]) -> str:
    """SHA-256 over names and contents of the files of these clips, in this order."""
    content = hashlib.sha256()
    for clip_id in ids:
        for name, data in on_disk(path, card, clip_id):
            content.update(f"{name}\0{len(data)}\0".encode())
            content.update(data)
    return content.hexdigest()
