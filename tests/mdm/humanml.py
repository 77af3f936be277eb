"""A small HumanML3D of bundled motion, and the other files that MDM reads relative to its own folder."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.features import channels, encode
from videomdm_ext.motion.skeletons import SMPL22

WORDS = {"a": "DET", "person": "NOUN", "walk": "VERB", "jump": "VERB", "dance": "VERB", "run": "VERB"}
WORDS |= {"forward": "ADV", "backward": "ADV", "slowly": "ADV", "quickly": "ADV", "left": "ADJ", "then": "ADV"}
TAGS = 15
"""Width of MDM's one-hot part-of-speech tags."""
VECTOR = 300
"""Width of a GloVe vector."""


def write_humanml(
    root: Path, *, train: int, test: int, frames: tuple[int, int] = (40, 60), glove: bool = False, parts: bool = False
) -> None:
    """Write root/dataset/HumanML3D with this many clips; `root` is the folder that MDM's programs are started from.

    Lengths are drawn from `frames`, both ends included. With `parts`, every second clip also has a caption of its
    first 40 frames, which MDM makes a clip of its own. `glove` adds random vectors.
    """
    folder = root / "dataset" / "HumanML3D"
    for name in ("new_joint_vecs", "texts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    clips = make_clips(train + test, frames, draw)
    names = [f"{number:06d}" for number in range(len(clips))]
    for number, (name, clip) in enumerate(zip(names, clips, strict=True)):
        np.save(folder / "new_joint_vecs" / f"{name}.npy", clip)
        part = parts and number % 2 == 0
        (folder / "texts" / f"{name}.txt").write_text(captions(draw, part=part), encoding="utf-8")
    for split, members in {"train": names[:train], "test": names[train:], "val": names[train:], "all": names}.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in members), encoding="utf-8")
    write_scales(folder, clips)
    if glove:
        write_glove(root)


def make_clips(number: int, frames: tuple[int, int], draw: np.random.Generator) -> list[np.ndarray]:
    """-> raw features [T, 263] of bundled motions, cut at random, played to and fro, resized a little."""
    motions = [motion.positions for motion in load_motions()]
    clips = []
    for position in range(number):
        source = motions[position % len(motions)]
        length = int(draw.integers(frames[0], frames[1] + 1))
        fro = np.abs((np.arange(length + 1) + draw.integers(len(source))) % (2 * len(source) - 2) - len(source) + 1)
        positions = torch.from_numpy(source[fro] * np.float32(draw.uniform(0.95, 1.05)))
        clips.append(encode(positions, SMPL22)[:-1].numpy())
    return clips


def captions(draw: np.random.Generator, *, part: bool) -> str:
    """-> three lines as in HumanML3D: caption, tagged words, and from when to when it holds (0 and 0: everywhere)."""
    spans = ["0.0#0.0", "0.0#0.0", "0.0#2.0" if part else "0.0#0.0"]
    lines = []
    for span in spans:
        chosen = ["a", "person", *draw.choice(list(WORDS)[2:], size=3, replace=False)]
        lines.append(f"{' '.join(chosen)}.#{' '.join(f'{word}/{WORDS[word]}' for word in chosen)}#{span}\n")
    return "".join(lines)


def write_scales(folder: Path, clips: Sequence[np.ndarray]) -> None:
    """Write Mean.npy and Std.npy; channels of one kind share a deviation, as in HumanML3D's own."""
    stacked = np.concatenate(clips)
    std = stacked.std(0)
    for part in vars(channels(SMPL22)).values():
        std[part] = max(float(std[part].mean()), 1e-3)
    np.save(folder / "Mean.npy", stacked.mean(0))
    np.save(folder / "Std.npy", std)


def write_glove(root: Path) -> None:
    """Write root/glove with a random vector for each word of the captions."""
    folder = root / "glove"
    folder.mkdir(exist_ok=True)
    words = ["unk", "sos", "eos", *WORDS]
    vectors = np.random.default_rng(0).standard_normal((len(words), VECTOR))
    np.save(folder / "our_vab_data.npy", vectors)
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(words))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps({word: row for row, word in enumerate(words)}))


def write_evaluator(root: Path) -> None:
    """Write the weights of the text-motion evaluator, random ones: what it measures then means nothing."""
    path = root / "t2m" / "text_mot_match" / "model" / "finest.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = nn.Sequential(
            nn.Conv1d(259, 512, 4), *map(nn.Dropout, (0, 0)), nn.Conv1d(512, 512, 4), nn.Dropout(0)
        )
        movement = nn.ModuleDict({"main": convolutions, "out_net": nn.Linear(512, 512)})
        parts = {"movement_encoder": movement, "text_encoder": recurrent(VECTOR, 512), "motion_encoder": recurrent(512)}
        parts["text_encoder"]["pos_emb"] = nn.Linear(TAGS, VECTOR)
        torch.save({**{name: part.state_dict() for name, part in parts.items()}, "epoch": 0}, path)


def recurrent(width: int, hidden: int = 1024) -> nn.ModuleDict:
    """-> modules with the names and shapes of the evaluator's recurrent encoders, `width` in and 512 out."""
    head = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.Identity(), nn.Linear(hidden, 512))
    gru = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
    encoder = nn.ModuleDict({"input_emb": nn.Linear(width, hidden), "gru": gru, "output_net": head})
    encoder.register_parameter("hidden", nn.Parameter(torch.randn(2, 1, hidden)))
    return encoder
