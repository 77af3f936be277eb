"""Evaluators on HumanML3D's features: the official one (`t2m`), and MARDM's, which reads their first 67 channels.

The first comes from its own folder, from Motius' or from an MDM checkout that has the files, the second from MARDM's
folder. FOLDER/t2m and FOLDER/mardm-67 of --evaluators may be such a checkout itself.

The networks are those of Guo et al. (CVPR 2022), built from the names and shapes of their weights. Movement encoder:
two convolutions over 4 frames with stride 2 and a linear map make a step of every 4 frames. Motion and text encoder: a
bidirectional GRU from a learned state; the last states of both directions go through a layer, a norm and another layer.
A word is its vector plus a linear map of its part of speech.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import blobfile as bf
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.rnn import pack_padded_sequence

from videomdm_ext.bench.evaluators import weights
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError
from videomdm_ext.data.files import read_array, read_bytes, stems
from videomdm_ext.data.texts import Tagger, find_tagger, read_captions
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import evaluation
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, canonicalise, heading
from videomdm_ext.motion.skeletons import SMPL22

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
    except weights.BROKEN as error:
        raise weights.unfit(place, "the evaluator's words", error) from error
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

        def embed(rows: Tensor) -> Tensor:
            seen = min((int(lengths[rows].max()) + 1) * UNIT, LONGEST)  # what the last step of the longest one sees
            padded = torch.stack([self._padded(features[row], int(lengths[row]) * UNIT, seen) for row in rows])
            return self.motion(self.movement(padded.to(self.device)), lengths[rows]).cpu()

        return longest_first(lengths, self.batch, embed)

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

        def embed(rows: Tensor) -> Tensor:
            read = [self._read(framed[row]) for row in rows]
            vectors, tags = (torch.stack(part).to(self.device) for part in zip(*read, strict=True))
            return self.text(vectors, tags, lengths[rows]).cpu()

        return longest_first(lengths, self.batch, embed)

    def _read(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word vectors [22, V] and parts of speech [22, P]; what follows the caption is the word `unk`."""
        padded = [*words, *["unk/OTHER"] * (WORDS + 2 - len(words))]
        vectors, tags = zip(*(self.words[word] for word in padded), strict=True)
        return torch.stack(vectors).float(), torch.stack(tags).float()


def longest_first(lengths: Tensor, batch: int, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """What `embed` makes of batches of rows, longest first as recurrent encoders want them, in order again. [N, W]"""
    order = lengths.argsort(descending=True, stable=True)
    return torch.cat([embed(rows) for rows in order.split(batch)])[order.argsort()]


def read_matching(trained: Path, mean: Path, std: Path, words: Path, channels: int) -> Matching:
    """The networks of these files, which read `channels` of the features, on a GPU where there is one. DatasetError."""
    state = weights.read_weights(trained, MODULES)
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
    except weights.BROKEN as error:
        raise weights.unfit(trained, f"the evaluator's weights for {channels} channels", error) from error
    vocabulary = read_vocabulary(words)
    if vocabulary.vectors.shape[1] != len(vector):
        raise weights.unfit(words, f"vectors of {len(vector)} numbers", ValueError(f"{vocabulary.vectors.shape[1]}"))
    return Matching(*networks, vocabulary, *weights.read_scales(mean, std, channels), device)


def tensors(matching: Matching) -> dict[str, Tensor]:
    """Everything that its numbers depend on but the tags of captions."""
    found = {"mean": matching.mean, "std": matching.std, "words": matching.words.vectors}
    for module, network in zip(MODULES, (matching.movement, matching.motion, matching.text), strict=True):
        found |= {f"{module}.{name}": values for name, values in network.state_dict().items()}
    return found


# -- the evaluators ----------------------------------------------------------------------------------------------------

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

    def __init__(self, matching: Matching, texts: Captions) -> None:
        self.matching, self.texts = matching, texts

    @cached_property
    def identity(self) -> str:
        heading_rule = [HUMANML3D_FILES.sigma, HUMANML3D_FILES.hips, HUMANML3D_FILES.anchored]
        known = {caption: list(words) for caption, words in self.texts.known.items()}
        settings = (heading_rule, LONGEST, self.texts.origin, known)
        rows = self.matching.words.rows
        return weights.hash_of_tensors(*settings, dict(rows), **tensors(self.matching))

    @property
    def facts(self) -> Mapping[str, float | str]:
        sha = weights.hash_of_tensors(**tensors(self.matching))
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
    matching = read_matching(found["weights"], found["mean"], found["std"], found["glove"], kind.channels)
    tagger = find_tagger()
    return kind(matching, Captions(read_tagged(clips), tagger, f"spaCy {version('spacy')}" if tagger else ""))


def check_space(ground: Ground, name: str) -> None:
    """UnavailableError unless the data set has the joints and the rate of HumanML3D."""
    if ground.card.skeleton != SMPL22.name or ground.card.fps != FPS:
        raise UnavailableError(
            f"{name}: expected motions of {SMPL22.name} at {FPS:g} fps, found {ground.card.skeleton} at "
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
