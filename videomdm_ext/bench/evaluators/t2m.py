"""The official text-motion evaluator of HumanML3D (`t2m`), through an MDM checkout that has its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError
from videomdm_ext.data.files import stems
from videomdm_ext.data.texts import Tagger, find_tagger, read_captions
from videomdm_ext.errors import ConfigError
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
    per_clip: ClassVar[bool] = True
    comparable: ClassVar[str] = (
        "The weights are those behind published figures, the protocol is not: set published figures beside those of "
        "--protocol mdm."
    )

    def __init__(self, evaluator: evaluation.Official, texts: Captions, hashes: Mapping[str, str]) -> None:
        self.evaluator, self.texts, self.hashes = evaluator, texts, hashes

    @property
    def identity(self) -> str:
        settings: dict[str, Any] = {
            "files": dict(self.hashes),
            "heading": [HUMANML3D_FILES.sigma, HUMANML3D_FILES.hips, HUMANML3D_FILES.anchored],
            "frames": evaluation.LONGEST,
            "captions": [self.texts.origin, dict(self.texts.known)],
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def facts(self) -> Mapping[str, float | str]:
        weights = next(iter(self.hashes.items()))
        return {weights[0]: f"SHA-256 {weights[1][:12]}", "parts of speech": self.texts.origin}

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        """Positions [T, J, 3] each, m, y up, 4 frames or more; beyond 196 frames they are cut. -> [N, 512]"""
        if fps != evaluation.FPS:
            raise ConfigError(
                f"t2m: expected motions of {evaluation.FPS:g} fps, found {fps:g}. Leave this evaluator out."
            )
        return self.evaluator.motions([features(clip) for clip in clips])

    def captions(self, captions: Sequence[str]) -> Tensor | None:
        words = {caption: self.texts.words(caption) for caption in dict.fromkeys(captions)}
        read = [tagged for caption in captions if (tagged := words[caption]) is not None]
        return self.evaluator.captions(read) if len(read) == len(captions) else None


def features(positions: Tensor) -> Tensor:
    """HumanML3D's vectors [T, 263] of positions [T, 22, 3]; the last frame repeats the differences of the one before.

    As in its files, the first frame faces +z by its own joints, and later headings are smoothed over the clip.
    """
    turned, _, _ = canonicalise(positions.double(), SMPL22)
    return encode(turned, SMPL22, heading(turned, SMPL22, HUMANML3D_FILES)).to(torch.float32)


def make(ground: Ground) -> T2M:
    """The evaluator for this data; UnavailableError names what is missing and how to get it."""
    if ground.checkout is None or ground.checkout.kind != "mdm":
        raise UnavailableError(
            "t2m: expected an MDM checkout with the evaluator's files, found none. Name it: --mdm PATH."
        )
    if ground.card.skeleton != SMPL22.name or ground.card.fps != evaluation.FPS:
        raise UnavailableError(
            f"t2m: expected motions of {SMPL22.name} at {evaluation.FPS:g} fps, found {ground.card.skeleton} at "
            f"{ground.card.fps:g} in {ground.clips}. It was trained on HumanML3D alone."
        )
    root = ground.checkout.root
    absent = evaluation.absent_files(root)
    if absent:
        raise UnavailableError(f"t2m: {absent}")
    tagger = find_tagger()
    texts = Captions(read_tagged(ground.clips), tagger, f"spaCy {version('spacy')}" if tagger else "")
    return T2M(evaluation.load(root), texts, evaluation.hashes(root))


@hookimpl
def register_evaluators(register: Register) -> None:
    """Offer this evaluator under its name."""
    register(T2M.name, make)
