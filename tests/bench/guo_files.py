"""Files of the evaluator of Guo et al. with narrow random weights, in each layout that is published."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

TAGS, VECTOR, WIDTH = 15, 6, 8
WORDS = ("sos", "eos", "unk", "walk", "slowly", "zigzag")


def weights(channels: int, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """-> weights with the names of the official ones: W channels everywhere but in the words and the features."""
    draw = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) / 2

    def layer(name: str, out: int, *shape: int) -> dict[str, Tensor]:
        return {f"{name}.weight": some(out, *shape), f"{name}.bias": some(out)}

    def recurrent(inputs: int) -> dict[str, Tensor]:
        found = {**layer("input_emb", WIDTH, inputs), "hidden": some(2, 1, WIDTH)}
        for end in ("l0", "l0_reverse"):
            found |= {f"gru.weight_{part}_{end}": some(3 * WIDTH, WIDTH) for part in ("ih", "hh")}
            found |= {f"gru.bias_{part}_{end}": some(3 * WIDTH) for part in ("ih", "hh")}
        head = {**layer("output_net.0", WIDTH, 2 * WIDTH), **layer("output_net.1", WIDTH)}
        return {**found, **head, **layer("output_net.3", WIDTH, WIDTH)}

    movement = {**layer("main.0", WIDTH, channels, 4), **layer("main.3", WIDTH, WIDTH, 4)}
    return {
        "movement_encoder": {**movement, **layer("out_net", WIDTH, WIDTH)},
        "text_encoder": {**recurrent(VECTOR), **layer("pos_emb", VECTOR, TAGS)},
        "motion_encoder": recurrent(WIDTH),
    }


def write_official(root: Path, below: str, means: str, channels: int, read: int) -> None:
    """Write a checkpoint with what training leaves beside the weights, scales at `means`, and glove."""
    place = root / below / "text_mot_match" / "model" / "finest.tar"
    place.parent.mkdir(parents=True)
    beside = {"epoch": 3, "iter": np.int64(7), "opt_text_encoder": {"state": {}, "param_groups": [{"lr": 1e-4}]}}
    torch.save({**weights(read), **beside}, place)
    for part, values in scales(channels).items():
        (root / means.format(part)).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / means.format(part), values.numpy())
    write_words(root)


def write_hub(root: Path, channels: int, read: int) -> None:
    """Write model.safetensors, stats, glove, and a manifest with the hashes of all."""
    (root / "stats").mkdir(parents=True)
    flat = {f"{module}.{name}": values for module, own in weights(read).items() for name, values in own.items()}
    save_file(flat, root / "model.safetensors", metadata={"format": "pt"})
    for part, values in scales(channels).items():
        np.save(root / "stats" / f"{part}.npy", values.numpy())
    write_words(root)
    write_manifest(root)


def write_manifest(root: Path) -> None:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    listed = [
        {"path": path.relative_to(root).as_posix(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in files
    ]
    (root / "artifact_manifest.json").write_text(json.dumps({"format_version": 1, "files": listed}))


def write_words(root: Path) -> None:
    folder = root / "glove"
    folder.mkdir(parents=True)
    np.save(folder / "our_vab_data.npy", vectors().numpy())
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(list(WORDS)))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps({word: row for row, word in enumerate(WORDS)}))


def vectors() -> Tensor:
    return torch.randn(len(WORDS), VECTOR, generator=torch.Generator().manual_seed(5))


def scales(channels: int) -> dict[str, Tensor]:
    return {"mean": torch.linspace(-1, 1, channels), "std": torch.linspace(0.5, 2, channels)}
