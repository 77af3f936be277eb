"""The text features of MDM's own CLIP, equal bit for bit, without encoding a text twice and without the padding.

MDM keeps 22 tokens of a caption, pads them to 77, and encodes each batch anew. The tower is causal and its feature is
read at the end token, so what follows that token cannot matter; whether the bits agree as well depends on the device
and on the shape. So each shape is examined at its first use, against MDM's own result, and a saving that does not
give the same bits is left out there.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.mdm import imports

logger = logging.getLogger(__name__)

SHORT = 24
"""Tokens that are encoded: MDM's 22, rounded up to whole vectors of 8, without which sums end in other bits."""
LIMIT = 200_000
"""Texts remembered, 2 KB each; the one longest unused is forgotten first."""
Encode = Callable[[Sequence[str]], Tensor]
"""B texts -> [1, B, C]"""


def attach() -> None:
    """Let every MDM of this process remember its CLIP features. Repeating it is harmless."""
    imports.after("model.mdm", _remember)


def _remember(module: ModuleType) -> None:
    denoiser = module.MDM
    if not hasattr(denoiser.clip_encode_text, "__wrapped__"):
        denoiser.clip_encode_text = remembering(denoiser.clip_encode_text)


def remembering(own: Callable[[Any, Sequence[str]], Tensor]) -> Callable[[Any, Sequence[str]], Tensor]:
    """The method `clip_encode_text` in place of the host's `own`."""

    @functools.wraps(own)
    def clip_encode_text(self: Any, raw_text: Sequence[str]) -> Tensor:
        if isinstance(raw_text, str) or not raw_text or not all(isinstance(text, str) for text in raw_text):
            return own(self, raw_text)
        memory = vars(self).setdefault("_videomdm_text_memory", Memory())
        return memory(functools.partial(own, self), self.clip_model, list(raw_text))

    return clip_encode_text


@dataclass
class Shelf:
    """What is known for batches of one shape: which savings are exact, and features in the rows of a table."""

    encode: Callable[[Encode, Any, Sequence[str]], Tensor]
    stable: bool
    limit: int
    rows: OrderedDict[str, int] = field(default_factory=OrderedDict)
    table: Tensor | None = None

    def store(self, texts: Sequence[str], features: Tensor) -> None:
        """Keep features [N, C], in place of the texts longest unused where the table is full."""
        for text in texts:
            free = self.rows.popitem(last=False)[1] if len(self.rows) >= self.limit else len(self.rows)
            self.rows[text] = free
        needed = max(self.rows[text] for text in texts) + 1
        if self.table is None or len(self.table) < needed:
            larger = features.new_empty(min(max(1024, 2 * needed), self.limit), features.shape[-1])
            if self.table is not None:
                larger[: len(self.table)] = self.table
            self.table = larger
        self.table[torch.tensor([self.rows[text] for text in texts], device=features.device)] = features

    def look_up(self, texts: Sequence[str]) -> Tensor:
        assert self.table is not None
        return self.table[torch.tensor([self.rows[text] for text in texts], device=self.table.device)].unsqueeze(0)


class Memory:
    """The features that one model has made. A copy of the model, whose weights may be averaged, keeps none."""

    def __init__(self, keeps: bool = True, limit: int = LIMIT) -> None:
        self.keeps, self.limit = keeps, limit
        self.shelves: dict[tuple[Any, ...], Shelf] = {}
        self.weights: tuple[Any, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Memory":
        return Memory(keeps=False, limit=self.limit)

    @torch.no_grad()
    def __call__(self, own: Encode, tower: Any, texts: list[str]) -> Tensor:
        """Features of the texts. -> [1, B, C]"""
        self._forget_if_changed(tower)
        shape = (len(texts), tower.positional_embedding.device, tower.training, torch.get_num_threads())
        shelf = self.shelves.get(shape)
        if shelf is None:
            features = own(texts)
            shelf = self.shelves[shape] = examine(own, tower, texts, features, max(self.limit, 2 * len(texts)))
            if self.keeps and shelf.stable:
                first = {text: index for index, text in enumerate(texts)}
                shelf.store(list(first), features[0, list(first.values())])
            return features
        if not (self.keeps and shelf.stable):
            return shelf.encode(own, tower, texts)
        for text in texts:
            if text in shelf.rows:
                shelf.rows.move_to_end(text)
        new = [text for text in dict.fromkeys(texts) if text not in shelf.rows]
        if new:
            padded = new + new[:1] * (len(texts) - len(new))
            shelf.store(new, shelf.encode(own, tower, padded)[0, : len(new)])
        return shelf.look_up(texts)

    def _forget_if_changed(self, tower: Any) -> None:
        """Frozen weights that were moved or loaded anew make other features."""
        weights = tuple((p._version, p.data_ptr()) for p in tower.parameters())
        if weights != self.weights:
            self.shelves.clear()
            self.weights = weights


def examine(own: Encode, tower: Any, texts: list[str], features: Tensor, limit: int) -> Shelf:
    """Which savings give `features`, the host's own, bit for bit: the short form; rows whatever their place."""
    encode = short if _equal(short, own, tower, texts, features) else plain
    turned = _equal(encode, own, tower, texts[::-1], features.flip(1))
    stable = turned and _equal(encode, own, tower, texts[:1] * len(texts), features[:, :1].expand_as(features))
    if encode is plain or not stable:
        logger.info(
            "CLIP's text features in batches of %d on %s: %s; the host's own computation is used",
            len(texts),
            features.device,
            "fewer tokens give other bits" if stable else "a text's bits depend on its place in the batch",
        )
    return Shelf(encode, stable, limit)


def _equal(
    encode: Callable[[Encode, Any, Sequence[str]], Tensor], own: Encode, tower: Any, texts: list[str], wanted: Tensor
) -> bool:
    try:
        return torch.equal(encode(own, tower, texts), wanted)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        logger.info("this CLIP cannot be asked for fewer tokens: %s", error)
        return False


def plain(own: Encode, tower: Any, texts: Sequence[str]) -> Tensor:
    """The host's own computation."""
    return own(texts)


def short(own: Encode, tower: Any, texts: Sequence[str]) -> Tensor:
    """The host's own computation with a tower that leaves out the padding."""
    with _shortened(tower):
        return own(texts)


@contextmanager
def _shortened(tower: Any) -> Iterator[None]:
    """Within, `tower.encode_text` reads SHORT tokens where every text ends before."""
    whole = tower.encode_text

    def encode_text(tokens: Tensor) -> Tensor:
        if tokens.shape[1] <= SHORT or int(tokens.argmax(dim=-1).max()) >= SHORT:
            return whole(tokens)
        return encode_tokens(tower, tokens[:, :SHORT])

    before = dict(vars(tower))
    vars(tower)["encode_text"] = encode_text
    try:
        yield
    finally:
        del vars(tower)["encode_text"]
        vars(tower).update({name: value for name, value in before.items() if name == "encode_text"})


def encode_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """CLIP's text features of tokens [B, T], T as few as there are, at the end token (the highest). -> [B, C]"""
    length, precision = tokens.shape[1], tower.dtype
    embedded = tower.token_embedding(tokens).to(precision) + tower.positional_embedding[:length].to(precision)
    states = embedded.transpose(0, 1)
    for block in tower.transformer.resblocks:
        normal = block.ln_1(states)
        mask = block.attn_mask[:length, :length].to(states)
        states = states + block.attn(normal, normal, normal, need_weights=False, attn_mask=mask)[0]
        states = states + block.mlp(block.ln_2(states))
    batch = torch.arange(tokens.shape[0], device=tokens.device)
    last = states[tokens.argmax(dim=-1), batch]
    return tower.ln_final(last).to(precision) @ tower.text_projection
