"""MDM's own text-motion evaluator, by the code and the weights of a checkout, for motions and captions of any origin.

Its modules are imported under a closed door: afterwards this process has no module of the checkout that it did not
have before, so that a bench on the stand-in may use it too.
"""

import contextlib
import hashlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import remedies
from videomdm_ext.mdm.checkout import PACKAGES
from videomdm_ext.mdm.clips import swapped

FPS = 20.0
"""Frames a second of HumanML3D."""
LONGEST = 196
"""Frames; what is longer is cut, and shorter motions have zeros behind, as MDM pads them."""
UNIT = 4
"""Frames of one step of the motion encoder; lengths are rounded down to it."""
WORDS = 20
"""Words of a caption that are read; the start and the end come on top."""
WIDTH, CONTACTS = 263, 4
"""Channels of the features, and how many at the end the evaluator does not read."""
SCALES = (Path("dataset", "t2m_mean.npy"), Path("dataset", "t2m_std.npy"))
"""Mean and Std of the features that the evaluator was trained on."""
VECTORS = tuple(Path("glove") / name for name in remedies.VECTORS)
FILES = (remedies.EVALUATOR, *VECTORS, *SCALES)
ADVICE = {
    remedies.EVALUATOR: "bash prepare/download_t2m_evaluators.sh",
    **dict.fromkeys(VECTORS, "bash prepare/download_glove.sh"),
    **dict.fromkeys(SCALES, "git checkout dataset"),
}
"""What to run in the checkout for a file that is not there."""
BROKEN = (
    RuntimeError, LookupError, TypeError, ValueError, AttributeError, ImportError, OSError, EOFError, UnpicklingError,
)  # fmt: skip
"""What reading files of another content may raise."""


def problem(root: Path) -> str:
    """Which of the evaluator's files are not in the checkout, and how to get them; empty where all are there."""
    absent = [path for path in FILES if not (root / path).is_file()]
    if not absent:
        return ""
    commands = dict.fromkeys(ADVICE[path] for path in absent)
    return (
        f"{root}: expected the files of MDM's evaluator, found no {', '.join(map(str, absent))}. "
        f"Run in the checkout: {'; '.join(commands)}."
    )


def hashes(root: Path) -> dict[str, str]:
    """SHA-256 of each of the evaluator's files, by name."""
    return {path.as_posix(): hash_of(root / path) for path in FILES}


def hash_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Official:
    """The evaluator: MDM's wrapper and word vectors, and the scales [263] of its features."""

    wrapper: Any
    words: Any
    mean: Tensor
    std: Tensor
    batch: int = 64

    @torch.no_grad()
    def motions(self, features: Sequence[Tensor]) -> Tensor:
        """Raw features [T, 263] each, 4 frames or more, as HumanML3D has them at 20 fps. -> [N, 512] on the CPU."""
        lengths = torch.tensor([min(len(rows), LONGEST) // UNIT for rows in features])
        if len(lengths) and not lengths.min():
            raise HostError(
                f"the evaluator of MDM: expected {UNIT} or more frames a motion, found fewer. Leave it out."
            )
        made = []
        for rows in longest_first(lengths, self.batch):
            seen = min((int(lengths[rows].max()) + 1) * UNIT, LONGEST)  # what the last step of the longest one sees
            padded = torch.stack([self._padded(features[row], int(lengths[row]) * UNIT, seen) for row in rows])
            movement = self.wrapper.movement_encoder(padded[..., :-CONTACTS].to(self.wrapper.device))
            made.append(self.wrapper.motion_encoder(movement, lengths[rows]).cpu())
        return in_order(made, lengths, self.batch)

    def _padded(self, features: Tensor, frames: int, padded_to: int) -> Tensor:
        """z-scored, [padded_to, 263], zeros after `frames`."""
        padded = torch.zeros(padded_to, WIDTH)
        padded[:frames] = (features[:frames].float() - self.mean) / self.std
        return padded

    @torch.no_grad()
    def captions(self, tokens: Sequence[Sequence[str]]) -> Tensor:
        """Words with their part of speech, `word/TAG`, of each caption. -> [N, 512] on the CPU."""
        framed = [["sos/OTHER", *words[:WORDS], "eos/OTHER"] for words in tokens]
        lengths = torch.tensor([len(words) for words in framed])
        made = []
        for rows in longest_first(lengths, self.batch):
            read = [self._read(framed[row]) for row in rows]
            vectors, tags = (torch.stack(part).to(self.wrapper.device) for part in zip(*read, strict=True))
            made.append(self.wrapper.text_encoder(vectors, tags, lengths[rows]).cpu())
        return in_order(made, lengths, self.batch)

    def _read(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word vectors [22, 300] and parts of speech [22, 15]; what follows the caption is the word `unk`."""
        padded = [*words, *["unk/OTHER"] * (WORDS + 2 - len(words))]
        vectors, tags = zip(*(self.words[word] for word in padded), strict=True)
        return torch.from_numpy(np.stack(vectors)).float(), torch.from_numpy(np.stack(tags)).float()


def longest_first(lengths: Tensor, batch: int) -> list[Tensor]:
    """Rows in batches, longest first, as the recurrent encoders want them; equal lengths keep their order."""
    return list(lengths.argsort(descending=True, stable=True).split(batch)) if len(lengths) else []


def in_order(made: Sequence[Tensor], lengths: Tensor, batch: int) -> Tensor:
    """What was made of these batches, in the order of `lengths` again."""
    if not made:
        return torch.zeros(0, 512)
    return torch.cat(list(made))[torch.cat(longest_first(lengths, batch)).argsort()]


def load(root: Path) -> Official:
    """The evaluator of the checkout at `root`, on a GPU where there is one; HostError for files that do not serve."""
    absent = problem(root)
    if absent:
        raise HostError(absent)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    reading = remedies.EVALUATOR
    try:
        wrapper, vectorizer = _networks(root, device)
        reading = VECTORS[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
            words = vectorizer(str(root / reading.parent), "our_vab")
        reading = SCALES[0]
        mean, std = (read_scale(root / path) for path in SCALES)
    except BROKEN as error:
        said = next(iter(str(error).splitlines()), "")
        raise HostError(
            f"{root / reading}: expected the files of MDM's evaluator, found others ({type(error).__name__}: {said}). "
            f"Get them again, in the checkout: {ADVICE[reading]}."
        ) from error
    return Official(wrapper, words, mean, std)


def _networks(root: Path, device: torch.device) -> tuple[Any, Any]:
    """MDM's wrapper with its weights, and its class of word vectors."""
    with borrowed(root):
        module = importlib.import_module("data_loaders.humanml.networks.evaluator_wrapper")
        vectorizer = importlib.import_module("data_loaders.humanml.utils.word_vectorizer").WordVectorizer
    remedies.old_checkpoints(module)
    build = module.build_evaluators
    pointed = swapped(module, build_evaluators=lambda opt: build({**opt, "checkpoints_dir": str(root)}))
    with pointed, contextlib.redirect_stdout(io.StringIO()):
        return module.EvaluatorMDMWrapper("humanml", device), vectorizer


def read_scale(path: Path) -> Tensor:
    """Mean or Std [263]; ValueError for anything else."""
    values = torch.from_numpy(np.load(path)).float()
    if values.shape != (WIDTH,):
        raise ValueError(f"{path.name} of shape {list(values.shape)}, not [{WIDTH}]")
    return values


@contextlib.contextmanager
def borrowed(root: Path) -> Iterator[None]:
    """MDM's packages are those below `root` inside, and afterwards what they were before."""

    def ours() -> dict[str, Any]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES}

    before, path = ours(), list(sys.path)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path
