"""The text-motion matching networks of Guo et al. (CVPR 2022), built from the names and shapes of their weights.

Movement encoder: two convolutions over 4 frames with stride 2 and a linear map make a step of every 4 frames. Motion
and text encoder: a bidirectional GRU from a learned state; the last states of both directions go through a layer, a
norm and another layer. A word is its vector plus a linear map of its part of speech.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.rnn import pack_padded_sequence

from videomdm_ext.bench.evaluators.weights import BROKEN, read_scales, read_weights, unfit
from videomdm_ext.data.files import read_array, read_bytes

FPS = 20.0
"""Frames a second of HumanML3D."""
LONGEST = 196
"""Frames; what is longer is cut, and shorter motions have zeros behind."""
UNIT = 4
"""Frames of one step of the motion encoder; lengths are rounded down to it."""
WORDS = 20
"""Words of a caption that are read; the start and the end come on top."""
SLOPE = 0.2
MODULES = ("movement_encoder", "motion_encoder", "text_encoder")


class Movement(nn.Module):
    """[B, T, C] -> [B, T // 4, W]"""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.main = nn.ModuleDict({"0": nn.Conv1d(channels, hidden, 4, 2, 1), "3": nn.Conv1d(hidden, out, 4, 2, 1)})
        self.out_net = nn.Linear(out, out)

    def forward(self, motions: Tensor) -> Tensor:
        found = motions.transpose(1, 2)
        for convolution in self.main.values():
            found = leaky_relu(convolution(found), SLOPE)
        return self.out_net(found.transpose(1, 2))


class Recurrent(nn.Module):
    """Steps [B, S, C], the first `lengths` [B] of each row, longest first. -> [B, W]"""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.input_emb = nn.Linear(channels, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
        self.hidden = nn.Parameter(torch.randn(2, 1, hidden))
        head = {"0": nn.Linear(2 * hidden, hidden), "1": nn.LayerNorm(hidden), "3": nn.Linear(hidden, out)}
        self.output_net = nn.ModuleDict(head)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.input_emb(steps), lengths.cpu(), batch_first=True)
        _, last = self.gru(packed, self.hidden.repeat(1, len(steps), 1))
        layer, norm, final = self.output_net.values()
        return final(leaky_relu(norm(layer(torch.cat((last[0], last[1]), -1))), SLOPE))


class Text(Recurrent):
    """Word vectors [B, S, V] and parts of speech [B, S, P]. -> [B, W]"""

    def __init__(self, tags: int, vector: int, hidden: int, out: int) -> None:
        super().__init__(vector, hidden, out)
        self.pos_emb = nn.Linear(tags, vector)

    def forward(self, vectors: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(vectors + self.pos_emb(tags), lengths)


# -- words -------------------------------------------------------------------------------------------------------------

TAGS = ("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV")
TOPICS = {
    "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up down straight curve",
    "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
    "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
    "Act_VIP": "walk run swing pick bring kick put squat throw hop dance jump turn stumble stop sit lift lower raise "
    "wash stand kneel stroll rub bend balance flap jog shuffle lean rotate spin spread climb",
    "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily sadly",
}
"""Words that have a tag of their own in place of their part of speech."""
PLACES = {tag: place for place, tag in enumerate((*TAGS, *TOPICS, "OTHER"))}
TOPIC = {word: tag for tag, words in TOPICS.items() for word in words.split()}


class Plain(pickle.Unpickler):
    """Reads lists, dictionaries, texts and numbers; nothing that a pickle may name is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is never loaded")


@dataclass(frozen=True)
class Vocabulary:
    """Word vectors [N, V], and the row of each word."""

    vectors: Tensor
    rows: Mapping[str, int]

    def __getitem__(self, item: str) -> tuple[Tensor, Tensor]:
        """Vector [V] and part of speech [15] of `word/TAG`; a word that is not known is `unk`, of no part."""
        word, _, tag = item.partition("/")
        known = word in self.rows
        tags = torch.zeros(len(PLACES))
        tags[PLACES.get(TOPIC.get(word, tag), PLACES["OTHER"]) if known else PLACES["OTHER"]] = 1.0
        return self.vectors[self.rows[word if known else "unk"]], tags


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vectors our_vab_data.npy of the words of our_vab_words.pkl, by our_vab_idx.pkl. DatasetError."""
    place = folder / "our_vab_data.npy"
    try:
        vectors = torch.from_numpy(read_array(str(place)))
        words, rows = (
            Plain(BytesIO(read_bytes(str(place := folder / f"our_vab_{part}.pkl")))).load() for part in ("words", "idx")
        )
        found = Vocabulary(vectors, {word: int(rows[word]) for word in words})
        if missing := {"unk", "sos", "eos"} - found.rows.keys():
            raise LookupError(f"no word {', '.join(sorted(missing))}")
        if vectors.ndim != 2 or not all(0 <= row < len(vectors) for row in found.rows.values()):
            raise LookupError(f"rows that vectors of shape {list(vectors.shape)} do not have")
    except BROKEN as error:
        raise unfit(place, "the evaluator's words", error) from error
    return found


# -- motions and captions of any length --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """The networks, their words, and the scales [C] of the first C channels of the features, which alone are read."""

    movement: Any
    motion: Any
    text: Any
    words: Any
    mean: Tensor
    std: Tensor
    device: str = "cpu"
    batch: int = 64

    @torch.no_grad()
    def motions(self, features: Sequence[Tensor]) -> Tensor:
        """Raw features [T, >= C] each, 4 frames or more, as HumanML3D has them at 20 fps. -> [N, W] on the CPU."""
        lengths = torch.tensor([min(len(rows), LONGEST) // UNIT for rows in features])

        def encode(rows: Tensor) -> Tensor:
            seen = min((int(lengths[rows].max()) + 1) * UNIT, LONGEST)  # what the last step of the longest one sees
            padded = torch.stack([self._padded(features[row], int(lengths[row]) * UNIT, seen) for row in rows])
            return self.motion(self.movement(padded.to(self.device)), lengths[rows]).cpu()

        return longest_first(lengths, self.batch, encode)

    def _padded(self, features: Tensor, frames: int, padded_to: int) -> Tensor:
        """z-scored, [padded_to, C], zeros after `frames`."""
        padded = torch.zeros(padded_to, len(self.mean))
        padded[:frames] = (features[:frames, : len(self.mean)].float() - self.mean) / self.std
        return padded

    @torch.no_grad()
    def captions(self, tokens: Sequence[Sequence[str]]) -> Tensor:
        """Words with their part of speech, `word/TAG`, of each caption. -> [N, W] on the CPU."""
        framed = [["sos/OTHER", *words[:WORDS], "eos/OTHER"] for words in tokens]
        lengths = torch.tensor([len(words) for words in framed])

        def encode(rows: Tensor) -> Tensor:
            read = [self._read(framed[row]) for row in rows]
            vectors, tags = (torch.stack(part).to(self.device) for part in zip(*read, strict=True))
            return self.text(vectors, tags, lengths[rows]).cpu()

        return longest_first(lengths, self.batch, encode)

    def _read(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word vectors [22, V] and parts of speech [22, P]; what follows the caption is the word `unk`."""
        padded = [*words, *["unk/OTHER"] * (WORDS + 2 - len(words))]
        vectors, tags = zip(*(self.words[word] for word in padded), strict=True)
        return torch.stack(vectors).float(), torch.stack(tags).float()


def longest_first(lengths: Tensor, batch: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """What `encode` makes of batches of rows, longest first as recurrent encoders want them, in order again. [N, W]"""
    order = lengths.argsort(descending=True, stable=True)
    return torch.cat([encode(rows) for rows in order.split(batch)])[order.argsort()]


def load(weights: Path, mean: Path, std: Path, words: Path, channels: int) -> Matching:
    """The networks of these files, which read `channels` of the features, on a GPU where there is one. DatasetError."""
    state = read_weights(weights, MODULES)
    parts: dict[str, dict[str, Tensor]] = {module: {} for module in MODULES}
    for name, values in state.items():
        module, _, parameter = name.partition(".")
        parts[module][parameter] = values
    movement, motion, text = parts.values()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        convolution, vector = movement["main.0.weight"], text["pos_emb.weight"]
        if convolution.shape[1] != channels or vector.shape[1] != len(PLACES):
            raise ValueError(f"weights for {convolution.shape[1]} channels and {vector.shape[1]} parts of speech")
        networks = (
            Movement(channels, len(convolution), len(movement["out_net.weight"])),
            Recurrent(
                motion["input_emb.weight"].shape[1], motion["hidden"].shape[-1], len(motion["output_net.3.bias"])
            ),
            Text(len(PLACES), len(vector), text["hidden"].shape[-1], len(text["output_net.3.bias"])),
        )
        for network, own in zip(networks, parts.values(), strict=True):
            network.load_state_dict(own)
            network.to(device).eval().requires_grad_(False)
    except BROKEN as error:
        raise unfit(weights, f"the evaluator's weights for {channels} channels", error) from error
    vocabulary = read_vocabulary(words)
    if vocabulary.vectors.shape[1] != len(vector):
        raise unfit(words, f"vectors of {len(vector)} numbers", ValueError(f"{vocabulary.vectors.shape[1]}"))
    return Matching(*networks, vocabulary, *read_scales(mean, std, channels), device)


def tensors(matching: Matching) -> dict[str, Tensor]:
    """Everything that its numbers depend on but the tags of captions."""
    found = {"mean": matching.mean, "std": matching.std, "words": matching.words.vectors}
    for module, network in zip(MODULES, (matching.movement, matching.motion, matching.text), strict=True):
        found |= {f"{module}.{name}": values for name, values in network.state_dict().items()}
    return found
