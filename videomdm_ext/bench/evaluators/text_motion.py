"""The evaluator `text-motion`: a small contrastive space of motions and captions, trained on the true training clips.

It is trained once a data set, in about a minute on one core, and kept in the cache as plain arrays. Its own retrieval
of held-out true motions is part of every report; where that is near chance, nothing is ranked by it.
"""

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import (
    Evaluator,
    Ground,
    TrueMotion,
    UnavailableError,
    read_true,
    training_truth,
)
from videomdm_ext.bench.evaluators.retrieval import Retrieval, retrieve
from videomdm_ext.bench.evaluators.text_motion_training import Settings, TextMotion, frame_features, new_model, train
from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import hook, text
from videomdm_ext.mdm.text import TextEncoder
from videomdm_ext.motion.skeletons import Skeleton, by_name

logger = logging.getLogger(__name__)

NAME = "text-motion"
VERSION = 1
"""To be raised with every change that changes numbers."""
MOST_TRAINED = 8192
"""Training clips that are read, at most; the ones with the lowest hashes of their ids."""
MOST_ASKED = 512
"""Clips on which the retrieval quality is measured, at most."""
CHUNK = 64
"""Clips that are embedded at once."""


class TextMotionEvaluator(Evaluator):
    """Unit vectors of clips and of captions; the same motion elsewhere, or turned, has the same vector."""

    name = NAME
    comparable = "Only numbers of this data set by the same weights (see the hash); never published ones."

    def __init__(
        self, model: TextMotion, encoder: TextEncoder, skeleton: Skeleton, fps: float, settings: Settings
    ) -> None:
        self.model, self.encoder, self.skeleton, self.fps, self.settings = model, encoder, skeleton, fps, settings
        self.on_training: Retrieval | None = None
        self.on_held_out: Retrieval | None = None

    @cached_property
    def _identity(self) -> str:
        content = hashlib.sha256(described(self.settings, self.encoder.name, self.skeleton, self.fps).encode())
        for name, values in sorted(self.model.state_dict().items()):
            content.update(f"{name}\0{list(values.shape)}\0".encode())
            content.update(values.numpy().tobytes())
        return content.hexdigest()

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def distrust(self) -> str:
        if self.on_held_out is None:
            return "no true motion is held out on which its retrieval could be judged"
        return self.on_held_out.distrust()

    @property
    def facts(self) -> Mapping[str, float | str]:
        found_facts: dict[str, float | str] = {"text features": self.encoder.name}
        for where, found in (("held-out", self.on_held_out), ("training", self.on_training)):
            found_facts |= found.facts(where) if found else {}
        return found_facts

    @torch.no_grad()
    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        if not math.isclose(fps, self.fps, rel_tol=1e-3):
            raise DatasetError(
                f"{NAME}: expected motions at {self.fps:g} fps, found {fps:g}. Resample them to the data set's."
            )
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        rows = torch.empty(len(clips), self.settings.out)
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            rows[chosen] = self._embed([clips[index] for index in chosen])
        return rows

    def _embed(self, clips: Sequence[Tensor]) -> Tensor:
        features = [frame_features(clip.float(), self.skeleton, self.fps) for clip in clips]
        lengths = torch.tensor([len(part) for part in features])
        return self.model.motion(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        made: Tensor = self.model.text(self.encoder(captions))
        return made

    def judge(self, training: Sequence[TrueMotion], held_out: Sequence[TrueMotion]) -> None:
        """Measure the retrieval of true motions; the held-out ones decide about trust."""
        found = [retrieve(part, self._own, self.captions) if part else None for part in (training, held_out)]
        self.on_training, self.on_held_out = found

    def _own(self, clips: Sequence[Tensor]) -> Tensor:
        return self.motions(clips, self.fps)


def make(ground: Ground, settings: Settings | None = None) -> TextMotionEvaluator:
    """From the cache, or trained on the true training clips and put there."""
    settings, skeleton, fps = settings or Settings(), by_name(ground.card.skeleton), ground.card.fps
    encoder = find_encoder(ground.text_features)
    facts = described(settings, encoder.name, skeleton, fps)
    key = hashlib.sha256(f"{facts}/{ground.card.content_hash}".encode()).hexdigest()[:16]
    path = str(ground.cache / f"{NAME}-{key}.npz")
    model = _kept(path, new_model(skeleton, settings)) if (ground.cache / f"{NAME}-{key}.npz").exists() else None
    if model is None:
        motions = training_truth(ground, MOST_TRAINED, NAME)
        _check_captions(ground, motions)
        model = train(motions, skeleton, fps, encoder, settings, ground.progress)
        files.write_bytes(path, files.arrays_bytes({k: v.numpy() for k, v in model.state_dict().items()}))
    evaluator = TextMotionEvaluator(model, encoder, skeleton, fps, settings)
    evaluator.judge(read_true(ground, ("train",), MOST_ASKED), read_true(ground, ("val", "test"), MOST_ASKED))
    return evaluator


def described(settings: Settings, text_features: str, skeleton: Skeleton, fps: float) -> str:
    """Everything but the data and the weights that numbers depend on, as a text."""
    return json.dumps([NAME, VERSION, dataclasses.asdict(settings), text_features, skeleton.name, fps], sort_keys=True)


def find_encoder(name: str) -> TextEncoder:
    """The text features of that name, ready to use; UnavailableError where they cannot be had, or are the host's."""
    try:
        found = None if name == text.HOST else text.load(hook.manager(), name)
    except ConfigError as error:
        raise UnavailableError(f"evaluator {NAME}: {error}") from error
    if found is None:
        raise UnavailableError(
            f"text features {name!r}: expected some that need no host for the evaluator {NAME}. "
            f"Choose --text-features {' or '.join(text.OURS)}."
        )
    return found


def _kept(path: str, model: TextMotion) -> TextMotion | None:
    """The model with the weights of the file; None, and a warning, where it holds none that fit."""
    try:
        arrays = files.read_arrays(path, needed=tuple(model.state_dict()))
        weights = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if not all(bool(values.isfinite().all()) for values in weights.values()):
            raise DatasetError(f"{path}: expected finite weights, found others.")
        model.load_state_dict(weights)
    except (DatasetError, RuntimeError) as error:
        logger.warning(
            "%s does not hold the weights of the evaluator %s, which is trained again: %s", path, NAME, error
        )
        return None
    return model.eval().requires_grad_(False)


def _check_captions(ground: Ground, motions: Sequence[TrueMotion]) -> None:
    """UnavailableError unless there are different captions."""
    if len({motion.texts for motion in motions}) < 2:
        raise UnavailableError(
            f"{ground.clips}: expected training clips with at least 2 different captions for the evaluator {NAME}, "
            "found one. Write captions that differ from clip to clip, or compare without it."
        )


@hookimpl
def register_evaluators(register: Register) -> None:
    register(NAME, make)
