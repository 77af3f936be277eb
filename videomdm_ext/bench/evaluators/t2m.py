"""Evaluators on HumanML3D's features: the official one (`t2m`), and MARDM's, which reads their first 67 channels.

The first comes from its own folder, from Motius' or from an MDM checkout that has the files, the second from MARDM's
folder. FOLDER/t2m and FOLDER/mardm-67 of --evaluators may be such a checkout itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.bench.evaluators import guo, weights
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError
from videomdm_ext.data.files import stems
from videomdm_ext.data.texts import Tagger, find_tagger, read_captions
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import evaluation
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, canonicalise, heading
from videomdm_ext.motion.skeletons import SMPL22

UNTAGGED = "OTHER"
"""The tag of every word in data that was made without a tagger."""
NO_TAGS = "none: no parts of speech; pip install -e '.[mdm]' -c constraints.txt, and spaCy's en_core_web_sm"


@dataclass(frozen=True)
class Captions:
    """Words with parts of speech, `word/TAG`, of known captions, and a tagger for others where there is one."""

    known: Mapping[str, tuple[str, ...]]
    tagger: Tagger | None
    tagged_by: str = "spaCy"

    def words(self, caption: str) -> tuple[str, ...] | None:
        """The words of a caption, or None where their parts of speech are not known."""
        if caption in self.known:
            return self.known[caption]
        return None if self.tagger is None else tuple(f"{word}/{tag}" for word, tag in self.tagger(caption))

    @property
    def origin(self) -> str:
        """Where parts of speech come from, in words."""
        own = f"{len(self.known)} captions tagged in the data" if self.known else ""
        return " and ".join(part for part in (own, self.tagged_by if self.tagger else "") if part) or NO_TAGS


def read_tagged(clips: str) -> dict[str, tuple[str, ...]]:
    """The words of all captions in a data set folder's text files whose parts of speech are given, by caption."""
    found: dict[str, tuple[str, ...]] = {}
    folder = bf.join(clips, "texts")
    for name in stems(folder, ".txt"):
        for caption in read_captions(bf.join(folder, f"{name}.txt")):
            if any(tag != UNTAGGED for _, tag in caption.words):
                found.setdefault(caption.text, tuple(f"{word}/{tag}" for word, tag in caption.words))
    return found


class T2M(Evaluator):
    """The evaluator that the literature reports, fed with what HumanML3D's own processing makes of joint positions."""

    name: ClassVar[str] = "t2m"
    published: ClassVar[bool] = True
    comparable: ClassVar[str] = (
        "The weights are those behind published figures, the protocol is not: set published figures beside those of "
        "--protocol mdm."
    )
    channels: ClassVar[int] = 259
    """Of the features, the first ones; the contacts are not read."""

    def __init__(self, matching: guo.Matching, texts: Captions) -> None:
        self.matching, self.texts = matching, texts

    @cached_property
    def identity(self) -> str:
        heading_rule = [HUMANML3D_FILES.sigma, HUMANML3D_FILES.hips, HUMANML3D_FILES.anchored]
        known = {caption: list(words) for caption, words in self.texts.known.items()}
        settings = (heading_rule, guo.LONGEST, self.texts.origin, known)
        rows = self.matching.words.rows
        return weights.hash_of_tensors(*settings, dict(rows), **guo.tensors(self.matching))

    @property
    def facts(self) -> Mapping[str, float | str]:
        sha = weights.hash_of_tensors(**guo.tensors(self.matching))
        return {"weights": f"SHA-256 {sha[:12]}", "parts of speech": self.texts.origin}

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        """Positions [T, J, 3] each, m, y up, 4 frames or more; beyond 196 frames they are cut. -> [N, 512]"""
        return self.matching.motions([features(clip) for clip in clips])

    def captions(self, captions: Sequence[str]) -> Tensor | None:
        read = [words for caption in captions if (words := self.texts.words(caption)) is not None]
        return self.matching.captions(read) if len(read) == len(captions) else None


class Mardm(T2M):
    """MARDM's evaluator of the same networks, trained on the channels that a motion is decoded from."""

    name: ClassVar[str] = "mardm-67"
    comparable: ClassVar[str] = (
        "The weights are MARDM's, the protocol is not; its CLIP score, which needs another network, is not taken."
    )
    channels: ClassVar[int] = 67


def features(positions: Tensor) -> Tensor:
    """HumanML3D's vectors [T, 263] of positions [T, 22, 3]; the last frame repeats the differences of the one before.

    As in its files, the first frame faces +z by its own joints, and later headings are smoothed over the clip.
    """
    turned, _, _ = canonicalise(positions.double(), SMPL22)
    return encode(turned, SMPL22, heading(turned, SMPL22, HUMANML3D_FILES)).to(torch.float32)


BELOW = ("", "t2m/", "checkpoints/t2m/")
TRAINED = ("model.safetensors", *(f"{below}text_mot_match/model/finest.tar" for below in BELOW))
SCALES = {
    "t2m": ("stats/{}.npy", *(f"{below}Comp_v6_KLD005/meta/{{}}.npy" for below in BELOW), "dataset/t2m_{}.npy"),
    "mardm-67": ("stats/{}.npy", "eval_{}.npy", "utils/eval_mean_std/t2m/eval_{}.npy"),
}
"""Where Mean and Std lie below the folder of an evaluator."""


def load(kind: type[T2M], root: Path, clips: str) -> T2M:
    """The evaluator with the files below `root`; UnavailableError names those that are missing."""
    places = {"weights": TRAINED, "glove": ("glove",)}
    places |= {part: tuple(place.format(part) for place in SCALES[kind.name]) for part in ("mean", "std")}
    found = weights.located(root, kind.name, places)
    matching = guo.load(found["weights"], found["mean"], found["std"], found["glove"], kind.channels)
    tagger = find_tagger()
    return kind(matching, Captions(read_tagged(clips), tagger, f"spaCy {version('spacy')}" if tagger else ""))


def check_space(ground: Ground, name: str) -> None:
    """UnavailableError unless the data set has the joints and the rate of HumanML3D."""
    if ground.card.skeleton != SMPL22.name or ground.card.fps != guo.FPS:
        raise UnavailableError(
            f"{name}: expected motions of {SMPL22.name} at {guo.FPS:g} fps, found {ground.card.skeleton} at "
            f"{ground.card.fps:g} in {ground.clips}. It was trained on HumanML3D alone."
        )


def make(ground: Ground) -> T2M:
    """The official evaluator, of --evaluators or of the checkout; UnavailableError says how to get what is missing."""
    if ground.weights and (Path(ground.weights) / T2M.name).is_dir():
        check_space(ground, T2M.name)
        return load(T2M, weights.folder_of(ground, T2M.name), ground.clips)
    if ground.checkout is None or ground.checkout.kind != "mdm":
        raise UnavailableError(
            "t2m: expected an MDM checkout with the evaluator's files, found none. Name it: --mdm PATH, or a folder "
            "with the folder t2m: --evaluators FOLDER."
        )
    check_space(ground, T2M.name)
    if absent := evaluation.absent_files(ground.checkout.root):
        raise UnavailableError(f"t2m: {absent}")
    return load(T2M, ground.checkout.root, ground.clips)


def make_mardm(ground: Ground) -> T2M:
    """MARDM's evaluator of --evaluators; UnavailableError says what is missing."""
    check_space(ground, Mardm.name)
    return load(Mardm, weights.folder_of(ground, Mardm.name), ground.clips)


@hookimpl
def register_evaluators(register: Register) -> None:
    register(T2M.name, make)
    register(Mardm.name, make_mardm)
