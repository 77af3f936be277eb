"""Refined teachers of a folder, made once for all its clips and kept beside the lifted ones.

DIR/refined/LIFTER/ID.npz holds features [T, D] and extrinsics, the camera in the refined clip's own canonical frame;
the keypoints stay the detector's. skeleton.npz holds the shared bone lengths [J - 1] and mean pose [3 (J - 1)],
Mean.npy and Std.npy are those of the training split; kept.txt names the clips that keep their lifted motion; made.txt,
written last, holds the content hash of the clips.
"""

import dataclasses
import logging
from collections.abc import Sequence

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip, collate, crop, observed, tensor_of
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import SPLITS, Card, read_folder
from videomdm_ext.data.motions import floor_height, own_generator
from videomdm_ext.geometry.cameras import project, reexpress, to_camera
from videomdm_ext.motion.features import decode, encode, mean_and_std
from videomdm_ext.motion.kinematics import HeadingRule, canonicalise, heading
from videomdm_ext.motion.measures import measure_error
from videomdm_ext.motion.skeletons import by_name
from videomdm_ext.supervision.refinement import Progress, Shared, refine

logger = logging.getLogger(__name__)

GROUP = 256  # clips that are refined together; the first group, a random sample, estimates what all share
MARK = "made.txt"
KEPT = "kept.txt"
WAY = "6"  # of making them: other ways give other teachers
ABOVE = 0.3  # height, m, above which the lowest joint is not taken to stand on the floor


def folder_of(path: str, card: Card) -> str:
    """Where a folder keeps the refined teachers of its lifter."""
    return bf.join(path, "refined", card.lifter)


def is_made(path: str, card: Card) -> bool:
    """Whether they are there, whole, and of the clips as they are now."""
    mark = bf.join(folder_of(path, card), MARK)
    return bool(bf.exists(mark)) and files.read_text(mark).strip() == identity(card)


def identity(card: Card) -> str:
    """Of the refined teachers that this version makes: the content of their clips, and the way of making them."""
    return f"{card.content_hash} {WAY}"


def make_refined(path: str, card: Card, progress: Progress | None = None) -> None:
    """Refine the teachers of all splits; the training clips alone estimate what is shared, and no truth is read.

    Motion that is known as it is stays as it is.
    """
    folder = folder_of(path, card)
    files.check_writable(folder)
    mark = bf.join(folder, MARK)
    if bf.exists(mark):  # an earlier version's must not vouch for a half of this one
        bf.remove(mark)
    shared: Shared | None = None
    kept: list[str] = []
    for split in ("train", *(name for name in SPLITS if name != "train" and card.counts.get(name))):
        clips = read_folder(path, split)[1]
        made = [clip for clip in clips if clip.is_known]
        seen = [clip for clip in clips if not clip.is_known]
        seen = [seen[i] for i in torch.randperm(len(seen), generator=own_generator("refined", split)).tolist()]
        for start in range(0, len(seen), GROUP):
            group = seen[start : start + GROUP]
            refined, shared = refine_clips(group, card.heading, shared, progress)
            kept += [before.id for before, after in zip(group, refined, strict=True) if after is before]
            made += refined
        for clip in made:
            arrays = {"features": clip.teacher, "extrinsics": clip.extrinsics}
            files.write_bytes(bf.join(folder, f"{clip.id}.npz"), files.arrays_bytes(arrays))
        if split == "train":
            _write_summary(folder, made, card, shared)
    files.write_bytes(bf.join(folder, KEPT), "".join(f"{name}\n" for name in sorted(kept)).encode())
    if kept:
        logger.warning("%d clips came out unlikely and keep their lifted motion: %s/%s", len(kept), folder, KEPT)
    files.write_bytes(mark, f"{identity(card)}\n".encode())


def refine_clips(
    clips: Sequence[Clip], rule: HeadingRule, shared: Shared | None = None, progress: Progress | None = None
) -> tuple[list[Clip], Shared]:
    """Clips with refined teachers, each in its own canonical frame, and what they share; unlikely ones as they were."""
    skeleton = clips[0].skeleton
    batch = collate([crop(clip, 0, clip.length) for clip in clips], length=max(clip.length for clip in clips))
    lifted = decode(tensor_of(batch, "teacher"), skeleton)
    positions, shared = refine(lifted, observed(batch), skeleton, shared=shared, progress=progress)
    refined = []
    for clip, before, after in zip(clips, lifted, positions, strict=True):
        same = torch.equal(before[: clip.length], after[: clip.length])
        refined.append(clip if same else replaced(clip, after[: clip.length], rule))
    return refined, shared


def read_refined(path: str, card: Card, clips: Sequence[Clip]) -> tuple[list[Clip], tuple[Array, Array]]:
    """The clips with their refined teachers in the place of the lifted ones, and the refined Mean and Std [D]."""
    folder = folder_of(path, card)
    refined = []
    for clip in clips:
        arrays = files.read_arrays(bf.join(folder, f"{clip.id}.npz"), needed=("features", "extrinsics"))
        refined.append(dataclasses.replace(clip, teacher=arrays["features"], extrinsics=arrays["extrinsics"]))
    mean, std = (files.read_array(bf.join(folder, name)) for name in ("Mean.npy", "Std.npy"))
    return refined, (mean, std)


def measured_error(clips: Sequence[Clip], refined: Sequence[Clip]) -> dict[str, float]:
    """What refined teachers of these clips get wrong, seen from their cameras, mean over the clips that have a truth.

    The figures of `measure_error`; empty where no clip has a truth.
    """
    rows = []
    for clip, made in zip(clips, refined, strict=True):
        if clip.truth is not None and clip.truth_extrinsics is not None:
            true, found = _seen(clip.truth, clip.truth_extrinsics, clip), _seen(made.teacher, made.extrinsics, clip)
            rows.append(measure_error(found, true, clip.skeleton, fps=clip.fps))
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def detector_error(clips: Sequence[Clip]) -> dict[str, float]:
    """Distances of the keypoints from the projected truth, over all joints seen, in units of the focal length.

    The median, the 90 and the 99 % quantile; the share of joints not seen; the share of frames whose left and right are
    exchanged. Empty where no clip has a truth and keypoints.
    """
    distances, unseen, exchanged = [], [], []
    for clip in clips:
        if clip.truth is None or clip.truth_extrinsics is None or clip.is_known:
            continue
        camera = torch.from_numpy(clip.truth_extrinsics)
        points, _ = project(decode(torch.from_numpy(clip.truth), clip.skeleton), camera.reshape(-1, 3, 4))
        keypoints, seen = torch.from_numpy(clip.keypoints), torch.from_numpy(clip.confidence) > 0
        distances.append((keypoints - points).norm(dim=-1)[seen])
        unseen.append(~seen)
        sides = list(clip.skeleton.mirror)
        own, other = ((keypoints - p).norm(dim=-1).where(seen, 0.0).sum(-1) for p in (points, points[:, sides]))
        exchanged.append(other < 0.5 * own)
    if not distances:
        return {}
    whole = torch.cat(distances)
    whole = whole[:: max(len(whole) // 1_000_000, 1)]  # torch.quantile takes no more than 16 million
    found = {name: torch.quantile(whole, q) for name, q in (("median", 0.5), ("q90", 0.9), ("q99", 0.99))}
    found |= {"unseen": torch.cat(unseen).float().mean(), "exchanged": torch.cat(exchanged).float().mean()}
    return {name: round(float(value), 5) for name, value in found.items()}


def _seen(features: Array, extrinsics: Array, clip: Clip) -> Tensor:
    camera = torch.from_numpy(extrinsics if extrinsics.ndim == 3 else extrinsics[None])
    return to_camera(decode(torch.from_numpy(features), clip.skeleton), camera)


def replaced(clip: Clip, positions: Tensor, rule: HeadingRule) -> Clip:
    """The clip with these positions [T, J, 3], in its old canonical frame, as its teacher.

    The floor is put where the refined feet are, unless they are so far above it that they may stand on something else.
    """
    height = floor_height(positions)
    floor = positions.new_tensor((0.0, height if height < ABOVE else 0.0, 0.0))
    moved, turned, origin = canonicalise(positions - floor, clip.skeleton, rule)
    origin = origin + floor
    features = encode(moved, clip.skeleton, heading(moved, clip.skeleton, rule))
    camera = torch.from_numpy(clip.extrinsics)
    shape = camera.shape[:-2]
    extrinsics = reexpress(camera, turned.expand(shape), origin.expand(*shape, 3))
    return dataclasses.replace(clip, teacher=features.numpy(), extrinsics=extrinsics.numpy())


def _write_summary(folder: str, clips: Sequence[Clip], card: Card, shared: Shared | None) -> None:
    mean, std = mean_and_std([torch.from_numpy(clip.teacher) for clip in clips], by_name(card.skeleton))
    for name, values in (("Mean.npy", mean), ("Std.npy", std)):
        files.write_bytes(bf.join(folder, name), files.array_bytes(values.numpy()))
    if shared is None:
        return
    common = {"lengths": shared.lengths.numpy(), "mean_pose": shared.mean.numpy()}
    files.write_bytes(bf.join(folder, "skeleton.npz"), files.arrays_bytes(common))
