"""Refined teachers of a folder, made once for all its clips and kept beside the lifted ones.

So are two simpler kinds, for comparison: adjusted ones (bundle adjustment: the refinement without its distribution of
poses), and smoothed ones, the lifted motion filtered in time, in adjusted/ and smoothed/ in the place of refined/.

DIR/refined/LIFTER/ID.npz holds features [T, D] and extrinsics, the camera in the refined clip's own canonical frame;
the keypoints stay the detector's. skeleton.npz holds the shared bone lengths [J - 1] and mean pose [3 (J - 1)],
Mean.npy and Std.npy are those of the training split; kept.txt names the clips that keep their lifted motion; inputs.tsv
holds of each clip a hash of the files that it was made from and the energy of its solution; made.txt, written last,
holds the content hash of the clips. Where some clips have other files than when they were refined, these alone are
refined again, with what all clips shared then; DIR/index has sizes, times and hashes of what was made.

A few clips are in memory at a time, and each is written as soon as it is solved. What all clips share is estimated from
a random sample of the training clips and then held. Until the end making-HASH/ lies there: what is shared, and a file
for each batch that is done. Whoever works on the same clips, in whatever process, writes the same bytes there, so that
an interrupted making goes on, and several may work in one folder: nobody waits, and who comes last finishes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import logging
import math
import shlex
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data import files, index, schemas, seal
from videomdm_ext.data.clip import Clip, collate, crop, observed, replaced, tensor_of
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import SPLITS, Card, read_card, read_clip, read_folder, read_moments
from videomdm_ext.data.index import Clips
from videomdm_ext.data.motions import own_generator
from videomdm_ext.data.seal import name_of
from videomdm_ext.data.tasks import HERE, Call, Engine, part_of
from videomdm_ext.errors import DatasetError, StorageError, counted
from videomdm_ext.geometry.cameras import is_rotation
from videomdm_ext.motion.features import Moments, decode
from videomdm_ext.motion.kinematics import HeadingRule, smooth
from videomdm_ext.motion.skeletons import by_name
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.rays import hold
from videomdm_ext.supervision.refinement import GUARD, Progress, Shared, estimate, refine, solve, usual_energy

logger = logging.getLogger(__name__)

SAMPLE = 2048
"""Clips from which what all share is estimated."""
GROUP = 256
"""Clips that are sorted by their lengths and cut into batches of like ones; of the sample, those solved together."""
BATCH = 8
"""Clips that are solved at the same time: more have more padding, fewer more calls."""
PADDED = 2
"""Frames of a batch, padding among them, over those of its clips, at most."""
MARK, KEPT, INPUTS, MAKING, EARLIER = "made.txt", "kept.txt", "inputs.tsv", "making-", "earlier.json"
SHARED = ("lengths", "mean_pose", "whitening")
"""Arrays of skeleton.npz: the fields of `Shared`."""
FROM = ("teacher", "keypoints", "camera")
"""Kinds of a clip's files that its refined teacher is made from."""
WAY = "8"  # of making them: other ways give other teachers
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "refined": {}, "adjusted": {"pose_frames": math.inf}, "smoothed": None,
}  # fmt: skip
"""What the refinement of each kind of teachers changes, None where nothing is solved for. The more frames count as one
pose, the less poses count."""
SMOOTHED = 0.1
"""Seconds, standard deviation of the Gaussian over time."""
Batches = list[tuple[str, tuple[int, ...]]]
"""Clips that are solved at the same time: their split and their numbers in it."""


def folder_of(path: str, card: Card, kind: str = "refined") -> str:
    """Where a folder keeps the refined teachers of its lifter."""
    return bf.join(path, kind, card.lifter)


def is_made(path: str, card: Card, kind: str = "refined") -> bool:
    """Whether they are there, whole, and of the clips as they are now."""
    mark = bf.join(folder_of(path, card, kind), MARK)
    return bool(bf.exists(mark)) and files.read_text(mark, errors="replace").strip() == identity(card)


def identity(card: Card) -> str:
    """Of the refined teachers that this version makes: the content of their clips, and the way of making them."""
    return f"{card.content_hash} {WAY}"


def teachers_of(card: Card) -> str:
    """The same on every machine: which data set's, and the way of making them."""
    return f"{name_of(card)} {WAY}"


def verify(path: str, card: Card, *, thorough: bool = False, kind: str = "refined") -> None:
    """Raise DatasetError, which names them, where refined teachers were changed since they were made.

    Contents are read where sizes or times are others than then, all of them with `thorough`.
    """
    if not is_made(path, card, kind):
        return
    table = _table(path, card, kind, identity(card), [i for ids in seal.members_of(path).values() for i in ids])
    rows = table.read()
    if rows is None:  # an earlier version made them
        table.write(table.states(), map(table.digest, range(len(table.names))))
    elif found := table.changed(rows, thorough):
        raise DatasetError(
            f"{path}: expected the {kind} teachers that were made, found others: {seal.some(found)}. Put them back, or "
            f"make them again: videomdm data refine {shlex.quote(path)} --kind {kind}."
        )


def _table(path: str, card: Card, kind: str, made: str, ids: Sequence[str]) -> seal.Table:
    """Of what was made from these clips; `made` is what made.txt holds."""
    names = [f"{kind}/{card.lifter}/{name}" for name in ("Mean.npy", "Std.npy", KEPT, *(f"{i}.npz" for i in ids))]
    listed = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return seal.Table(path, f"{index.FOLDER}/{kind}-{card.lifter}.bin", f"{made} {listed}", names)


def make_refined(
    path: str,
    card: Card,
    progress: Progress | None = None,
    *,
    engine: Engine = HERE,
    share: tuple[int, int] = (1, 1),
    batch: int = BATCH,
    device: str = "cpu",
    thorough: bool = False,
    kind: str = "refined",
) -> int:
    """Refine the teachers of all splits, or go on with that; nothing where they are made. -> batches that are missing

    The training clips alone estimate what is shared, and no truth is read. Motion that is known as it is stays as it
    is. With `share` (i, n) the i-th of n parts is refined, and whoever ends last finishes the whole; `batch` clips are
    solved at the same time. Where `is_made` and nothing was changed since, nothing is done; DatasetError where files of
    the set itself were changed. With `thorough` all contents are read for that.
    """
    seal.verify(path, card, thorough=thorough)
    changes = KINDS[kind]
    config = None if changes is None else dataclasses.replace(refinement.Refinement(), **changes)
    making = _Making(path, identity(card), batch, device, config, kind, card)
    earlier, whole = making.earlier(thorough=thorough)
    if making.is_made and whole:
        making.clear()
        return 0
    files.check_writable(making.folder)
    mark = bf.join(making.folder, MARK)
    _earlier.cache_clear()
    if earlier:
        making.keep(earlier)
    if bf.exists(mark):  # an earlier version's must not vouch for a half of this one
        bf.remove(mark)
    try:
        missing = _make(making, engine, share, progress or (lambda done, total: None))
    except (DatasetError, StorageError):
        if not making.is_made:
            raise
        missing = 1
    if missing and making.is_made:  # by another process, which has cleared away what this one would read
        making.clear()
        return 0
    return missing


def _make(making: "_Making", engine: Engine, share: tuple[int, int], progress: Progress) -> int:
    splits = [split for split in SPLITS if making.card.counts.get(split)]
    batches = [one for split in splits for one in making.batches(split, range(making.card.counts[split]))]
    split, sample = next(((split, found) for split in splits if (found := making.sample(split))), ("train", []))
    groups = [making.batches(split, sample[at : at + GROUP]) for at in range(0, len(sample), GROUP)]
    own = part_of(batches, share)
    at = (share[0] - 1) * len(groups) // share[1]  # others begin elsewhere; each does what nobody has done
    done, total = 0, len(sample) + sum(len(numbers) for _, numbers in own)

    def work(function: Callable[..., int], calls: Mapping[str, Call]) -> None:
        nonlocal done
        for count in engine.run(function, calls, making.path, device=making.device != "cpu"):
            done += count
            progress(done, total)

    steps = (
        (lambda share: progress(int(done + len(sample) / len(groups) * share), total))
        if engine.is_here(len(groups))
        else None
    )
    if groups and not bf.exists(making.place("shared.npz")):
        order = [*range(at, len(groups)), *range(at)]
        work(making.estimate, {f"group {number}": (number, groups[number], steps) for number in order})
        making.pool(groups)
    done = len(sample)
    work(making.refine, {f"clip {one[1][0]} of {one[0]} and others": one for one in own})
    missing = sum(not bf.exists(making.mark(*one)) for one in batches)
    if not missing:
        making.finish(batches, split, sample)
    return missing


@dataclass(frozen=True)
class _Making:
    """What a process has to know to work on a folder."""

    path: str
    identity: str
    batch: int
    device: str
    config: refinement.Refinement | None
    kind: str
    card: Card = field(compare=False)

    @property
    def folder(self) -> str:
        return folder_of(self.path, self.card, self.kind)

    @property
    def is_made(self) -> bool:
        return is_made(self.path, self.card, self.kind)

    def place(self, name: str) -> str:
        """Of what is needed until the end only."""
        content, way = self.identity.split()
        return bf.join(self.folder, f"{MAKING}{content[:16]}-{way}", name)

    def mark(self, split: str, numbers: Sequence[int]) -> str:
        """Where the energies of a batch are once its clips are all written."""
        return self.place(f"{split}-{numbers[0]}-{self.batch}.json")

    def write(self, path: str, arrays: Mapping[str, Array] | bytes, *, durable: bool = False) -> None:
        """Also while another process writes the same."""
        content = arrays if isinstance(arrays, bytes) else files.arrays_bytes(arrays)
        files.write_bytes(path, content, beside=self.place(uuid.uuid4().hex), durable=durable)

    def batches(self, split: str, numbers: Sequence[int]) -> Batches:
        """Clips of a split in groups, each sorted by length and cut into batches of like ones: no batch has more than
        PADDED times the frames of its clips, as one long clip among short ones would make it."""
        entries, found = _clips(self, split).entries, Batches()
        for group in (numbers[at : at + GROUP] for at in range(0, len(numbers), GROUP)):
            some, frames = list[int](), 0
            for number in sorted(group, key=lambda number: entries[number].frames):
                longest = entries[number].frames
                if some and (len(some) == self.batch or (len(some) + 1) * longest > PADDED * (frames + longest)):
                    found.append((split, tuple(some)))
                    some, frames = [], 0
                some.append(number)
                frames += longest
            found.append((split, tuple(some)))
        return found

    def read(self, split: str, numbers: Sequence[int]) -> list[Clip]:
        clips = _clips(self, split)
        return [clips.read(clips.entries[number]) for number in numbers]

    # -- what an earlier making left -----------------------------------------------------------------------------------

    @property
    def head(self) -> str:
        """First line of inputs.tsv: what refined teachers depend on beside the clips' files."""
        return schemas.text_of([WAY, self.card.skeleton, self.card.fps, dataclasses.asdict(self.card.heading)])

    def earlier(self, *, thorough: bool) -> tuple[dict[str, float | None], bool]:
        """Clips that need not be refined again, with their energies (None of known motion); whether none has to be.

        They were made from the files that they have now, are as they were made, and did not come out unlikely. None are
        returned where those are fewer than half: what all clips share is then estimated anew.
        """
        mark, place = bf.join(self.folder, MARK), bf.join(self.folder, INPUTS)
        if not (bf.exists(mark) and bf.exists(place)):
            return {}, True
        head, *lines = files.read_text(place).splitlines()
        rows = [line.split("\t") for line in lines]
        made = files.read_text(mark, errors="replace").strip()
        table = _table(self.path, self.card, self.kind, made, [row[0] for row in rows])
        known = table.read()
        if head != self.head or known is None:
            return {}, head == self.head
        changed = {name.rpartition("/")[2].removesuffix(".npz") for name in table.changed(known, thorough)}
        now = dict(seal.clip_digests(self.path, self.card, FROM))
        found = {i: float(e) if e else None for i, digest, e in rows if now.get(i) == digest and i not in changed}
        if len(found) == len(now) == len(rows) and not changed:
            return found, True
        for clip_id in files.read_text(bf.join(self.folder, KEPT)).split():  # the usual energy may be another now
            found.pop(clip_id, None)
        found = found if 2 * len(found) > len(now) else {}
        again = [clip_id for clip_id in now if clip_id not in found]
        logger.warning("%s: refining %d of %d clips again (%s)", self.path, len(again), len(now), seal.some(again))
        return found, False

    def keep(self, earlier: Mapping[str, float | None]) -> None:
        """Take over these clips, and what all clips shared when they were made."""
        self.write(self.place("shared.npz"), files.read_bytes(bf.join(self.folder, "skeleton.npz")))
        self.write(self.place(EARLIER), schemas.text_of(earlier).encode())

    # -- what all share ------------------------------------------------------------------------------------------------

    def sample(self, split: str) -> list[int]:
        """Numbers of random clips that a camera saw; none where nothing is shared."""
        if self.config is None:
            return []
        entries = _clips(self, split).entries
        order = torch.randperm(len(entries), generator=own_generator("refined", split)).tolist()
        return list(itertools.islice((number for number in order if not entries[number].is_known), SAMPLE))

    def estimate(self, number: int, batches: Batches, progress: Callable[[float], None] | None) -> int:
        """What a group of clips share, solved together; started again, it goes on with a round. -> their number"""
        place, rounds = self.place(f"{number}.npz"), self.place(f"{number}-{self.batch}.pt")
        assert self.config is not None
        total = self.config.total
        if not bf.exists(place):
            steps = itertools.count(1)

            def keep(state: dict[str, Any]) -> None:
                content = io.BytesIO()
                torch.save(state, content)
                self.write(rounds, content.getvalue())

            shared = estimate(
                [_taken(self.read(*one), self.device) for one in batches],
                by_name(self.card.skeleton),
                config=self.config,
                count=lambda: progress(next(steps) / total) if progress else None,
                begun=files.read_tensors(rounds) if bf.exists(rounds) else None,
                keep=keep,
            )
            self._write_shared(place, shared)
        return sum(len(numbers) for _, numbers in batches)

    def pool(self, groups: Sequence[Batches]) -> None:
        """shared.npz: what all groups share, from what each of them does."""
        counts = [sum(_clips(self, s).entries[n].frames for s, numbers in group for n in numbers) for group in groups]
        found = [(frames, self._shared(f"{number}.npz")) for number, frames in enumerate(counts)]
        self._write_shared(self.place("shared.npz"), found[0][1] if len(found) == 1 else Shared.pooled(found))

    def _write_shared(self, place: str, shared: Shared) -> None:
        values = zip(SHARED, (shared.lengths, shared.mean, shared.whitening), strict=True)
        self.write(place, {name: value.cpu().numpy() for name, value in values})

    def _shared(self, name: str = "shared.npz", device: str = "cpu") -> Shared:
        arrays = files.read_arrays(self.place(name), needed=SHARED)
        return Shared(*(torch.from_numpy(arrays[name]).to(device) for name in SHARED))

    # -- clips ---------------------------------------------------------------------------------------------------------

    def refine(self, split: str, numbers: tuple[int, ...]) -> int:
        """Solve and write these clips unless that is done. -> their number"""
        mark = self.mark(split, numbers)
        if not bf.exists(mark):
            earlier, entries = _earlier(self), _clips(self, split).entries
            found = {entries[number].id: earlier.get(entries[number].id) for number in numbers}
            energies = {clip_id: energy for clip_id, energy in found.items() if energy is not None}
            clips = self.read(split, [number for number in numbers if entries[number].id not in earlier])
            seen = [clip for clip in clips if not clip.is_known]
            if seen:
                positions, energy = self._solved(seen)
                energies |= dict(zip((clip.id for clip in seen), energy.tolist(), strict=True))
                moved = zip(seen, positions.cpu(), strict=True)
                seen = [replaced(clip, place[: clip.length], self.card.heading) for clip, place in moved]
            for clip in (*(clip for clip in clips if clip.is_known), *seen):
                self._write_clip(clip)
            self.write(mark, schemas.text_of(energies).encode())
        return len(numbers)

    def _solved(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Positions [B, T, J, 3] of clips of like length, and their energies [B]."""
        lifted, seen = _taken(clips, self.device)
        if self.config is not None:
            return solve(lifted, seen, clips[0].skeleton, self._shared(device=self.device), config=self.config)
        held = hold(lifted.flatten(2), seen.valid)
        return smooth(held, SMOOTHED * self.card.fps).unflatten(-1, (-1, 3)), torch.zeros(len(clips))

    def _write_clip(self, clip: Clip) -> None:
        arrays = {"features": clip.teacher, "extrinsics": clip.extrinsics}
        self.write(bf.join(self.folder, f"{clip.id}.npz"), arrays)

    def finish(self, batches: Batches, split: str, sample: Sequence[int]) -> None:
        """Once all clips are written: the lifted motion of unlikely ones, statistics, and the mark."""
        entries, energies = _clips(self, split).entries, dict[str, float]()
        for one in batches:
            found = files.read_json(self.mark(*one), "energies")
            energies |= {clip_id: math.nan if energy is None else energy for clip_id, energy in found.items()}
        limit = GUARD * usual_energy(torch.tensor([energies.get(entries[n].id, math.nan) for n in sample]))
        kept = sorted(clip_id for clip_id, energy in energies.items() if not energy < limit)
        for clip_id in kept:
            self._write_clip(read_clip(self.path, self.card, clip_id))
        moments = Moments(by_name(self.card.skeleton))
        for entry in _clips(self, "train").entries:
            arrays = files.read_arrays(bf.join(self.folder, f"{entry.id}.npz"), needed=("features",))
            moments.add(torch.from_numpy(arrays["features"]))
        for name, values in zip(("Mean.npy", "Std.npy"), moments.mean_and_std(), strict=True):
            self.write(bf.join(self.folder, name), files.array_bytes(values.numpy()))
        if sample:
            self.write(bf.join(self.folder, "skeleton.npz"), files.read_bytes(self.place("shared.npz")))
        self.write(bf.join(self.folder, KEPT), "".join(f"{name}\n" for name in kept).encode(), durable=True)
        if kept:
            found = counted(len(kept), "clip")
            logger.warning("kept the lifted motion of %s that came out unlikely: %s/%s", found, self.folder, KEPT)
        if identity(read_card(self.path)) != self.identity:
            raise DatasetError(
                f"{self.path}: expected the clips that were there when their refinement began, found others. Start it "
                "again."
            )
        made = dict(seal.clip_digests(self.path, self.card, FROM))
        lines = [self.head, *(f"{clip_id}\t{digest}\t{energies.get(clip_id, '')}" for clip_id, digest in made.items())]
        self.write(bf.join(self.folder, INPUTS), "".join(f"{line}\n" for line in lines).encode(), durable=True)
        table = _table(self.path, self.card, self.kind, self.identity, list(made))
        table.write(table.states(), map(table.digest, range(len(table.names))))
        self.write(bf.join(self.folder, MARK), f"{self.identity}\n".encode(), durable=True)
        self.clear()

    def clear(self) -> None:
        """Away with what is needed until the end only, of earlier makings too."""
        for name in bf.listdir(self.folder):
            if name.startswith(MAKING):
                with contextlib.suppress(OSError):  # another process may be clearing away too
                    bf.rmtree(bf.join(self.folder, name))


@functools.lru_cache(maxsize=4)
def _earlier(making: _Making) -> dict[str, float | None]:
    """Clips that an earlier making did, with their energies."""
    place = making.place(EARLIER)
    return dict(files.read_json(place, "energies")) if bf.exists(place) else {}


@functools.lru_cache(maxsize=4)
def _clips(making: _Making, split: str) -> Clips:
    return read_folder(making.path, split, fixed=True)[1]


def _taken(clips: Sequence[Clip], device: str) -> tuple[Tensor, Observation]:
    """Lifted positions [B, T, J, 3] of clips, as long as the longest, and what the cameras saw."""
    found = collate([crop(clip, 0, clip.length) for clip in clips], length=max(clip.length for clip in clips))
    batch = {name: None if value is None else value.to(device) for name, value in found.items()}
    return decode(tensor_of(batch, "teacher"), clips[0].skeleton), observed(batch)


def refine_clips(
    clips: Sequence[Clip], rule: HeadingRule, shared: Shared | None = None, progress: Progress | None = None
) -> tuple[list[Clip], Shared]:
    """Clips with refined teachers, each in its own canonical frame, and what they share; unlikely ones as they were."""
    lifted, seen = _taken(clips, "cpu")
    positions, shared = refine(lifted, seen, clips[0].skeleton, shared=shared, progress=progress)
    refined = []
    for clip, before, after in zip(clips, lifted, positions, strict=True):
        same = torch.equal(before[: clip.length], after[: clip.length])
        refined.append(clip if same else replaced(clip, after[: clip.length], rule))
    return refined, shared


def read_refined(
    path: str, card: Card, clips: Sequence[Clip], kind: str = "refined"
) -> tuple[Clips, tuple[Array, Array]]:
    """The clips with their refined teachers, read as they are used, in the place of the lifted ones, and the refined
    Mean and Std [D]."""
    folder = folder_of(path, card, kind)

    def refined(clip: Clip) -> Clip:
        arrays = files.read_arrays(bf.join(folder, f"{clip.id}.npz"), needed=("features", "extrinsics"))
        made = dataclasses.replace(clip, teacher=arrays["features"], extrinsics=arrays["extrinsics"])
        alike = made.teacher.shape == clip.teacher.shape and made.extrinsics.shape == clip.extrinsics.shape
        if not (alike and np.isfinite(made.teacher).all() and is_rotation(torch.from_numpy(made.extrinsics)).all()):
            raise DatasetError(
                f"{folder}: expected {clip.id} as {list(clip.teacher.shape)} finite features with a camera, found "
                f"{list(made.teacher.shape)} or no finite ones. Remove that folder; it is made again."
            )
        return made

    return Clips.of(clips).map(refined), read_moments(folder, by_name(card.skeleton).num_features)
