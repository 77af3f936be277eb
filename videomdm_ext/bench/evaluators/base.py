"""What an evaluator is: a space for motions, perhaps for captions too, with a hash that says which one it is.

An evaluator is registered as a function that makes it (hook `register_evaluators`): `make(ground) -> Evaluator`. What
has to be trained or loaded is trained or loaded there; `UnavailableError` says why it cannot be had here, and the
report then does without it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from videomdm_ext.data.card import Card
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.mdm.checkout import Checkout

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`."""


class UnavailableError(VideoMDMError):
    """An evaluator that cannot be made here: it names what was looked for, and what to do to get it."""


@dataclass(frozen=True)
class Ground:
    """What an evaluator may be made from: a data set folder with its card, a place for what is trained once.

    `checkout` is the MDM checkout whose own files may be used, `text_features` the name of the features a text space
    is to be built on.
    """

    clips: str
    card: Card
    cache: Path
    text_features: str = "words"
    checkout: Checkout | None = None
    progress: Progress = field(default=lambda what, done, total: None)


class Evaluator(ABC):
    """A space of motions [N, D], one row a clip (`per_clip`) or a frame, and of captions where it has a text side."""

    name: ClassVar[str]
    per_clip: ClassVar[bool] = True
    comparable: ClassVar[str]
    """What its numbers may be set beside, in one sentence."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hex SHA-256 of weights and settings: equal identities give equal numbers."""

    @property
    def distrust(self) -> str:
        """Why nothing may be ranked by it, or an empty text."""
        return ""

    @property
    def facts(self) -> Mapping[str, float | str]:
        """What a report says of it, such as its own retrieval quality."""
        return {}

    @abstractmethod
    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        """Positions [T, J, 3] each, m, y up, without padding. -> [N, D], a row a clip, or a row a frame."""

    def captions(self, captions: Sequence[str]) -> Tensor | None:
        """-> [N, D] in the same space, or None where it has no text side."""
        return None
