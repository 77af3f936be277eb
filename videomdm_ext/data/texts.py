"""Text files in HumanML3D's format: one caption a line, `caption#word/TAG word/TAG#0.0#0.0`."""

import re
from collections.abc import Callable, Sequence

from videomdm_ext.errors import DatasetError

Tagger = Callable[[str], Sequence[tuple[str, str]]]
"""Words of a caption with their part of speech, as HumanML3D's files have them."""


def caption_tokens(caption: str, tagger: Tagger | None = None) -> str:
    """The second field of HumanML3D's lines, `word/TAG word/TAG`."""
    return " ".join(f"{word}/{tag}" for word, tag in (tagger or untagged)(caption))


def untagged(caption: str) -> list[tuple[str, str]]:
    """Words of a caption in small letters, all with the tag OTHER: for machines without a tagger."""
    return [(word, "OTHER") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", caption.lower())]


def parse_texts(content: str, place: str) -> tuple[str, ...]:
    """Captions of a text file; lines about a part of the clip are refused, an importer cuts them out."""
    captions = []
    for number, line in enumerate(content.splitlines(), start=1):
        fields = line.strip().split("#")
        if not line.strip():
            continue
        if len(fields) != 4 or any(re.fullmatch(r"nan|-?0*\.?0*", part.strip()) is None for part in fields[2:]):
            raise DatasetError(
                f"{place}: line {number}: expected caption#word/TAG ...#0.0#0.0, found {line.strip()[:60]!r}. "
                "Write it so; a caption of a part of the clip needs a clip of its own."
            )
        captions.append(fields[0].strip())
    return tuple(captions)
